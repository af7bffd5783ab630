"""Some rows of a sparse matrix as a dense block, and the entries of a dense block at the edges of these rows.

Programs step over the edges, as many at a time as are launched: how many edges the rows have is read on the device, so
that the host need not wait for it.
"""

import triton
import triton.language as tl
from torch import Tensor

from .launch import ceil_divided, launch
from .row_search import row_of, search_steps

EDGES = 1024  # at a time, in each program
PROGRAMS = 4096  # at most: 30 on each multiprocessor of an H100, whose latencies they hide from each other


def expand(crow: Tensor, col: Tensor, values: Tensor, first: int, last: int, out: Tensor) -> None:
    """``out[r - first, col[k]] = values[k]`` for the edges k of the rows r in first..last - 1, and 0 elsewhere.

    ``out`` (last - first, columns) may be of another float dtype and of any strides. It is zeroed by an operation before:
    within a kernel nothing orders the zeros of one program before the values of another.
    """
    out.zero_()
    edges = min(col.numel(), out.numel())  # that the rows can have
    launch(
        _expand, _programs(edges), crow, col, values, out, first, last, search_steps(last - first), *out.stride(),
        EDGES=EDGES,
    )


def gather(crow: Tensor, col: Tensor, dense: Tensor, first: int, last: int, out: Tensor) -> None:
    """``out[k] = dense[r - first, col[k]]`` for the edges k of the rows r in first..last - 1; others stay as they are.

    ``dense`` (last - first, columns) may be of any float dtype and strides; ``out`` has an entry for each edge.
    """
    edges = min(out.numel(), dense.numel())  # that the rows can have
    launch(
        _gather, _programs(edges), crow, col, dense, out, first, last, search_steps(last - first),
        *dense.stride(), EDGES=EDGES,
    )


def _programs(edges: int) -> int:
    return min(PROGRAMS, ceil_divided(edges, EDGES))


@triton.jit(do_not_specialize=["first", "last", "steps"])
def _expand(crow, col, values, out, first, last, steps, row_stride, column_stride, EDGES: tl.constexpr):
    begin, end = tl.load(crow + first).to(tl.int64), tl.load(crow + last).to(tl.int64)
    for start in range(begin + tl.program_id(0) * EDGES, end, tl.num_programs(0) * EDGES):
        edges = start + tl.arange(0, EDGES)
        stored = edges < end
        places = _places(crow, col, edges, stored, first, last, steps, row_stride, column_stride)
        numbers = tl.load(values + edges, mask=stored)
        tl.store(out + places, numbers.to(out.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["first", "last", "steps"])
def _gather(crow, col, dense, out, first, last, steps, row_stride, column_stride, EDGES: tl.constexpr):
    begin, end = tl.load(crow + first).to(tl.int64), tl.load(crow + last).to(tl.int64)
    for start in range(begin + tl.program_id(0) * EDGES, end, tl.num_programs(0) * EDGES):
        edges = start + tl.arange(0, EDGES)
        stored = edges < end
        places = _places(crow, col, edges, stored, first, last, steps, row_stride, column_stride)
        numbers = tl.load(dense + places, mask=stored)
        tl.store(out + edges, numbers.to(out.dtype.element_ty), mask=stored)


@triton.jit
def _places(crow, col, edges, stored, first, last, steps, row_stride, column_stride):
    """Where edges are in the dense block: in 64 bits, since a block may have more than 2**31 entries."""
    row = row_of(crow, edges, first, last, steps)
    return (row - first) * row_stride + tl.load(col + edges, mask=stored, other=0).to(tl.int64) * column_stride
