"""Emitting LLVM instructions on vectors as wide as this CPU's registers: what lanes.py is written in."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from .width import VECTOR_BYTES

I32, I64 = ir.IntType(32), ir.IntType(64)


def lanes(dtype: Any) -> int:
    """Numbers of ``dtype`` in one vector register of this CPU."""
    return VECTOR_BYTES // int(np.dtype(dtype).itemsize)


def _halves(lanes: int, least: int) -> list[int]:
    """lanes / 2, lanes / 4, ... down to ``least``"""
    return [] if lanes <= least else [lanes // 2, *_halves(lanes // 2, least)]


class Emit:
    """Emits LLVM instructions on vectors of one element type at the builder's position, as wide as the CPU's registers or of
    so many lanes."""

    def __init__(self, context: Any, builder: Any, dtype: Any, lanes: int = 0) -> None:
        self.context, self.builder = context, builder
        self.scalar = context.get_value_type(dtype)
        self.suffix = "f32" if dtype is types.float32 else "f64"
        self.size = 4 if dtype is types.float32 else 8
        self.lanes = lanes or VECTOR_BYTES // self.size
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
        return self.builder.extract_element(self.sums([vector]), ir.Constant(I32, 0))

    def indices(self, base: Any, k: Any) -> list[Any]:
        """As many consecutive indices as there are lanes, read up to 64 bits at a time, of which the first are the lowest."""
        b, bits = self.builder, base.type.pointee.width
        together, found = min(64 // bits, self.lanes), []
        for i in range(0, self.lanes, together):
            place = self.at(base, b.add(k, ir.Constant(I64, i)))
            several = b.load(b.bitcast(place, ir.IntType(together * bits).as_pointer()), align=bits // 8)
            several = b.zext(several, I64) if together * bits < 64 else several
            for shift in range(0, together * bits, bits):
                one = b.lshr(several, ir.Constant(I64, shift)) if shift else several
                found.append(b.and_(one, ir.Constant(I64, (1 << bits) - 1)) if shift + bits < 64 else one)
        return found

    def index(self, base: Any, k: Any) -> Any:
        value = self.builder.load(self.builder.gep(base, [k]))
        if value.type.width == 16:  # without a sign: np.uint16
            return self.builder.zext(value, I64)
        return value if value.type == I64 else self.builder.sext(value, I64)

    def sums(self, vectors: list[Any]) -> Any:
        """The sum of each of some vectors, as one vector of that length: two of them share a register from the first
        addition on, so that many sums cost little more than one. Shuffles within a block of 16 bytes are the cheapest, so
        a block's elements are summed first, neighbours to neighbours, and the blocks of a register last."""
        b, count, block = self.builder, len(vectors), 16 // self.size
        places = [n + k for k in range(0, self.lanes, block) for n in (0, self.lanes)]
        even, odd = ([place + i for place in places for i in range(first, block, 2)] for first in (0, 1))
        for _ in range(block.bit_length() - 1):
            pairs = zip(vectors[::2], vectors[1::2] or vectors, strict=True)
            vectors = [b.fadd(self.shuffle(x, y, even), self.shuffle(x, y, odd)) for x, y in pairs]
        for lanes in _halves(self.lanes, block):
            low, high = list(range(lanes)), list(range(lanes, 2 * lanes))
            vectors = [b.fadd(self.shuffle(x, x, low), self.shuffle(x, x, high)) for x in vectors]
        total = vectors[0] if len(vectors) == 1 else self.shuffle(vectors[0], vectors[1], list(range(2 * block)))
        return self.shuffle(total, total, list(range(count)))

    def add_to(self, base: Any, vector: Any) -> None:
        """base[: +length] += vector, of any length"""
        place = self.builder.bitcast(base, vector.type.as_pointer())
        before = self.builder.load(place, align=self.size)
        self.builder.store(self.builder.fadd(before, vector), place, align=self.size)

    def edges(self, start: Any, stop: Any, carried: list[Any], body: Any) -> list[Any]:
        """carried = body([k, ...], carried) over start <= k < stop, ``together`` edges at a time and the rest one by one."""
        b, together = self.builder, self.together
        whole = b.add(start, b.and_(b.sub(stop, start), ir.Constant(I64, -together)))

        def several(k: Any, carried: list[Any]) -> list[Any]:
            return body([b.add(k, ir.Constant(I64, i)) for i in range(together)], carried)  # type: ignore[no-any-return]

        carried = self.loop(start, whole, carried, several, together)
        return self.loop(whole, stop, carried, lambda k, held: body([k], held))

    @property
    def together(self) -> int:
        """Edges whose dot products are summed together: as many as fit beside two tiles in the registers."""
        return min(4, self.lanes)

    def loop(self, start: Any, stop: Any, carried: list[Any], body: Any, step: int = 1) -> list[Any]:
        """for k in range(start, stop, step): carried = body(k, carried); the carried vectors stay in registers."""
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
        following = b.add(k, ir.Constant(I64, step))
        end = b.block
        k.add_incoming(following, end)
        for phi, value in zip(phis, new, strict=True):
            phi.add_incoming(value, end)
        self._keep_rolled(b.cbranch(b.icmp_signed("<", following, stop), head, after))
        b.position_at_end(after)
        result = []
        for value, final in zip(carried, new, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            phi.add_incoming(final, end)
            result.append(phi)
        return result

    def _keep_rolled(self, branch: Any) -> None:
        """Unrolled, a loop would become two, and the end of each of them a surprise to the CPU."""
        module = self.builder.module
        loop = module.add_metadata([module.add_metadata(["llvm.loop.unroll.disable"])])
        loop.operands = (loop, *loop.operands)  # how LLVM tells one loop from another: a node that refers to itself
        branch.set_metadata("llvm.loop", loop)

    def prefetch(self, place: Any, locality: int = 3) -> None:
        """Ask for the cache line of a place, which is read a little later: into all caches, or with 2 into all but L1."""
        i8 = ir.IntType(8)
        kind = ir.FunctionType(ir.VoidType(), [i8.as_pointer(), I32, I32, I32])
        call = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        line = self.builder.bitcast(place, i8.as_pointer())
        self.builder.call(call, [line, *(ir.Constant(I32, n) for n in (0, locality, 1))])

    def by_width(self, vectors: Any, most: int, body: Any) -> None:
        """body(n) for n = vectors, which is from 1 to ``most``: each in a block of its own."""
        b = self.builder
        blocks, after = [b.append_basic_block("width") for _ in range(most)], b.append_basic_block("done")
        choice = b.switch(vectors, blocks[-1])
        for n, block in enumerate(blocks, 1):
            if n < most:
                choice.add_case(ir.Constant(I64, n), block)
            b.position_at_end(block)
            body(n)
            b.branch(after)
        b.position_at_end(after)
