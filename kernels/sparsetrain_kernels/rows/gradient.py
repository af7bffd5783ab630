"""What the steps of all optimizers share: the gradient of a row, rows that are asked for ahead of time, tasks of equal work."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import kernel
from ..plan import Array
from .group import Groups

AHEAD = 12  # rows: a row comes from anywhere in memory, and is on its way while this many others are stepped
LINE = 64  # bytes that come at a time
TASK = 64  # rows of a task, on average


@intrinsic
def prefetch(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of array[at], to be written to. numba has no word for it."""
    i8, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), i8)
        kind = ir.FunctionType(ir.VoidType(), [i8, i32, i32, i32])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(call, [place, *(ir.Constant(i32, n) for n in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, at), codegen


@kernel
def fetch(array, at, dim):
    """Ask for array[at : at + dim]; an array that is not kept has size 0."""
    if array.size > 0:
        for k in range(at, at + dim, LINE // array.itemsize):
            prefetch(array, np.int64(k))
        prefetch(array, np.int64(at + dim - 1))


@kernel
def fetch_gradient(u, starts, order, gradients, dim):
    """Ask for the first occurrence of row u."""
    place = order[starts[u]] if starts.size > 0 else u
    fetch(gradients, place * dim, dim)


@kernel
def row_gradient(u, starts, order, gradients, dim, scale, out):
    """out = scale * sum of the gradients of row u's occurrences, in the order in which they came"""
    if starts.size == 0:
        one = gradients[u * dim : (u + 1) * dim]
        for j in range(dim):
            out[j] = scale * one[j]
        return
    first = order[starts[u]]
    one = gradients[first * dim : (first + 1) * dim]
    for j in range(dim):
        out[j] = one[j]
    for k in range(starts[u] + 1, starts[u + 1]):
        place = order[k]
        if k + AHEAD < starts[u + 1]:
            fetch(gradients, order[k + AHEAD] * dim, dim)
        one = gradients[place * dim : (place + 1) * dim]
        for j in range(dim):
            out[j] += one[j]
    for j in range(dim):
        out[j] *= scale


@kernel
def soft_threshold(x, threshold):
    """sign(x) max(|x| - threshold, 0): an exact zero, and NaN stays NaN."""
    if x > threshold:
        return x - threshold
    if x < -threshold:
        return x + threshold
    return x if x != x else x - x


def tasks(groups: Groups) -> Array:
    """Bounds between the rows, such that each task has about as many rows and occurrences as another."""
    rows = groups.rows.size
    count = max(1, -(-rows // TASK))
    if not groups.starts.size:
        return np.linspace(0, rows, count + 1).astype(np.int64)
    work = groups.starts + np.arange(rows + 1)
    bounds = np.searchsorted(work, np.linspace(0, work[-1], count + 1)[1:-1])
    return np.unique(np.concatenate([[0], bounds, [rows]])).astype(np.int64)


def work_of(groups: Groups, dim: int) -> int:
    """In the unit of launch.PARALLEL_WORK: a row from memory costs as much as a good many vectors of arithmetic."""
    return (groups.rows.size + groups.order.size) * (8 + dim // 4)
