"""The product of a very sparse matrix with a dense one, for densities below about one percent: beyond, dense blocks on
tensor cores are faster."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import ceil_divided, launch, power_of_two

EDGES = 4  # whose loads are under way at a time
BYTES = 2048  # of a row of x at most, in each program
WARP = 512  # bytes that a warp loads at once; more warps would share the edges, and exchange sums at each step


def spmm(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, perm: Tensor | None = None
) -> None:
    """``y[r] = bias[r] + sum of values[k] * x[col[k]]`` over the edges k of row r, summed in the type of the values.

    x (columns, batch) and y (rows, batch) may be in half precision, and of any strides: they are read and written fast
    where the samples of a feature are contiguous. With ``perm`` the value of edge k is ``values[perm[k]]``, as of the
    transposed matrix, whose values are those of the matrix in another order.
    """
    rows, batch = y.shape
    samples = power_of_two(batch, 32, BYTES // x.element_size())
    launch(
        _spmm, rows * ceil_divided(batch, samples), crow, col, values, perm, x, y, bias, rows, batch, *x.stride(),
        *y.stride(), EDGES=EDGES, SAMPLES=samples, num_warps=max(1, samples * x.element_size() // WARP),
    )


@triton.jit(do_not_specialize=["rows"])
def _spmm(
    crow, col, values, perm, x, y, bias, rows, batch, x_feature, x_sample, y_feature, y_sample, EDGES: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    # neighbouring programs read the same samples of x, which stay in the cache
    row = (tl.program_id(0) % rows).to(tl.int64)
    samples = (tl.program_id(0) // rows).to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)
    inside = samples < batch
    end = tl.load(crow + row + 1).to(tl.int64)
    total = tl.zeros([SAMPLES], dtype=values.dtype.element_ty)
    for start in range(tl.load(crow + row).to(tl.int64), end, EDGES):
        edges = start + tl.arange(0, EDGES)
        stored = edges < end
        column = tl.load(col + edges, mask=stored, other=0).to(tl.int64)
        place = edges
        if perm is not None:
            place = tl.load(perm + edges, mask=stored, other=0).to(tl.int64)
        value = tl.load(values + place, mask=stored, other=0)
        read = tl.load(
            x + column[:, None] * x_feature + samples[None, :] * x_sample, mask=stored[:, None] & inside[None, :], other=0
        )
        total += tl.sum(value[:, None] * read.to(total.dtype), axis=0)
    if bias is not None:
        total += tl.load(bias + row).to(total.dtype)
    tl.store(y + row * y_feature + samples * y_sample, total.to(y.dtype.element_ty), mask=inside)
