"""Adam and AdamW over the rows that a gradient names."""

import math

import triton
import triton.language as tl
from torch import Tensor

from .proximal import shrunk
from .segments import CHUNK, Segments, owned, summed
from .tiles import launch_rows, threshold


def adam(
    s: Segments, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, *, dim: int, step: int, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, scale: float,
) -> None:
    """One step of flat tables of rows of ``dim`` numbers. ``counts`` (rows,) are the steps of each row so far, which are
    counted on; without it all rows have had ``step`` of them, this one included."""
    pull, l1_values = threshold(lr, l1)
    rate, root = lr, 1.0
    if counts is None:
        rate, root = lr / (1 - betas[0] ** step), math.sqrt(1 - betas[1] ** step)
    launch_rows(
        _adam, s.ids.numel(), dim, *s, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, counts, l1_values, s.ids.numel(), dim,
        float(scale), float(lr), float(rate), float(root), float(pull), logarithm(betas[0]), logarithm(betas[1]),
        1.0 - betas[0], float(betas[1]), 1.0 - betas[1], float(eps), float(weight_decay), 1.0 - lr * weight_decay,
        DECOUPLED=decoupled, SHRINKS=l1_values is not None or pull != 0, CHUNK=CHUNK,
    )


def logarithm(beta: float) -> float:
    """With it 1 - beta**n is as precise as with float64, although arguments of kernels are float32: beta itself, rounded,
    would leave but few digits of 1 - beta."""
    return math.log(beta) if beta > 0 else -math.inf


@triton.jit
def correction(log_beta, steps):
    """``1 - beta**steps``."""
    return (1.0 - tl.exp(steps.to(tl.float64) * log_beta)).to(tl.float32)


@triton.jit(do_not_specialize=["size"])
def _adam(
    ids, order, gradients, sums, weights, exp_avg, exp_avg_sq, max_exp_avg_sq, counts, l1_values, size, dim, scale, lr,
    rate, root, pull, log_beta1, log_beta2, new1, beta2, new2, eps, decay, keep, DECOUPLED: tl.constexpr,
    SHRINKS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):
    places, rows, owns = owned(ids, size, ROWS)
    rates, roots = tl.zeros([ROWS], tl.float32) + rate, tl.zeros([ROWS], tl.float32) + root
    if counts is not None:
        steps = tl.load(counts + rows, mask=owns, other=0) + 1
        tl.store(counts + rows, steps, mask=owns)
        rates = tl.div_rn(rates, correction(log_beta1, steps))
        roots = tl.sqrt_rn(correction(log_beta2, steps))
    for start in range(0, dim, WIDTH):
        columns = start + tl.arange(0, WIDTH)
        mask = owns[:, None] & (columns < dim)[None, :]
        at = rows[:, None] * dim + columns[None, :]
        gradient = scale * summed(ids, order, gradients, sums, size, dim, places, rows, owns, columns, CHUNK)
        w = tl.load(weights + at, mask=mask, other=0)
        if DECOUPLED:
            w = w * keep
        else:
            gradient += decay * w
        m = tl.load(exp_avg + at, mask=mask, other=0)
        m += new1 * (gradient - m)
        v = beta2 * tl.load(exp_avg_sq + at, mask=mask, other=0) + new2 * gradient * gradient
        tl.store(exp_avg + at, m, mask=mask)
        tl.store(exp_avg_sq + at, v, mask=mask)
        if max_exp_avg_sq is not None:
            v = tl.maximum(tl.load(max_exp_avg_sq + at, mask=mask, other=0), v, propagate_nan=tl.PropagateNan.ALL)
            tl.store(max_exp_avg_sq + at, v, mask=mask)
        denominator = tl.div_rn(tl.sqrt_rn(v), tl.zeros_like(v) + roots[:, None]) + eps
        new = w - tl.div_rn(rates[:, None] * m, denominator)
        if SHRINKS:
            new = shrunk(new, lr, pull, l1_values, at, mask, denominator)
        tl.store(weights + at, new, mask=mask)
