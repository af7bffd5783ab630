"""Numbers below the normal range, which cost an x86 a hundred cycles each: treated as zero while a kernel runs."""

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I8, I32 = ir.IntType(8), ir.IntType(32)
X86 = platform.machine().lower() in ("x86_64", "amd64")
FLUSH = 0x8040  # of the control word: results are flushed to zero, and operands read as zero


def _control_word(builder: Any, name: str, slot: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer()])
    call = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(call, [builder.bitcast(slot, I8.as_pointer())])


@intrinsic
def flush_subnormals(typing: Any) -> Any:
    """Treat numbers below the normal range as zero on this thread, and return the mode to restore.

    Elsewhere than on x86 nothing changes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not X86:
            return ir.Constant(I32, 0)
        slot = cgutils.alloca_once(builder, I32)
        _control_word(builder, "llvm.x86.sse.stmxcsr", slot)
        old = builder.load(slot)
        builder.store(builder.or_(old, ir.Constant(I32, FLUSH)), slot)
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
