"""What the steps of all optimizers share: the gradient of a row, rows that are asked for ahead of time, the proximal step,
tasks of equal work.

Rows are places in flat arrays and not views of them: numba counts the references to a view, which for a row takes longer
than its arithmetic. Places are unsigned: a signed one may count from the end, which is checked.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..jit import kernel, part
from ..plan import Array
from .group import Groups

AHEAD = 10  # rows: a row comes from anywhere in memory, and is on its way while this many others are stepped
LINE = 64  # bytes that come at a time
TASK = 64  # rows of a task, on average


def _prefetch(write: int) -> Any:
    """A function of an array, a place and a number of elements from there, that asks for their cache lines; of an array
    that is not kept, for none. numba has no word for it, and its range(at, at + dim, step) would divide twice, which takes
    as long as stepping the row."""

    def fetch(typing: Any, array: Any, at: Any, dim: Any) -> Any:
        i8, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        size = array.dtype.bitwidth // 8

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            view = context.make_array(signature.args[0])(context, builder, args[0])
            kept = builder.icmp_signed(">", view.nitems, ir.Constant(i64, 0))
            row = builder.bitcast(builder.gep(view.data, [args[1]]), i8.as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [i8.as_pointer(), i32, i32, i32])
            call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            length = builder.mul(args[2], ir.Constant(i64, size))
            lines = builder.lshr(builder.add(length, ir.Constant(i64, LINE - 1)), ir.Constant(i64, LINE.bit_length() - 1))
            with cgutils.for_range(builder, builder.select(kept, lines, ir.Constant(i64, 0))) as loop:
                line = builder.gep(row, [builder.mul(loop.index, ir.Constant(i64, LINE))])
                builder.call(call, [line, *(ir.Constant(i32, n) for n in (write, 3, 1))])
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen

    return intrinsic(fetch)


fetch, fetch_to_read = _prefetch(1), _prefetch(0)


@part(inline=True)
def add_row(gradients, place, dim, scale, out, at, fresh):
    """out[at : +dim] (+)= scale * the row of gradients at place"""
    start = np.uint64(place * dim)
    shift = np.uint64(at) - start
    for k in range(start, start + np.uint64(dim)):
        out[k + shift] = scale * gradients[k] if fresh else out[k + shift] + scale * gradients[k]


@part(inline=True)
def row_gradient(u, starts, order, gradients, dim, scale, out, at):
    """out[at : +dim] = scale * sum of the gradients of row u's occurrences, in the order in which they came"""
    if starts.size == 0:
        add_row(gradients, u, dim, scale, out, at, True)
        return
    for k in range(starts[u], starts[u + 1]):
        if k + AHEAD < order.size:
            fetch_to_read(gradients, order[k + AHEAD] * dim, dim)
        add_row(gradients, order[k], dim, scale, out, at, k == starts[u])


@part(inline=True)
def soft_threshold(x, threshold):
    """sign(x) max(|x| - threshold, 0): an exact zero, and NaN stays NaN."""
    if x > threshold:
        return x - threshold
    if x < -threshold:
        return x + threshold
    return x if x != x else x - x


@kernel
def balanced(starts, rows, bounds):
    """bounds[c] = the first row u with u + starts[u] at least c's share of the total"""
    count = bounds.size - 1
    bounds[0], bounds[count] = 0, rows
    for c in range(1, count):
        share = (rows + starts[rows]) * c // count
        low, high = bounds[c - 1], rows
        while low < high:
            middle = (low + high) // 2
            if middle + starts[middle] < share:
                low = middle + 1
            else:
                high = middle
        bounds[c] = low


@part(inline=True)
def shrinks(l1, l1_values):
    return l1 > 0 or l1_values.size > 0


@part(inline=True)
def shrink_row(w, at, dim, lr, l1, l1_values, denominator):
    """|w| -= lr l1 / denominator, not past 0, over the row at w[at : +dim]"""
    start = np.uint64(at)
    if l1_values.size > 0:
        for k in range(start, start + np.uint64(dim)):
            w[k] = soft_threshold(w[k], lr * l1_values[k] / denominator[k - start])
    else:
        for k in range(start, start + np.uint64(dim)):
            w[k] = soft_threshold(w[k], lr * l1 / denominator[k - start])


def bounds_of(groups: Groups) -> Array:
    """Bounds between the rows, such that each task has about as many rows and occurrences as another."""
    rows = groups.rows.size
    count = max(1, -(-rows // TASK))
    if not groups.starts.size:
        return np.linspace(0, rows, count + 1).astype(np.int64)
    bounds = np.empty(count + 1, np.int64)
    balanced(groups.starts, rows, bounds)
    return bounds


def tasks(groups: Groups, dim: int, dtype: npt.DTypeLike) -> tuple[Array, Array]:
    """Bounds between the rows of tasks, and room for a row's gradient in each task: made before a step begins, so that
    memory never runs out in the middle of one."""
    bounds = bounds_of(groups)
    return bounds, np.empty((bounds.size - 1) * dim, dtype)


def work_of(groups: Groups, dim: int) -> int:
    """In the unit of launch.PARALLEL_WORK: a row from memory costs as much as a good many vectors of arithmetic."""
    return (groups.rows.size + groups.order.size) * (8 + dim // 4)
