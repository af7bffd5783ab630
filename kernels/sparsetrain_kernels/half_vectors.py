"""Half precision in LLVM instructions: vectors of float32 from and to the 16-bit integers of half_precision.py."""

import platform
from typing import Any

import numba
from llvmlite import binding, ir
from numba import types

from .vectors import Emit

HALVES = (types.int16, types.uint16)  # float16, bfloat16


def host_converts() -> bool:
    """Whether numba compiles for a processor that converts float16 by itself."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    named: str | None = numba.config.CPU_FEATURES
    features = (named if named is not None else binding.get_host_cpu_features().flatten()).split(",")
    return "+f16c" in features or "+avx512f" in features


CONVERTS = host_converts()


class Operand(Emit):
    """Emits loads and stores of a dense operand's numbers, which memory may hold in half precision: vectors are of
    float32 then."""

    def __init__(self, context: Any, builder: Any, dtype: Any, lanes: int = 0) -> None:
        self.held, self.half = dtype, dtype in HALVES
        super().__init__(context, builder, types.float32 if self.half else dtype, lanes)
        self.bits, self.short = (ir.VectorType(ir.IntType(size), self.lanes) for size in (32, 16))

    def load(self, base: Any, i: int = 0) -> Any:
        if not self.half:
            return super().load(base, i)
        numbers = self.builder.load(self._shorts(base, i), align=2)
        return self._from_bfloat16(numbers) if self.held == types.uint16 else self._from_float16(numbers)

    def store(self, vector: Any, base: Any, i: int = 0) -> None:
        if not self.half:
            return super().store(vector, base, i)
        numbers = self._to_bfloat16(vector) if self.held == types.uint16 else self._to_float16(vector)
        self.builder.store(numbers, self._shorts(base, i), align=2)
        return None

    def _shorts(self, base: Any, i: int) -> Any:
        step = self.builder.gep(base, [ir.Constant(ir.IntType(64), i * self.lanes)])
        return self.builder.bitcast(step, self.short.as_pointer())

    def _all(self, number: Any, kind: Any = None) -> Any:
        return ir.Constant(kind or self.bits, [number] * self.lanes)

    def _float(self, bits: Any) -> Any:
        return self.builder.bitcast(bits, self.vector)

    def _from_bfloat16(self, numbers: Any) -> Any:
        return self._float(self.builder.shl(self.builder.zext(numbers, self.bits), self._all(16)))

    def _to_bfloat16(self, vector: Any) -> Any:
        b, bits = self.builder, self.builder.bitcast(vector, self.bits)
        odd = b.and_(b.lshr(bits, self._all(16)), self._all(1))
        nearest = b.add(bits, b.add(odd, self._all(0x7FFF)))  # a carry out of the fraction raises the exponent
        quiet = b.or_(bits, self._all(0x400000))  # a NaN's bits past the kept ones may be all that it has
        kept = b.select(b.fcmp_unordered("uno", vector, vector), quiet, nearest)
        return b.trunc(b.lshr(kept, self._all(16)), self.short)

    def _from_float16(self, numbers: Any) -> Any:
        b = self.builder
        if CONVERTS:
            return b.fpext(b.bitcast(numbers, ir.VectorType(ir.HalfType(), self.lanes)), self.vector)
        bits = b.shl(b.zext(numbers, self.bits), self._all(16))
        sign, rest = b.and_(bits, self._all(0x80000000)), b.shl(bits, self._all(1))
        # the exponent moves to the middle of float32's range, where nothing is subnormal, and is put right by a product
        moved = b.add(b.lshr(rest, self._all(4)), self._all(0xE0 << 23))
        normal = b.fmul(self._float(moved), self._all(2.0**-112, self.vector))
        # a subnormal's fraction stands in the last places of a number from 0.5 on
        above = self._float(b.or_(b.lshr(rest, self._all(17)), self._all(126 << 23)))
        subnormal = b.fsub(above, self._all(0.5, self.vector))
        small = b.icmp_unsigned("<", rest, self._all(1 << 27))
        return self._float(b.or_(sign, b.bitcast(b.select(small, subnormal, normal), self.bits)))

    def _to_float16(self, vector: Any) -> Any:
        b = self.builder
        if CONVERTS:
            return b.bitcast(b.fptrunc(vector, ir.VectorType(ir.HalfType(), self.lanes)), self.short)
        bits = b.bitcast(vector, self.bits)
        magnitude = b.and_(bits, self._all(0x7FFFFFFF))
        # what is too large becomes infinity: times 4 in two steps
        raised = b.fmul(self._float(magnitude), self._all(2.0**112, self.vector))
        scaled = b.fmul(raised, self._all(2.0**-110, self.vector))
        # adding a power of two, 2**15 times as large at least, has float32's own addition round to float16's last place
        power = b.and_(b.shl(bits, self._all(1)), self._all(0xFF000000))
        power = b.select(b.icmp_unsigned("<", power, self._all(0x71000000)), self._all(0x71000000), power)
        shift = self._float(b.add(b.lshr(power, self._all(1)), self._all(0x07800000)))
        total = b.bitcast(b.fadd(shift, scaled), self.bits)
        exponent = b.and_(b.lshr(total, self._all(13)), self._all(0x7C00))
        number = b.add(exponent, b.and_(total, self._all(0xFFF)))
        nan = b.icmp_unsigned(">", magnitude, self._all(0x7F800000))
        number = b.select(nan, self._all(0x7E00), number)
        sign = b.and_(b.lshr(bits, self._all(16)), self._all(0x8000))
        return b.trunc(b.or_(sign, number), self.short)
