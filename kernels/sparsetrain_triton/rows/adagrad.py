"""Adagrad over the rows that a gradient names, with a sum for each number or one for each row."""

import triton
import triton.language as tl
from torch import Tensor

from .proximal import shrunk
from .segments import CHUNK, Segments, owned, summed
from .tiles import launch_rows, threshold

WIDEST = 4096  # row with one sum, which a program holds as a whole


def adagrad(
    s: Segments, weights: Tensor, sums: Tensor, l1: float | Tensor, *, dim: int, lr: float, eps: float,
    weight_decay: float, scale: float,
) -> None:
    """One step of flat tables of rows of ``dim`` numbers. ``sums`` has as many numbers, or one for each row, which takes
    the mean of the squares: of at most WIDEST numbers."""
    rowwise = sums.numel() != weights.numel()
    pull, l1_values = threshold(lr, l1)
    options = {"most": WIDEST} if rowwise else {}
    launch_rows(
        _adagrad, s.ids.numel(), dim, *s, weights, sums, l1_values, s.ids.numel(), dim, float(scale), float(lr),
        float(pull), float(eps), float(weight_decay), ROWWISE=rowwise, SHRINKS=l1_values is not None or pull != 0,
        CHUNK=CHUNK, **options,
    )


@triton.jit(do_not_specialize=["size"])
def _adagrad(
    ids, order, gradients, chunks, weights, sums, l1_values, size, dim, scale, lr, pull, eps, decay, ROWWISE: tl.constexpr,
    SHRINKS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    places, rows, owns = owned(ids, size, ROWS)
    for start in range(0, dim, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        mask = owns[:, None] & (columns < dim)[None, :]
        at = rows[:, None] * dim + columns[None, :]
        gradient = scale * summed(ids, order, gradients, chunks, size, dim, places, rows, owns, columns, CHUNK)
        w = tl.load(weights + at, mask=mask, other=0)
        gradient += decay * w
        if ROWWISE:
            squares = tl.sum(tl.where(mask, gradient * gradient, 0.0), axis=1)
            mean = tl.load(sums + rows, mask=owns, other=0) + tl.div_rn(squares, tl.zeros_like(squares) + dim)
            tl.store(sums + rows, mean, mask=owns)
            v = tl.zeros_like(gradient) + mean[:, None]
        else:
            v = tl.load(sums + at, mask=mask, other=0) + gradient * gradient
            tl.store(sums + at, v, mask=mask)
        denominator = tl.sqrt_rn(v) + eps
        new = w - tl.div_rn(lr * gradient, denominator)
        if SHRINKS:
            new = shrunk(new, lr, pull, l1_values, at, mask, denominator)
        tl.store(weights + at, new, mask=mask)
