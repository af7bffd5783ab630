r"""Norms of the stored weights of a layer, a tensor of values, or a set of edges, as terms of a loss.

L1 comes in three forms that differ in what they reach:

- a term of the loss, ``loss + lam * penalty.l1(layer, edges=chosen)``: any edge set, any optimizer. The optimizer sees
  a subgradient, so weights come close to zero and seldom reach it;
- the subgradient by hand, ``layer.values.grad[chosen] += lam * layer.values.detach()[chosen].sign()`` before the step:
  the same numbers. Use one of the two: both together apply lam twice;
- a proximal step, ``optim.SGD([{"params": [layer.values], "l1": lam}], lr=...)``, where lam is a number, or a tensor
  of the values' shape that is zero outside of the chosen edges: it reaches exact zeros, which ``convert.drop_zeros``
  then takes away.
"""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .dtypes import widened
from .edges.pending import bring_up_to_date
from .edges.weights import places_of, weights_of
from .structure.edge_sets import Edges, positions


def lp(layer: Any, p: float, edges: Edges = None) -> Tensor:
    r"""The p-norm :math:`(\sum_e |w_e|^p)^{1/p}` of the stored weights; :math:`\max_e |w_e|` for p = infinity.

    Summed in units of the largest magnitude, so nothing overflows that the result does not. Gradients are finite
    everywhere: where a norm has a corner they are the subgradient 0 at a zero, and for p = infinity equal shares for
    all weights of the largest magnitude. For 1 < p < 2 second derivatives at zeros, which are infinite, are taken as 0.

    Args:
        layer: a layer over edges, a MaskedLinear, an nn.Linear, or a tensor of values. Constrained values count as they
            are in the forward pass.
        p: at least 1, or ``math.inf``.
        edges: places in the value array, booleans, or a Topology that is part of the layer's; None for all.

    Returns:
        A scalar, differentiable twice; 0 without edges. Values in half precision are summed in float32.

    Raises:
        ValueError: p < 1 or NaN, or edges that do not belong to the layer (IndexError, if out of range or not stored).
        TypeError: no such layer, or values that are not floating-point numbers.

    Example:
        >>> w = torch.tensor([3.0, -4.0, 0.0], requires_grad=True)
        >>> lp(w, 2).item(), lp(w, 1, edges=[0, 2]).item(), lp(w, math.inf).item()
        (5.0, 3.0, 4.0)
    """
    where = "penalty.lp"
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"{where}: expected p to be a number, got {p!r}.")
    p = float(p)
    if not p >= 1:  # true of NaN
        raise ValueError(f"{where}: expected p >= 1, got {p!r}: below 1 it is no norm. penalty.l0 counts non-zeros.")
    w = _numbers(where, layer, edges)
    if not w.numel():
        return w.sum()
    if p == 1:
        return w.abs().sum()
    if math.isinf(p):
        return w.abs().amax()
    largest = w.detach().abs().amax()
    scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    total = _powers(w / scale, p).sum()
    nothing = total == 0
    root = torch.where(nothing, 1.0, total) ** (1 / p)
    return scale * torch.where(nothing, 0.0, root)


def l1(layer: Any, edges: Edges = None) -> Tensor:
    r"""The sum of magnitudes :math:`\sum_e |w_e|`, whose subgradient is the sign, and 0 at zeros.

    Args:
        layer, edges: as in :func:`lp`.

    Raises:
        ValueError: edges that do not belong to the layer. TypeError, IndexError: as in :func:`lp`.

    Example:
        >>> w = torch.tensor([3.0, -4.0, 0.0], requires_grad=True)
        >>> l1(w).backward()
        >>> w.grad
        tensor([ 1., -1.,  0.])
    """
    return _numbers("penalty.l1", layer, edges).abs().sum()


def l2(layer: Any, edges: Edges = None) -> Tensor:
    r"""Half the squared norm, :math:`\tfrac{1}{2} \sum_e w_e^2`, whose gradient is w: with a factor lam, weight decay.

    The norm itself is ``lp(layer, 2)``.

    Args:
        layer, edges: as in :func:`lp`.

    Raises:
        ValueError: edges that do not belong to the layer. TypeError, IndexError: as in :func:`lp`.

    Example:
        >>> w = torch.tensor([3.0, -4.0, 0.0], requires_grad=True)
        >>> l2(w).item()
        12.5
    """
    w = _numbers("penalty.l2", layer, edges)
    return (0.5 * w * w).sum()  # in this order: w * w alone may overflow where its half does not


def l0(layer: Any, edges: Edges = None) -> Tensor:
    r"""The number of weights that are not zero, an int64 scalar without a gradient. NaN is not zero.

    Args:
        layer, edges: as in :func:`lp`.

    Raises:
        ValueError: edges that do not belong to the layer. TypeError, IndexError: as in :func:`lp`.

    Example:
        >>> l0(torch.tensor([3.0, -4.0, 0.0]))
        tensor(2)
    """
    return _weights("penalty.l0", layer, edges).detach().count_nonzero()


def _powers(u: Tensor, p: float) -> Tensor:
    """abs(u)^p, smooth to all orders for even p, and otherwise flat at zero, where autograd would find 0 * infinity."""
    if p % 2 == 0:
        return u**p
    zero = u == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, u).abs() ** p)


def _numbers(where: str, layer: Any, edges: Edges) -> Tensor:
    """The weights of the set in a type that sums are made in."""
    w = _weights(where, layer, edges)
    if not w.is_floating_point():
        raise TypeError(f"{where}: expected floating-point values, got {w.dtype}.")
    return widened(w)


def _weights(where: str, layer: Any, edges: Edges) -> Tensor:
    """The weights of the set, as the next forward pass sees them."""
    if isinstance(layer, Tensor):
        tensor = layer
        place = positions(where, edges, tensor.numel(), tensor.device)
    else:
        weights = weights_of(where, layer)
        tensor, place = weights.tensor, places_of(where, layer, weights, edges)
    if tensor.layout is not torch.strided:
        raise TypeError(f"{where}: expected a dense tensor of values, got {tensor.layout}. Pass tensor.values().")
    bring_up_to_date(tensor)
    return tensor.flatten() if place is None else tensor.flatten()[place]
