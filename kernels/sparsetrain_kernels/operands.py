"""Single numbers of dense operands, which memory may hold in half precision (half_precision.py)."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .half_vectors import HALVES, Operand
from .vectors import I32


@intrinsic
def read(typing: Any, x: Any, at: Any) -> Any:
    """x[at], in the type that is computed in"""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = Operand(context, builder, x.dtype, 1)
        return builder.extract_element(one.load(one.at(one.data(signature, args, 0), args[1])), ir.Constant(I32, 0))

    return (types.float32 if x.dtype in HALVES else x.dtype)(x, at), codegen


@intrinsic
def write(typing: Any, x: Any, at: Any, number: Any) -> Any:
    """x[at] = number, rounded"""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = Operand(context, builder, x.dtype, 1)
        one.store(one.splat(args[2]), one.at(one.data(signature, args, 0), args[1]))
        return context.get_dummy_value()

    return types.void(x, at, number), codegen


@intrinsic
def read_bfloat16(typing: Any, x: Any, at: Any) -> Any:
    """x[at] in float32, of a loop that is to become vectors: its instructions must not be on vectors already"""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        short = builder.load(builder.gep(context.make_array(x)(context, builder, args[0]).data, [args[1]]))
        return builder.bitcast(builder.shl(builder.zext(short, I32), ir.Constant(I32, 16)), ir.FloatType())

    return types.float32(x, at), codegen


@intrinsic
def write_at_random(typing: Any, x: Any, at: Any, number: Any, noise: Any) -> Any:
    """x[at] = number in bfloat16, rounded up where the bits that are cut off and 16 random bits reach over them: with the
    probability of its distance from below, so that it is right on average"""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.gep(context.make_array(x)(context, builder, args[0]).data, [args[1]])
        exponent = ir.Constant(I32, 0x7F800000)
        bits = builder.bitcast(args[2], I32)
        moved = builder.add(bits, builder.and_(builder.trunc(args[3], I32), ir.Constant(I32, 0xFFFF)))
        finite = builder.icmp_unsigned("!=", builder.and_(bits, exponent), exponent)  # NaN and infinity stay
        kept = builder.lshr(builder.select(finite, moved, bits), ir.Constant(I32, 16))
        builder.store(builder.trunc(kept, ir.IntType(16)), place)
        return context.get_dummy_value()

    return types.void(x, at, types.float32, types.uint64), codegen


@intrinsic
def nonzero(typing: Any, number: Any) -> Any:
    """number != 0, of a number as memory holds it: zero has a sign, in half precision as well"""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        if number in HALVES:
            return builder.icmp_unsigned("!=", builder.shl(args[0], ir.Constant(kind, 1)), ir.Constant(kind, 0))
        return builder.fcmp_unordered("!=", args[0], ir.Constant(kind, 0.0))

    return types.boolean(number), codegen
