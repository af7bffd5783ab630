"""The product of two dense matrices at the edges of a sparse one: the gradient of its values."""

import triton
import triton.language as tl
from torch import Tensor

from .launch import ceil_divided, launch, power_of_two
from .row_search import row_of, search_steps

EDGES = 16  # in each program
SAMPLES = 128  # at a time


def sddmm(crow: Tensor, col: Tensor, a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out[k] = sum over the batch of a[row of k] * b[col[k]]`` for every edge k, summed in the type of ``out``.

    a (rows, batch) and b (columns, batch) may be in half precision, and of any strides: they are read fast where the
    samples of a feature are contiguous.
    """
    rows, batch = a.shape
    launch(
        _sddmm, ceil_divided(out.numel(), EDGES), crow, col, a, b, out, out.numel(), rows, search_steps(rows), batch,
        *a.stride(), *b.stride(), EDGES=EDGES, SAMPLES=power_of_two(batch, 16, SAMPLES),
    )


@triton.jit(do_not_specialize=["nnz", "rows", "steps"])
def _sddmm(
    crow, col, a, b, out, nnz, rows, steps, batch, a_feature, a_sample, b_feature, b_sample, EDGES: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    edges = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES)
    stored = edges < nnz
    row = row_of(crow, edges, 0, rows, steps)
    column = tl.load(col + edges, mask=stored, other=0).to(tl.int64)
    total = tl.zeros([EDGES, SAMPLES], dtype=out.dtype.element_ty)
    for start in range(0, batch, SAMPLES):
        samples = start + tl.arange(0, SAMPLES).to(tl.int64)[None, :]
        inside = stored[:, None] & (samples < batch)
        left = tl.load(a + row[:, None] * a_feature + samples * a_sample, mask=inside, other=0)
        right = tl.load(b + column[:, None] * b_feature + samples * b_sample, mask=inside, other=0)
        total += left.to(total.dtype) * right.to(total.dtype)
    tl.store(out + edges, tl.sum(total, axis=1), mask=stored)
