"""Numbers spread out by a bitmap, and taken together again: the inner loops of ``dense_blocks``.

    expand:    out[p] = values[k++] where bit p is set, else 0
    compress:  values[k++] = dense[p] where bit p is set

A *step* is as many positions as are spread by one instruction or one look at a table. Where the processor has neither,
positions are spread one by one, without a branch. ``Expand`` and ``Compress`` work on vectors as wide as ``width.py``
says: of 64 bytes by the instructions of AVX-512, of 32 by a permutation for each byte of the bitmap.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .half_vectors import Operand
from .vectors import I32, I64, Emit
from .width import VECTOR_BYTES, host_bytes

I1, I8, I16 = ir.IntType(1), ir.IntType(8), ir.IntType(16)
# a table takes up to 64 kB of constants: rows of eight 32-bit places, one row for each byte of a bitmap
BITS = np.array([[byte >> j & 1 for j in range(8)] for byte in range(256)])


def expanding_order(bits: Any) -> list[int]:
    """Which of the next numbers each position gets; where its bit is not set, the first, which is masked out."""
    return [int(bits[:j].sum()) if bits[j] else 0 for j in range(bits.size)]


def compressing_order(bits: Any) -> list[int]:
    """The positions whose bits are set, and then zeros."""
    places = np.flatnonzero(bits).tolist()
    return [*places, *[0] * (bits.size - len(places))]


class Spread:
    """Emits one step at the builder's position."""

    def __init__(self, emit: Emit) -> None:
        self.emit, self.builder, self.module = emit, emit.builder, emit.builder.module
        self.by_instruction = emit.lanes * emit.size == 64
        self.mask_type = ir.IntType(emit.lanes)  # as many bits as lanes

    @property
    def positions(self) -> int:
        """Of a step: those of a vector."""
        return int(self.emit.lanes)

    def mask(self, bits: Any, step: Any) -> Any:
        """The bits of a step, as an integer of so many bits."""
        b, positions = self.builder, self.positions
        if positions >= 8:
            place = b.gep(bits, [b.mul(step, ir.Constant(I64, positions // 8))])
            return b.load(b.bitcast(place, self.mask_type.as_pointer()), align=1)
        first = b.mul(step, ir.Constant(I64, positions))
        byte = b.load(b.gep(bits, [b.lshr(first, ir.Constant(I64, 3))]))
        return b.trunc(b.lshr(byte, b.trunc(b.and_(first, ir.Constant(I64, 7)), I8)), self.mask_type)

    def count(self, mask: Any) -> Any:
        """Bits that are set."""
        b = self.builder
        wide = mask if self.mask_type.width >= 8 else b.zext(mask, I8)
        kind = ir.FunctionType(wide.type, [wide.type])
        found = b.call(cgutils.get_or_insert_function(self.module, kind, f"llvm.ctpop.i{wide.type.width}"), [wide])
        return b.zext(found, I64)

    def expanded(self, vector: Any, mask: Any) -> Any:
        if self.by_instruction:
            return self._masked("expand", vector, mask)
        ordered = self._permuted(vector, mask, expanding_order)
        lanes = self.builder.bitcast(mask, ir.VectorType(I1, self.positions))
        return self.builder.select(lanes, ordered, self.emit.zero)

    def compressed(self, vector: Any, mask: Any) -> Any:
        """The numbers whose bits are set, first; what follows them means nothing."""
        if self.by_instruction:
            return self._masked("compress", vector, mask)
        return self._permuted(vector, mask, compressing_order)

    def _masked(self, name: str, vector: Any, mask: Any) -> Any:
        lanes = ir.VectorType(I1, self.positions)
        kind = ir.FunctionType(vector.type, [vector.type, vector.type, lanes])
        full = f"llvm.x86.avx512.mask.{name}.v{self.positions}{self.emit.suffix}"
        function = cgutils.get_or_insert_function(self.module, kind, full)
        return self.builder.call(function, [vector, self.emit.zero, self.builder.bitcast(mask, lanes)])

    def _permuted(self, vector: Any, mask: Any, order: Any) -> Any:
        b, eight = self.builder, ir.VectorType(ir.FloatType(), 8)
        places = b.load(b.gep(self._table(order), [ir.Constant(I64, 0), b.zext(mask, I64)]), align=32)
        kind = ir.FunctionType(eight, [eight, places.type])
        permute = cgutils.get_or_insert_function(self.module, kind, "llvm.x86.avx2.permps")
        return b.bitcast(b.call(permute, [b.bitcast(vector, eight), places]), vector.type)

    def _table(self, order: Any) -> Any:
        """Eight places of 32 bits for each mask; a number of 64 bits has two."""
        name, parts = f"{order.__name__}_{self.positions}", 8 // self.positions
        known = self.module.globals.get(name)
        if known is not None:
            return known
        row = ir.VectorType(I32, 8)
        rows = []
        for mask in range(2**self.positions):
            places = order(BITS[mask][: self.positions])
            rows.append(ir.Constant(row, [parts * place + part for place in places for part in range(parts)]))
        table = ir.GlobalVariable(self.module, ir.ArrayType(row, len(rows)), name)
        table.global_constant, table.linkage, table.align = True, "internal", 32
        table.initializer = ir.Constant(table.type.pointee, rows)
        return table


VECTORS = VECTOR_BYTES >= 32 and host_bytes() >= 32  # else positions are spread one by one


@intrinsic
def expand_steps(typing: Any, values: Any, k: Any, bits: Any, at_bits: Any, steps: Any, out: Any, at_out: Any) -> Any:
    """Spread values[k], values[k + 1], ... over so many steps of out by the bits from byte at_bits on; the next k. A step
    reads as many values as it writes. They may be in half precision."""
    signature = types.int64(values, k, bits, at_bits, steps, out, at_out)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Operand(context, builder, values.dtype)
        spread = Spread(Emit(context, builder, out.dtype))
        source, bitmap, target = (emit.data(signature, args, i) for i in (0, 2, 5))
        bitmap, target = emit.at(bitmap, args[3]), emit.at(target, args[6])

        def body(step: Any, carried: list[Any]) -> list[Any]:
            mask = spread.mask(bitmap, step)
            vector = spread.expanded(emit.load(emit.at(source, carried[0])), mask)
            spread.emit.store(vector, emit.at(target, builder.mul(step, ir.Constant(I64, spread.positions))))
            return [builder.add(carried[0], spread.count(mask))]

        return emit.loop(ir.Constant(I64, 0), args[4], [args[1]], body)[0]

    return signature, codegen


@intrinsic
def compress_steps(typing: Any, dense: Any, at: Any, bits: Any, at_bits: Any, steps: Any, out: Any, k: Any) -> Any:
    """Take from so many steps of dense the numbers whose bits are set to out[k], out[k + 1], ...; the next k. A step
    writes as many numbers as it reads, of which those beyond the next k mean nothing. out may be in half precision."""
    signature = types.int64(dense, at, bits, at_bits, steps, out, k)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = Emit(context, builder, dense.dtype)
        spread, taken = Spread(emit), Operand(context, builder, out.dtype)
        source, bitmap, target = (emit.data(signature, args, i) for i in (0, 2, 5))
        source, bitmap = emit.at(source, args[1]), emit.at(bitmap, args[3])

        def body(step: Any, carried: list[Any]) -> list[Any]:
            mask = spread.mask(bitmap, step)
            vector = emit.load(emit.at(source, builder.mul(step, ir.Constant(I64, spread.positions))))
            taken.store(spread.compressed(vector, mask), emit.at(target, carried[0]))
            return [builder.add(carried[0], spread.count(mask))]

        return emit.loop(ir.Constant(I64, 0), args[4], [args[6]], body)[0]

    return signature, codegen
