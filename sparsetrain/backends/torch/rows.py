"""Row steps in torch operations, on any device: the rows are gathered, stepped as a small dense table, and put back."""

from typing import Any

import torch
from torch import Tensor

from ..row_gradient import RowGradient

PIECE = 1 << 20  # numbers that are stepped at a time, where all are
LOW = 0xFFFFFFFF


def gather(ids: Tensor, table: Tensor) -> Tensor:
    return table.index_select(0, ids)


def total(g: RowGradient) -> tuple[Tensor, Tensor]:
    # it may say so and not be; elsewhere than on a CPU the question takes as long as what it would save
    if g.distinct and g.ids.device.type == "cpu" and bool((g.ids.diff() > 0).all()):
        return g.ids, g.values.clone()
    values = g.values if g.places is None else g.values[g.places]
    used, places = torch.unique(g.ids, return_inverse=True)
    return used, g.values.new_zeros(used.numel(), g.dim).index_add_(0, places, values)


def sgd(
    g: RowGradient, weights: Tensor, momentum_buffer: Tensor | None, counts: Tensor | None, l1: float | Tensor, *,
    lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool, scale: float,
) -> None:  # fmt: skip
    rows, grad = _summed(g, scale)
    w = _table(weights, g)[rows]
    grad = grad + weight_decay * w
    if momentum_buffer is not None:
        buffer = _table(momentum_buffer, g)
        keep = torch.full((rows.numel(), 1), 1 - dampening, dtype=w.dtype, device=w.device)
        if counts is not None:
            counts[rows] += 1
            keep[counts[rows] == 1] = 1
        buffer[rows] = new = momentum * buffer[rows] + keep * grad
        grad = grad + momentum * new if nesterov else new
    _put(weights, g, rows, w - lr * grad, lr, l1, 1.0)


def rmsprop(
    g: RowGradient, weights: Tensor, square_avg: Tensor, grad_avg: Tensor | None, momentum_buffer: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, *, lr: float, alpha: float, eps: float, weight_decay: float,
    momentum: float, scale: float,
) -> None:  # fmt: skip
    rows, grad = _summed(g, scale)
    w, squares = _table(weights, g)[rows], _table(square_avg, g)
    grad = grad + weight_decay * w
    squares[rows] = v = alpha * squares[rows] + (1 - alpha) * grad * grad
    correction: Any = 1.0
    if counts is not None:
        counts[rows] += 1
        correction = (1 / (1 - alpha ** counts[rows].double())).to(w.dtype)[:, None]
    v = v * correction
    if grad_avg is not None:
        means = _table(grad_avg, g)
        means[rows] = mean = means[rows] + (1 - alpha) * (grad - means[rows])
        v = v - mean**2
    denominator = v.sqrt() + eps
    step = grad / denominator
    if momentum_buffer is not None:
        buffer = _table(momentum_buffer, g)
        buffer[rows] = step = momentum * buffer[rows] + step
    _put(weights, g, rows, w - lr * step, lr, l1, denominator)


def adagrad(
    g: RowGradient, weights: Tensor, sums: Tensor, l1: float | Tensor, *, lr: float, eps: float, weight_decay: float,
    scale: float,
) -> None:  # fmt: skip
    rows, grad = _summed(g, scale)
    w, squares = _table(weights, g)[rows], sums.view(g.rows, -1)
    grad = grad + weight_decay * w
    new = grad * grad if squares.shape[1] == g.dim else (grad * grad).mean(1, keepdim=True)
    squares[rows] += new
    denominator = squares[rows].sqrt() + eps
    _put(weights, g, rows, w - lr * grad / denominator, lr, l1, denominator)


def adam(
    g: RowGradient, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, *, step: int, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float, decoupled: bool, scale: float,
) -> None:  # fmt: skip
    rows, grad = _summed(g, scale)
    w, means, squares = _table(weights, g)[rows], _table(exp_avg, g), _table(exp_avg_sq, g)
    n = torch.full((rows.numel(), 1), float(step), dtype=torch.float64, device=w.device)
    if counts is not None:
        counts[rows] += 1
        n = counts[rows].double()[:, None]
    first, second = ((1 - beta**n).to(w.dtype) for beta in betas)
    if decoupled:
        w = w * (1 - lr * weight_decay)
    else:
        grad = grad + weight_decay * w
    means[rows] = m = means[rows] + (1 - betas[0]) * (grad - means[rows])
    squares[rows] = v = betas[1] * squares[rows] + (1 - betas[1]) * grad * grad
    if max_exp_avg_sq is not None:
        largest = _table(max_exp_avg_sq, g)
        largest[rows] = v = torch.maximum(largest[rows], v)
    denominator = v.sqrt() / second.sqrt() + eps
    _put(weights, g, rows, w - lr / first * m / denominator, lr, l1, denominator)


def adam_rounded(
    gradients: Tensor, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, counts: Tensor | None, *, step: int,
    key: int, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool, scale: float,
) -> None:  # fmt: skip
    """All numbers, those of a piece at a time."""
    if counts is not None:
        counts += 1
    arrays = [each.view(-1) for each in (gradients.contiguous(), weights, exp_avg, exp_avg_sq)]
    for first in range(0, weights.numel(), PIECE):
        g, w, means, squares = (each[first : first + PIECE] for each in arrays)
        n: Any = step if counts is None else counts.view(-1)[first : first + PIECE].double()
        first_correction, second = 1 - betas[0] ** n, 1 - betas[1] ** n
        g = scale * g if decoupled else scale * g + weight_decay * w
        m = means.float() + (1 - betas[0]) * (g - means.float())
        v = betas[1] * squares.float() + (1 - betas[1]) * g * g
        noise = random_bits(torch.arange(first, first + g.numel(), device=g.device), key)
        means.copy_(rounded_at_random(m, noise))
        squares.copy_(rounded_at_random(v, noise >> 16))
        shrink = 1 - lr * weight_decay if decoupled else 1.0
        w.copy_(shrink * w - lr / first_correction * m / (v.sqrt() / second**0.5 + eps))


def random_bits(place: Tensor, key: int) -> Tensor:
    """32 bits for each place, as the kernel draws them."""
    z = (place & LOW) ^ key
    z = ((z ^ z >> 16) * 0x7FEB352D) & LOW
    z = ((z ^ z >> 15) * 0x846CA68B) & LOW
    return z ^ z >> 16


def rounded_at_random(numbers: Tensor, noise: Tensor) -> Tensor:
    """float32 in bfloat16, rounded up with the probability of its distance from below; NaN and infinity stay."""
    moved = numbers.view(torch.int32) + (noise & 0xFFFF).int()
    exact = torch.where(numbers.isfinite(), (moved & ~0xFFFF).view(torch.float32), numbers)
    return exact.to(torch.bfloat16)


def idle_linear(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, buffer: Tensor | None, squares: Tensor | None,
    means: Tensor | None, dim: int,
) -> None:  # fmt: skip
    power, factor = torch.eye(2, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    powers, factors = [power], [factor]
    for step in reversed(steps[-int(behind.max()) :]):
        powers.append(power := power @ step[:4].view(2, 2))
        factors.append(factor := factor * step[4])
    matrix = torch.stack(powers).to(weights)[behind][..., None]  # (rows, 2, 2, 1)
    w = weights.view(-1, dim)[rows]
    moved = matrix[:, 0, 0] * w
    if buffer is not None:
        b = buffer.view(-1, dim)[rows]
        moved = moved + matrix[:, 0, 1] * b
        buffer.view(-1, dim)[rows] = matrix[:, 1, 0] * w + matrix[:, 1, 1] * b
    weights.view(-1, dim)[rows] = moved
    for average in (squares, means):
        if average is not None:
            average.view(-1, dim)[rows] *= torch.stack(factors).to(weights)[behind][:, None]


def idle_adam(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None, dim: int, eps: float,
) -> None:  # fmt: skip
    w, m, v = (table.view(-1, dim)[rows] for table in (weights, exp_avg, exp_avg_sq))
    for k in range(int(behind.max()), 0, -1):
        beta1, beta2, step_size, root, shrink = steps[-k].tolist()
        behind_by_k = (behind >= k)[:, None]
        m, v = m.where(~behind_by_k, m * beta1), v.where(~behind_by_k, v * beta2)
        largest = v if max_exp_avg_sq is None else max_exp_avg_sq.view(-1, dim)[rows]
        w = w.where(~behind_by_k, shrink * w - step_size * m / (largest.sqrt() * root + eps))
    for table, new in ((weights, w), (exp_avg, m), (exp_avg_sq, v)):
        table.view(-1, dim)[rows] = new


def _summed(g: RowGradient, scale: float) -> tuple[Tensor, Tensor]:
    rows, values = total(g)
    return rows, scale * values


def _table(tensor: Tensor, g: RowGradient) -> Tensor:
    return tensor.view(g.rows, g.dim)


def _put(
    weights: Tensor, g: RowGradient, rows: Tensor, new: Tensor, lr: float, l1: float | Tensor,
    denominator: Tensor | float,
) -> None:  # fmt: skip
    """The new rows, after the proximal step |w| -= lr l1 / denominator, not past 0."""
    threshold = lr * (l1.to(new).view(g.rows, g.dim)[rows] if isinstance(l1, Tensor) else l1) / denominator
    if isinstance(l1, Tensor) or l1:
        new = new.sign() * (new.abs() - threshold).clamp(min=0)
    _table(weights, g)[rows] = new
