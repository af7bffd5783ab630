"""The vector instructions that numba cannot be trusted to emit, and nothing else.

A *vector* is as wide as the CPU's registers (64, 32 or 16 bytes) and holds ``lanes`` numbers. A *tile* is a run of
``len(width)`` vectors, consecutive samples of one feature. The loops below hold a tile in registers while they sweep
the edges of one row, so that an edge costs one load for each fused multiply-add. A plain numba loop over a local array
spills it to memory at every edge, and runs at half the speed.

``width`` is a tuple: its length, a part of its type, tells the compiler the number of vectors. Arrays are
one-dimensional; offsets count elements. Nothing is checked.
"""

import platform
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
X86 = platform.machine().lower() in ("x86_64", "amd64")


def _vector_bytes() -> int:
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()


def lanes(dtype: Any) -> int:
    """Numbers of ``dtype`` in one vector register of this CPU."""
    return VECTOR_BYTES // int(np.dtype(dtype).itemsize)


class _Emit:
    """Emits LLVM instructions on vectors of one element type at the builder's position."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.context, self.builder = context, builder
        self.scalar = context.get_value_type(dtype)
        self.suffix = "f32" if dtype is types.float32 else "f64"
        self.size = 4 if dtype is types.float32 else 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def data(self, signature: Any, args: Any, i: int) -> Any:
        return self.context.make_array(signature.args[i])(self.context, self.builder, args[i]).data

    def at(self, base: Any, offset: Any) -> Any:
        return self.builder.gep(base, [offset])

    def _pointer(self, base: Any, i: int) -> Any:
        step = self.builder.gep(base, [ir.Constant(I64, i * self.lanes)])
        return self.builder.bitcast(step, self.vector.as_pointer())

    def load(self, base: Any, i: int = 0) -> Any:
        return self.builder.load(self._pointer(base, i), align=self.size)

    def store(self, vector: Any, base: Any, i: int = 0) -> None:
        self.builder.store(vector, self._pointer(base, i), align=self.size)

    def splat(self, scalar: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.shuffle(first, undefined, [0] * self.lanes)

    def shuffle(self, a: Any, b: Any, order: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(order)), order))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.lanes}{self.suffix}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), [a, b, c])

    def sum(self, vector: Any) -> Any:
        kind = ir.FunctionType(self.scalar, [self.scalar, self.vector])
        name = f"llvm.vector.reduce.fadd.v{self.lanes}{self.suffix}"
        reduce = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(reduce, [ir.Constant(self.scalar, 0.0), vector], fastmath=("reassoc",))

    def index(self, base: Any, k: Any) -> Any:
        value = self.builder.load(self.builder.gep(base, [k]))
        return value if value.type == I64 else self.builder.sext(value, I64)

    def loop(self, start: Any, stop: Any, carried: list[Any], body: Any) -> list[Any]:
        """for k in range(start, stop): carried = body(k, carried); the carried vectors stay in registers."""
        b = self.builder
        before, head, after = b.block, b.append_basic_block("edge"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed("<", start, stop), head, after)
        b.position_at_end(head)
        k = b.phi(I64)
        k.add_incoming(start, before)
        phis = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phis.append(phi)
        new = body(k, phis)
        following = b.add(k, ir.Constant(I64, 1))
        end = b.block
        k.add_incoming(following, end)
        for phi, value in zip(phis, new, strict=True):
            phi.add_incoming(value, end)
        b.cbranch(b.icmp_signed("<", following, stop), head, after)
        b.position_at_end(after)
        result = []
        for value, final in zip(carried, new, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phi.add_incoming(final, end)
            result.append(phi)
        return result


@intrinsic
def axpy_segment(typing: Any, y: Any, at_y: Any, col: Any, values: Any, start: Any, stop: Any, panel: Any, at_panel: Any, width: Any) -> Any:
    """y[at_y : +tile] += sum of values[k] * panel[at_panel + col[k]*tile : +tile] over start <= k < stop"""
    signature = types.void(y, at_y, col, values, start, stop, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emit(context, builder, y.dtype)
        y_data, col_data, values_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 6))
        here, source = emit.at(y_data, args[1]), emit.at(panel_data, args[7])
        tile = ir.Constant(I64, width.count * emit.lanes)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            weight = emit.splat(builder.load(emit.at(values_data, k)))
            x = emit.at(source, builder.mul(emit.index(col_data, k), tile))
            return [emit.fma(weight, emit.load(x, i), s) for i, s in enumerate(sums)]

        sums = [emit.load(here, i) for i in range(width.count)]
        for i, s in enumerate(emit.loop(args[4], args[5], sums, body)):
            emit.store(s, here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot_segment(typing: Any, a: Any, at_a: Any, col: Any, out: Any, start: Any, stop: Any, panel: Any, at_panel: Any, width: Any) -> Any:
    """out[k] += a[at_a : +tile] . panel[at_panel + col[k]*tile : +tile] for start <= k < stop"""
    signature = types.void(a, at_a, col, out, start, stop, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emit(context, builder, a.dtype)
        a_data, col_data, out_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 6))
        here, source = emit.at(a_data, args[1]), emit.at(panel_data, args[7])
        tile = ir.Constant(I64, width.count * emit.lanes)
        held = [emit.load(here, i) for i in range(width.count)]

        def body(k: Any, _: list[Any]) -> list[Any]:
            b = emit.at(source, builder.mul(emit.index(col_data, k), tile))
            dots = [emit.zero] * min(2, width.count)
            for i, vector in enumerate(held):
                dots[i % 2] = emit.fma(vector, emit.load(b, i), dots[i % 2])
            total = builder.fadd(dots[0], dots[1]) if len(dots) > 1 else dots[0]
            place = emit.at(out_data, k)
            builder.store(builder.fadd(builder.load(place), emit.sum(total)), place)
            return []

        emit.loop(args[4], args[5], [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def backward_segment(
    typing: Any, dx: Any, at_dx: Any, x: Any, at_x: Any, row: Any, perm: Any, values: Any, grad: Any, start: Any, stop: Any,
    panel: Any, at_panel: Any, width: Any,
) -> Any:
    """One load of dy serves both products: with dy = panel[at_panel + row[k]*tile : +tile] and e = perm[k],
    dx[at_dx : +tile] += values[e] * dy and grad[e] += x[at_x : +tile] . dy for start <= k < stop"""
    signature = types.void(dx, at_dx, x, at_x, row, perm, values, grad, start, stop, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emit(context, builder, x.dtype)
        dx_data, x_data, row_data, perm_data, values_data, grad_data, panel_data = (
            emit.data(signature, args, i) for i in (0, 2, 4, 5, 6, 7, 10)
        )
        here, source = emit.at(dx_data, args[1]), emit.at(panel_data, args[11])
        held = [emit.load(emit.at(x_data, args[3]), i) for i in range(width.count)]
        tile = ir.Constant(I64, width.count * emit.lanes)

        def body(k: Any, sums: list[Any]) -> list[Any]:
            edge = emit.index(perm_data, k)
            weight = emit.splat(builder.load(emit.at(values_data, edge)))
            dy = emit.at(source, builder.mul(emit.index(row_data, k), tile))
            dots = [emit.zero] * min(2, width.count)
            new = []
            for i, s in enumerate(sums):
                vector = emit.load(dy, i)
                new.append(emit.fma(weight, vector, s))
                dots[i % 2] = emit.fma(vector, held[i], dots[i % 2])
            total = builder.fadd(dots[0], dots[1]) if len(dots) > 1 else dots[0]
            place = emit.at(grad_data, edge)
            builder.store(builder.fadd(builder.load(place), emit.sum(total)), place)
            return new

        sums = [emit.load(here, i) for i in range(width.count)]
        for i, s in enumerate(emit.loop(args[8], args[9], sums, body)):
            emit.store(s, here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fill_tile(typing: Any, y: Any, at_y: Any, value: Any, width: Any) -> Any:
    """y[at_y : +tile] = value"""
    signature = types.void(y, at_y, value, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emit(context, builder, y.dtype)
        here, vector = emit.at(emit.data(signature, args, 0), args[1]), emit.splat(args[2])
        for i in range(width.count):
            emit.store(vector, here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_tile(typing: Any, x: Any, at_x: Any, y: Any, at_y: Any, width: Any) -> Any:
    """y[at_y : +tile] = x[at_x : +tile]"""
    signature = types.void(x, at_x, y, at_y, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emit(context, builder, y.dtype)
        source, here = emit.at(emit.data(signature, args, 0), args[1]), emit.at(emit.data(signature, args, 2), args[3])
        for i in range(width.count):
            emit.store(emit.load(source, i), here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_block(typing: Any, source: Any, at_source: Any, source_stride: Any, out: Any, at_out: Any, out_stride: Any) -> Any:
    """out[at_out + j*out_stride + i] = source[at_source + i*source_stride + j] for i, j < lanes, in registers:
    log2(lanes) rounds, each of which exchanges blocks of half the size between two rows."""
    signature = types.void(source, at_source, source_stride, out, at_out, out_stride)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emit(context, builder, source.dtype)
        n = emit.lanes
        here = emit.at(emit.data(signature, args, 0), args[1])
        there = emit.at(emit.data(signature, args, 3), args[4])
        rows = [emit.load(emit.at(here, builder.mul(args[2], ir.Constant(I64, i)))) for i in range(n)]
        half = n // 2
        while half:
            new = list(rows)
            for i in range(n):
                if not i & half:
                    low = [j if not j & half else n + j - half for j in range(n)]
                    high = [j + half if not j & half else n + j for j in range(n)]
                    new[i] = emit.shuffle(rows[i], rows[i + half], low)
                    new[i + half] = emit.shuffle(rows[i], rows[i + half], high)
            rows, half = new, half // 2
        for j, row in enumerate(rows):
            emit.store(row, emit.at(there, builder.mul(args[5], ir.Constant(I64, j))))
        return context.get_dummy_value()

    return signature, codegen


def _control_word(builder: Any, name: str, slot: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer()])
    call = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(call, [builder.bitcast(slot, I8.as_pointer())])


@intrinsic
def flush_subnormals(typing: Any) -> Any:
    """Treat numbers below the normal range as zero on this thread, and return the mode to restore.

    x86 only: there a subnormal operand can cost a hundred cycles. Elsewhere nothing changes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not X86:
            return ir.Constant(I32, 0)
        slot = cgutils.alloca_once(builder, I32)
        _control_word(builder, "llvm.x86.sse.stmxcsr", slot)
        old = builder.load(slot)
        builder.store(builder.or_(old, ir.Constant(I32, 0x8040)), slot)  # flush to zero, and denormals are zero
        _control_word(builder, "llvm.x86.sse.ldmxcsr", slot)
        return old

    return types.int32(), codegen


@intrinsic
def restore_subnormals(typing: Any, mode: Any) -> Any:
    """Undo flush_subnormals."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if X86:
            slot = cgutils.alloca_once(builder, I32)
            builder.store(args[0], slot)
            _control_word(builder, "llvm.x86.sse.ldmxcsr", slot)
        return context.get_dummy_value()

    return types.void(mode), codegen
