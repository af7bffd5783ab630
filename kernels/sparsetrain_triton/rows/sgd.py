"""SGD with momentum over the rows that a gradient names."""

import triton
import triton.language as tl
from torch import Tensor

from .proximal import shrunk
from .segments import CHUNK, Segments, owned, summed
from .tiles import launch_rows, threshold


def sgd(
    s: Segments, weights: Tensor, momentum_buffer: Tensor | None, counts: Tensor | None, l1: float | Tensor, *, dim: int,
    lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool, scale: float,
) -> None:
    """One step of flat tables of rows of ``dim`` numbers. With ``counts`` (rows,) the first step of a row is not
    dampened, as there is nothing in its buffer."""
    pull, l1_values = threshold(lr, l1)
    counts = None if momentum_buffer is None else counts
    launch_rows(
        _sgd, s.ids.numel(), dim, *s, weights, momentum_buffer, counts, l1_values, s.ids.numel(), dim, float(scale),
        float(lr), float(pull), float(momentum), 1.0 - dampening, float(weight_decay), NESTEROV=nesterov,
        SHRINKS=l1_values is not None or pull != 0, CHUNK=CHUNK,
    )


@triton.jit(do_not_specialize=["size"])
def _sgd(
    ids, order, gradients, sums, weights, momentum_buffer, counts, l1_values, size, dim, scale, lr, pull, momentum, share,
    decay, NESTEROV: tl.constexpr, SHRINKS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    places, rows, owns = owned(ids, size, ROWS)
    shares = tl.zeros([ROWS], tl.float32) + share
    if counts is not None:
        steps = tl.load(counts + rows, mask=owns, other=0) + 1
        tl.store(counts + rows, steps, mask=owns)
        shares = tl.where(steps == 1, 1.0, shares)
    for start in range(0, dim, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        mask = owns[:, None] & (columns < dim)[None, :]
        at = rows[:, None] * dim + columns[None, :]
        gradient = scale * summed(ids, order, gradients, sums, size, dim, places, rows, owns, columns, CHUNK)
        w = tl.load(weights + at, mask=mask, other=0)
        gradient += decay * w
        if momentum_buffer is not None:
            buffer = momentum * tl.load(momentum_buffer + at, mask=mask, other=0) + shares[:, None] * gradient
            tl.store(momentum_buffer + at, buffer, mask=mask)
            if NESTEROV:
                gradient += momentum * buffer
            else:
                gradient = buffer
        new = w - lr * gradient
        if SHRINKS:
            new = shrunk(new, lr, pull, l1_values, at, mask, tl.full(new.shape, 1.0, tl.float32))
        tl.store(weights + at, new, mask=mask)
