"""The loops that numba cannot be trusted to compile well, and nothing else.

A *vector* is as wide as the CPU's registers (64, 32 or 16 bytes) and holds ``lanes`` numbers. A *tile* is a run of
``len(width)`` vectors, consecutive samples of one feature. The loops below hold a tile in registers while they sweep
the edges of one row, so that an edge costs one load for each fused multiply-add. A plain numba loop over a local array
spills it to memory at every edge, and runs at half the speed.

``width`` is a tuple: its length, a part of its type, tells the compiler the number of vectors. Arrays are
one-dimensional; offsets count elements. Nothing is checked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .half_vectors import Operand
from .vectors import I32, I64, Emit

GATHERED = 8  # edges of a step where samples are gathered


def add_runs(emit: Emit, here: Any, values: Any, first: Any, last: Any, run_of: Any, vectors: int) -> None:
    """here[: vectors] += sum of values[k] * run_of(k)[: vectors] over first <= k < last, the sums in registers"""

    def body(k: Any, sums: list[Any]) -> list[Any]:
        weight, run = emit.splat(emit.builder.load(emit.at(values, k))), run_of(k)
        return [emit.fma(weight, emit.load(run, i), s) for i, s in enumerate(sums)]

    sums = [emit.load(here, i) for i in range(vectors)]
    for i, s in enumerate(emit.loop(first, last, sums, body)):
        emit.store(s, here, i)


def both_products(
    emit: Emit, here: Any, x: Any, weights: Any, grads: Any, first: Any, last: Any, run_of: Any, vectors: int
) -> None:
    """One load of a run serves both: here += weights[k] * run_of(k) and grads[k] += x . run_of(k) for first <= k < last"""
    held = [emit.load(x, i) for i in range(vectors)]

    def body(edges: list[Any], held_sums: list[Any]) -> list[Any]:
        sums, dots = list(held_sums), []
        for k in edges:
            weight = emit.splat(emit.builder.load(emit.at(weights, k)))
            run, dot = run_of(k), emit.zero
            for i in range(vectors):
                vector = emit.load(run, i)
                sums[i] = emit.fma(weight, vector, sums[i])
                dot = emit.fma(vector, held[i], dot)
            dots.append(dot)
        emit.add_to(emit.at(grads, edges[0]), emit.sums(dots))
        return sums

    sums = [emit.load(here, i) for i in range(vectors)]
    for i, s in enumerate(emit.edges(first, last, sums, body)):
        emit.store(s, here, i)


@intrinsic
def axpy_segment(typing: Any, y: Any, at_y: Any, col: Any, values: Any, start: Any, stop: Any, panel: Any, at_panel: Any, width: Any) -> Any:
    """y[at_y : +tile] += sum of values[k] * panel[at_panel + col[k]*tile : +tile] over start <= k < stop"""
    signature = types.void(y, at_y, col, values, start, stop, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, y.dtype)
        y_data, col_data, values_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 6))
        here, source = emit.at(y_data, args[1]), emit.at(panel_data, args[7])
        tile = ir.Constant(I64, width.count * emit.lanes)

        def run_of(k: Any) -> Any:
            return emit.at(source, builder.mul(emit.index(col_data, k), tile))

        add_runs(emit, here, values_data, args[4], args[5], run_of, width.count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot_segment(
    typing: Any, a: Any, at_a: Any, col: Any, out: Any, at_out: Any, start: Any, stop: Any, panel: Any, at_panel: Any, width: Any
) -> Any:
    """out[at_out + k] += a[at_a : +tile] . panel[at_panel + col[k]*tile : +tile] for start <= k < stop"""
    signature = types.void(a, at_a, col, out, at_out, start, stop, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, a.dtype)
        a_data, col_data, out_data, panel_data = (emit.data(signature, args, i) for i in (0, 2, 3, 7))
        here, source = emit.at(a_data, args[1]), emit.at(panel_data, args[8])
        tile = ir.Constant(I64, width.count * emit.lanes)
        held = [emit.load(here, i) for i in range(width.count)]

        def body(edges: list[Any], _: list[Any]) -> list[Any]:
            dots = []
            for k in edges:
                b, dot = emit.at(source, builder.mul(emit.index(col_data, k), tile)), emit.zero
                for i, vector in enumerate(held):
                    dot = emit.fma(vector, emit.load(b, i), dot)
                dots.append(dot)
            emit.add_to(emit.at(emit.at(out_data, args[4]), edges[0]), emit.sums(dots))
            return []

        emit.edges(args[5], args[6], [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def backward_segment(
    typing: Any, dx: Any, at_dx: Any, x: Any, at_x: Any, row: Any, weights: Any, at_weights: Any, grads: Any, at_grads: Any, start: Any, stop: Any,
    panel: Any, at_panel: Any, width: Any,
) -> Any:
    """One load of dy serves both products: with dy = panel[at_panel + row[k]*tile : +tile],
    dx[at_dx : +tile] += weights[at_weights + k] * dy and grads[at_grads + k] += x[at_x : +tile] . dy for start <= k < stop"""
    signature = types.void(dx, at_dx, x, at_x, row, weights, at_weights, grads, at_grads, start, stop, panel, at_panel, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, x.dtype)
        dx_data, x_data, row_data, weights_data, grads_data, panel_data = (
            emit.data(signature, args, i) for i in (0, 2, 4, 5, 7, 11)
        )
        here, source = emit.at(dx_data, args[1]), emit.at(panel_data, args[12])
        tile = ir.Constant(I64, width.count * emit.lanes)

        def run_of(k: Any) -> Any:
            return emit.at(source, builder.mul(emit.index(row_data, k), tile))

        weights, grads = emit.at(weights_data, args[6]), emit.at(grads_data, args[8])
        both_products(emit, here, emit.at(x_data, args[3]), weights, grads, args[9], args[10], run_of, width.count)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_sums(typing: Any, panel: Any, at_panel: Any, features: Any, out: Any, at_out: Any, width: Any) -> Any:
    """out[at_out + f] += sum of panel[at_panel + f*tile : +tile] for f < features"""
    signature = types.void(panel, at_panel, features, out, at_out, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, panel.dtype)
        source, there = emit.at(emit.data(signature, args, 0), args[1]), emit.at(emit.data(signature, args, 3), args[4])
        tile = ir.Constant(I64, width.count * emit.lanes)

        def body(features: list[Any], _: list[Any]) -> list[Any]:
            totals = []
            for f in features:
                x = emit.at(source, builder.mul(f, tile))
                total = emit.load(x)
                for i in range(1, width.count):
                    total = builder.fadd(total, emit.load(x, i))
                totals.append(total)
            emit.add_to(emit.at(there, features[0]), emit.sums(totals))
            return []

        emit.edges(ir.Constant(I64, 0), args[2], [], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def gather_dot(typing: Any, values: Any, col: Any, samples: Any, at: Any, start: Any, stop: Any) -> Any:
    """sum of values[k] * samples[at + col[k]] over start <= k < stop. Loads are what it waits for: eight values come with
    one, and two columns of 32 bits."""
    signature = values.dtype(values, col, samples, at, start, stop)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, values.dtype, GATHERED)
        values_data, col_data, samples_data = (emit.data(signature, args, i) for i in range(3))
        sample = emit.at(samples_data, args[3])
        whole = builder.add(args[4], builder.and_(builder.sub(args[5], args[4]), ir.Constant(I64, -GATHERED)))

        def eight(k: Any, sums: list[Any]) -> list[Any]:
            x = ir.Constant(emit.vector, ir.Undefined)
            for i, place in enumerate(emit.indices(col_data, k)):
                x = builder.insert_element(x, builder.load(emit.at(sample, place)), ir.Constant(I32, i))
            return [emit.fma(emit.load(emit.at(values_data, k)), x, sums[0])]

        def one(k: Any, sums: list[Any]) -> list[Any]:
            x = builder.load(emit.at(sample, emit.index(col_data, k)))
            product = builder.fmul(builder.load(emit.at(values_data, k)), x, flags=("contract",))
            return [builder.fadd(sums[0], product, flags=("contract",))]

        total = emit.sum(emit.loop(args[4], whole, [emit.zero], eight, GATHERED)[0])
        return emit.loop(whole, args[5], [total], one)[0]

    return signature, codegen


@intrinsic
def fill_tile(typing: Any, y: Any, at_y: Any, value: Any, width: Any) -> Any:
    """y[at_y : +tile] = value"""
    signature = types.void(y, at_y, value, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, y.dtype)
        here, vector = emit.at(emit.data(signature, args, 0), args[1]), emit.splat(args[2])
        for i in range(width.count):
            emit.store(vector, here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def copy_tile(typing: Any, x: Any, at_x: Any, y: Any, at_y: Any, width: Any) -> Any:
    """y[at_y : +tile] = x[at_x : +tile]; one of both may be in half precision"""
    signature = types.void(x, at_x, y, at_y, width)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of_x, of_y = Operand(context, builder, x.dtype), Operand(context, builder, y.dtype)
        source, here = of_x.at(of_x.data(signature, args, 0), args[1]), of_y.at(of_y.data(signature, args, 2), args[3])
        for i in range(width.count):
            of_y.store(of_x.load(source, i), here, i)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def transpose_block(typing: Any, source: Any, at_source: Any, source_stride: Any, out: Any, at_out: Any, out_stride: Any) -> Any:
    """out[at_out + j*out_stride + i] = source[at_source + i*source_stride + j] for i, j < lanes, in registers:
    log2(lanes) rounds, each of which exchanges blocks of half the size between two rows. One of both may be in half precision."""
    signature = types.void(source, at_source, source_stride, out, at_out, out_stride)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit, of_out = Operand(context, builder, source.dtype), Operand(context, builder, out.dtype)
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
            of_out.store(row, emit.at(there, builder.mul(args[5], ir.Constant(I64, j))))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def ask(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], which is read a little later."""
    return types.void(array, at), _asking(3)


@intrinsic
def ask_early(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], which is used so much later that it would be in the way in L1."""
    return types.void(array, at), _asking(2)


def _asking(locality: int) -> Any:
    """How LLVM counts: 3 is for all caches, 2 for all but L1."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i8, i32 = ir.IntType(8), ir.IntType(32)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        kind = ir.FunctionType(ir.VoidType(), [i8.as_pointer(), i32, i32, i32])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        line = builder.bitcast(builder.gep(data, [args[1]]), i8.as_pointer())
        builder.call(prefetch, [line, *(ir.Constant(i32, n) for n in (0, locality, 1))])
        return context.get_dummy_value()

    return codegen
