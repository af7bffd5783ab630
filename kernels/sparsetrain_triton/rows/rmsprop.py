"""RMSprop over the rows that a gradient names, centred or not, with momentum or without."""

import triton
import triton.language as tl
from torch import Tensor

from .adam import correction, logarithm
from .proximal import shrunk
from .segments import CHUNK, Segments, owned, summed
from .tiles import launch_rows, threshold


def rmsprop(
    s: Segments, weights: Tensor, square_avg: Tensor, grad_avg: Tensor | None, momentum_buffer: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, *, dim: int, lr: float, alpha: float, eps: float, weight_decay: float,
    momentum: float, scale: float,
) -> None:
    """One step of flat tables of rows of ``dim`` numbers. With ``counts`` (rows,), the steps of each row so far, the
    averages of squares are corrected for their start at zero."""
    pull, l1_values = threshold(lr, l1)
    launch_rows(
        _rmsprop, s.ids.numel(), dim, *s, weights, square_avg, grad_avg, momentum_buffer, counts, l1_values,
        s.ids.numel(), dim, float(scale), float(lr), float(pull), float(alpha), 1.0 - alpha, logarithm(alpha), float(eps),
        float(weight_decay), float(momentum), SHRINKS=l1_values is not None or pull != 0, CHUNK=CHUNK,
    )


@triton.jit(do_not_specialize=["size"])
def _rmsprop(
    ids, order, gradients, sums, weights, square_avg, grad_avg, momentum_buffer, counts, l1_values, size, dim, scale, lr,
    pull, alpha, new_share, log_alpha, eps, decay, momentum, SHRINKS: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    places, rows, owns = owned(ids, size, ROWS)
    corrections = tl.full([ROWS], 1.0, tl.float32)
    if counts is not None:
        steps = tl.load(counts + rows, mask=owns, other=0) + 1
        tl.store(counts + rows, steps, mask=owns)
        corrections = tl.div_rn(corrections, correction(log_alpha, steps))
    for start in range(0, dim, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        mask = owns[:, None] & (columns < dim)[None, :]
        at = rows[:, None] * dim + columns[None, :]
        gradient = scale * summed(ids, order, gradients, sums, size, dim, places, rows, owns, columns, CHUNK)
        w = tl.load(weights + at, mask=mask, other=0)
        gradient += decay * w
        v = alpha * tl.load(square_avg + at, mask=mask, other=0) + new_share * gradient * gradient
        tl.store(square_avg + at, v, mask=mask)
        v *= corrections[:, None]
        if grad_avg is not None:
            mean = tl.load(grad_avg + at, mask=mask, other=0)
            mean += new_share * (gradient - mean)
            tl.store(grad_avg + at, mean, mask=mask)
            v -= mean * mean
        denominator = tl.sqrt_rn(v) + eps
        step = tl.div_rn(gradient, denominator)
        if momentum_buffer is not None:
            step += momentum * tl.load(momentum_buffer + at, mask=mask, other=0)
            tl.store(momentum_buffer + at, step, mask=mask)
        new = w - lr * step
        if SHRINKS:
            new = shrunk(new, lr, pull, l1_values, at, mask, denominator)
        tl.store(weights + at, new, mask=mask)
