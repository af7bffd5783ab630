"""Preconditioned conjugate gradients on a quadratic, stopped as Martens (2010) does."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SPACING = 1.3  # of the iterates that are kept: at 1, 2, 3, 4, 5, 7, 9, ...


@dataclass(frozen=True)
class Solution:
    """How far the quadratic was minimized.

    Attributes:
        iterates: some of them, in order; the last one is the last.
        values: of the quadratic there.
        iterations: how many products were made, without that of the start.
        negative: a direction of negative curvature ended the search.
    """

    iterates: list[Tensor]
    values: list[float]
    iterations: int
    negative: bool


def minimize(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    start: Tensor,
    preconditioner: Tensor | None,
    iterations: int,
    tolerance: float,
) -> Solution:
    r"""Minimize :math:`q(x) = x' g + x' A x / 2` from a start.

    It ends where i > k and q < 0 and the last k iterations improved q by less than k times the tolerance, relatively,
    with k = max(10, i / 10). Where :math:`p' A p \le 0` for a direction p, q has no minimum: the iterate so far is the
    answer, or p itself where there is none.

    Args:
        product: A v.
        preconditioner: a positive diagonal M, or None.
        iterations: at most so many.
        tolerance: 5e-4 in Martens (2010).
    """
    x, residual = start.clone(), gradient.clone()
    q = [0.0]
    if bool(start.any()):
        residual += product(start)
        q = [_quadratic(x, residual, gradient)]
        if not q[0] <= 0:  # worse than no start at all
            x, residual, q = torch.zeros_like(start), gradient.clone(), [0.0]
    scaled = residual if preconditioner is None else residual / preconditioner
    direction, along = -scaled, _dot(residual, scaled)
    kept: list[Tensor] = []
    values: list[float] = []
    keep_at, negative = 1, False
    for i in range(1, iterations + 1):
        if not along > 0:
            break
        image = product(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:
            negative = math.isfinite(curvature)
            if not kept and not bool(x.any()):
                x, kept, values = direction, [direction], [_dot(direction, gradient)]
            break
        x = x + (along / curvature) * direction
        residual = residual + (along / curvature) * image
        q.append(_quadratic(x, residual, gradient))
        if i == keep_at:
            kept.append(x)
            values.append(q[-1])
            keep_at = math.ceil(keep_at * SPACING)
        k = max(10, i // 10)
        if i > k and q[-1] < 0 and q[-1] - q[-1 - k] > k * tolerance * q[-1]:
            break
        scaled = residual if preconditioner is None else residual / preconditioner
        along, before = _dot(residual, scaled), along
        direction = (along / before) * direction - scaled
    if len(q) > 1 and (not kept or kept[-1] is not x):
        kept.append(x)
        values.append(q[-1])
    if not kept:
        kept, values = [x], [q[-1]]
    return Solution(kept, values, len(q) - 1, negative)


def _quadratic(x: Tensor, residual: Tensor, gradient: Tensor) -> float:
    """q(x) without a product, from the residual g + A x."""
    return 0.5 * _dot(x, residual + gradient)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b))
