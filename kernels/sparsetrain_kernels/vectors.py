"""Emitting LLVM instructions on vectors as wide as this CPU's registers: what lanes.py is written in."""

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils

I32, I64 = ir.IntType(32), ir.IntType(64)


def _vector_bytes() -> int:
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()


def lanes(dtype: Any) -> int:
    """Numbers of ``dtype`` in one vector register of this CPU."""
    return VECTOR_BYTES // int(np.dtype(dtype).itemsize)


class Emit:
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
