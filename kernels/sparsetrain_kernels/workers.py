"""Work shared out among workers: inside of a kernel, on the threads of numba's pool, or one worker after the other.

numba's own ``prange`` takes seconds to compile for each kernel, and another form of the kernel for one thread. Its pool has a
C function that calls any function for each number below a limit, so a kernel hands that a pointer instead.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from .vectors import I64

BYTES, NUMBERS = ir.IntType(8).as_pointer(), I64.as_pointer()
# of numba/np/ufunc/omppool.cpp: what is called for each number, and parallel_for(called, arrays, dimensions, steps, data,
# inner dimensions, number of arrays, threads), which moves each array on by its step from one number to the next
CALLED = ir.FunctionType(ir.VoidType(), [BYTES.as_pointer(), NUMBERS, NUMBERS, BYTES])
PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [BYTES] * 5 + [I64] * 3)


def _inner(typing: Any, work: Any, args: Any) -> Any:
    """The signature of work(number, number, *args), each of which it must name: a tuple for the rest is another one."""
    called = work.get_call_type(typing, (types.int64, types.int64, *args), {})
    if len(called.args) != 2 + len(args):
        raise TypingError(f"{work.dispatcher.__name__}() takes *args or defaults; name all {2 + len(args)} arguments.")
    return called


def _for_each(context: Any, builder: Any, pool: Any, workers: Any, packed: Any, call: Any) -> None:
    """call(builder, worker, packed) for each worker, in a function of its own that finds ``packed`` in memory."""
    name = f"{builder.function.name}.worker{len(builder.module.functions)}"
    each = ir.Function(builder.module, CALLED, cgutils.normalize_ir_text(name))
    each.linkage = "internal"
    inside = ir.IRBuilder(each.append_basic_block())
    number = inside.ptrtoint(inside.load(each.args[0]), I64)
    call(inside, number, inside.load(inside.bitcast(each.args[3], packed.type.as_pointer())))
    inside.ret_void()

    data = builder.bitcast(cgutils.alloca_once_value(builder, packed), BYTES)
    array, count, step = (cgutils.alloca_once(builder, kind) for kind in (BYTES, I64, I64))
    builder.store(workers, count)
    builder.store(ir.Constant(I64, 1), step)  # the array's address is the number: it begins at 0
    alone = builder.icmp_unsigned("==", pool, ir.Constant(I64, 0))
    with builder.if_else(alone) as (one_by_one, together):
        with one_by_one, cgutils.for_range(builder, workers) as loop:
            builder.store(builder.inttoptr(loop.index, BYTES), array)
            builder.call(each, [array, count, step, data])
        with together:
            builder.store(ir.Constant(BYTES, None), array)
            parallel_for = builder.inttoptr(pool, PARALLEL_FOR.as_pointer())
            pointers = [builder.bitcast(pointer, BYTES) for pointer in (each, array, count, step)]
            builder.call(parallel_for, [*pointers, data, ir.Constant(I64, 0), ir.Constant(I64, 1), workers])


def _caller(context: Any, builder: Any, work: Any, called: Any) -> Any:
    """work(first, second, *packed), emitted by a builder; what it raises is lost, and it raises nothing."""
    compiled = work.dispatcher.overloads[called.args]
    context.add_linking_libs([compiled.library])
    described = compiled.fndesc
    function = context.declare_function(builder.module, described)

    def call(inside: Any, first: Any, second: Any, packed: Any) -> None:
        arguments = [first, second, *cgutils.unpack_tuple(inside, packed, len(called.args) - 2)]
        context.call_conv.call_function(inside, function, described.restype, described.argtypes, arguments)

    return call


@intrinsic
def each_worker(typing: Any, pool: Any, workers: Any, work: Any, args: Any) -> Any:
    """work(worker, workers, *args) for each worker. ``pool`` is the address of numba's parallel_for, or 0."""
    called = _inner(typing, work, args)

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        call = _caller(context, builder, work, called)
        packed = ir.Constant(ir.LiteralStructType([given[1].type, given[3].type]), ir.Undefined)
        packed = builder.insert_value(builder.insert_value(packed, given[1], 0), given[3], 1)

        def one(inside: Any, worker: Any, held: Any) -> None:
            call(inside, worker, inside.extract_value(held, 0), inside.extract_value(held, 1))

        _for_each(context, builder, given[0], given[1], packed, one)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, work, args), codegen


@intrinsic
def each_share(typing: Any, pool: Any, workers: Any, tasks: Any, work: Any, args: Any) -> Any:
    """work(first, last, *args) for each worker, whose tasks these are: in order, and as many for each."""
    called = _inner(typing, work, args)

    def codegen(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        call = _caller(context, builder, work, called)
        kind = ir.LiteralStructType([given[1].type, given[2].type, given[4].type])
        packed = ir.Constant(kind, ir.Undefined)
        for i, number in enumerate((given[1], given[2], given[4])):
            packed = builder.insert_value(packed, number, i)

        def one(inside: Any, worker: Any, held: Any) -> None:
            crew, all_tasks, arguments = (inside.extract_value(held, i) for i in range(3))
            following = inside.add(worker, ir.Constant(I64, 1))
            first, last = (inside.sdiv(inside.mul(n, all_tasks), crew) for n in (worker, following))
            call(inside, first, last, arguments)

        _for_each(context, builder, given[0], given[1], packed, one)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, work, args), codegen
