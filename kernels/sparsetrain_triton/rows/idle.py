"""Steps that rows missed, made when the rows are read: each row has its own number of them. The loop over the steps is in
the kernel, over numbers that stay in registers."""

import triton
import triton.language as tl
from torch import Tensor

from .tiles import launch_rows


def idle_adam(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None, dim: int, eps: float,
) -> None:
    """The last ``behind[i]`` of ``steps`` for row ``rows[i]``, under Adam or AdamW with a gradient of zero. A step is
    beta1, beta2, its size, a root and what the weights shrink by, in float32 on the device of the tables."""
    launch_rows(
        _idle_adam, rows.numel(), dim, rows, behind, steps, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, rows.numel(), dim,
        steps.shape[0], float(eps),
    )


def idle_linear(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, buffer: Tensor | None, squares: Tensor | None,
    means: Tensor | None, dim: int,
) -> None:
    """The last ``behind[i]`` of ``steps`` for row ``rows[i]``, under SGD or RMSprop with a gradient of zero. A step is a
    matrix (2, 2) over weight and buffer and a factor of both averages, in float64 on the device of the tables."""
    launch_rows(
        _idle_linear, rows.numel(), dim, rows, behind, steps, weights, buffer, squares, means, rows.numel(), dim,
        steps.shape[0],
    )


@triton.jit
def _late(rows, behind, size, ROWS: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    late = places < size
    row, missed = tl.load(rows + places, mask=late, other=0).to(tl.int64), tl.load(behind + places, mask=late, other=0)
    return late, row, missed.to(tl.int32)


@triton.jit(do_not_specialize=["size", "count"])
def _idle_adam(
    rows, behind, steps, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, size, dim, count, eps, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    late, row, missed = _late(rows, behind, size, ROWS)
    longest = tl.max(missed, axis=0)
    for start in range(0, dim, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        mask = late[:, None] & (columns < dim)[None, :]
        at = row[:, None] * dim + columns[None, :]
        w, m = tl.load(weights + at, mask=mask, other=0), tl.load(exp_avg + at, mask=mask, other=0)
        v = tl.load(exp_avg_sq + at, mask=mask, other=0)
        largest = v
        if max_exp_avg_sq is not None:
            largest = tl.load(max_exp_avg_sq + at, mask=mask, other=0)
        for back in range(longest):
            left = longest - back  # steps, this one included
            step = steps + (count - left) * 5
            makes = (missed >= left)[:, None]
            m, v = tl.where(makes, m * tl.load(step), m), tl.where(makes, v * tl.load(step + 1), v)
            if max_exp_avg_sq is None:
                largest = v
            denominator = tl.sqrt_rn(largest) * tl.load(step + 3) + eps
            w = tl.where(makes, tl.load(step + 4) * w - tl.div_rn(tl.load(step + 2) * m, denominator), w)
        tl.store(weights + at, w, mask=mask)
        tl.store(exp_avg + at, m, mask=mask)
        tl.store(exp_avg_sq + at, v, mask=mask)


@triton.jit(do_not_specialize=["size", "count"])
def _idle_linear(
    rows, behind, steps, weights, buffer, squares, means, size, dim, count, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    late, row, missed = _late(rows, behind, size, ROWS)
    # the product of the steps of each row, from the newest back, whose first row makes the weight
    one, none = tl.full([ROWS], 1.0, tl.float64), tl.zeros([ROWS], tl.float64)
    ww, wb, bw, bb, factor = one, none, none, one, one
    for back in range(1, tl.max(missed, axis=0) + 1):
        step = steps + (count - back) * 5
        makes = missed >= back
        a, b, c, d = tl.load(step), tl.load(step + 1), tl.load(step + 2), tl.load(step + 3)
        ww, wb = tl.where(makes, ww * a + wb * c, ww), tl.where(makes, ww * b + wb * d, wb)
        bw, bb = tl.where(makes, bw * a + bb * c, bw), tl.where(makes, bw * b + bb * d, bb)
        factor = tl.where(makes, factor * tl.load(step + 4), factor)
    ww, wb, bw, bb = ww.to(tl.float32), wb.to(tl.float32), bw.to(tl.float32), bb.to(tl.float32)
    for start in range(0, dim, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        mask = late[:, None] & (columns < dim)[None, :]
        at = row[:, None] * dim + columns[None, :]
        w = tl.load(weights + at, mask=mask, other=0)
        moved = ww[:, None] * w
        if buffer is not None:
            b = tl.load(buffer + at, mask=mask, other=0)
            moved += wb[:, None] * b
            tl.store(buffer + at, bw[:, None] * w + bb[:, None] * b, mask=mask)
        tl.store(weights + at, moved, mask=mask)
        if squares is not None:
            tl.store(squares + at, tl.load(squares + at, mask=mask, other=0) * factor.to(tl.float32)[:, None], mask=mask)
        if means is not None:
            tl.store(means + at, tl.load(means + at, mask=mask, other=0) * factor.to(tl.float32)[:, None], mask=mask)
