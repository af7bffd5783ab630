"""Constraints of single edges: a sign, bounds, or standing still."""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import checks
from ..structure.edge_sets import Edges, positions
from .limits import Limits

Layer = TypeVar("Layer", bound=nn.Module)


def positive(layer: Layer, edges: Edges = None, *, project: bool = False) -> Layer:
    r"""Keep values at 0 or above: :math:`w = |r|` of a raw number r, which starts as w itself, with slope 1 at 0.

    Args:
        layer: a layer over edges, such as SparseLinear; it is returned.
        edges: places in the value array, booleans, or a Topology that is part of the layer's; None for all.
        project: put values that contradict to 0, in place of an error.

    Raises:
        ValueError: a value is negative, a constraint contradicts one that the edge has, or the layer has sparse_grad,
            or parametrizations of another kind. TypeError: no layer over edges. IndexError: an edge that the layer does
            not have. Nothing is changed then.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = positive(SparseLinear(4, 3, density=0.5), project=True)
        >>> bool((layer.values >= 0).all())
        True
    """
    return _between("constrain.positive", layer, edges, 0.0, math.inf, project)


def negative(layer: Layer, edges: Edges = None, *, project: bool = False) -> Layer:
    r"""Keep values at 0 or below: :math:`w = -|r|`.

    Args:
        layer, edges, project: as in :func:`positive`.

    Raises:
        ValueError: as in :func:`positive`, and so are TypeError and IndexError.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = negative(SparseLinear(4, 3, density=0.5), edges=[0, 2], project=True)
        >>> bool((layer.values[[0, 2]] <= 0).all())
        True
    """
    return _between("constrain.negative", layer, edges, -math.inf, 0.0, project)


def signed(layer: Layer, signs: Any, edges: Edges = None, *, project: bool = False) -> Layer:
    r"""Keep the sign of each edge, :math:`w_e = s_e |r_e|`: excitatory and inhibitory synapses, known directions.

    Args:
        layer, edges, project: as in positive.
        signs: 1 or -1 for each edge of the set, shape ``(k,)``, in the order of the set. For a sign by source (Dale's
            principle) ``sign_of_column[layer.topology.col]``.

    Raises:
        ValueError: as positive; or signs of another shape, or other numbers.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(2, 1, density=1.0)
        >>> signs = torch.tensor([1, -1])[layer.topology.col]
        >>> values = signed(layer, signs, project=True).values
        >>> bool((signs * values >= 0).all())
        True
    """
    where = "constrain.signed"
    limits = Limits.of(where, layer)
    place = positions(where, edges, layer.topology, limits.values.device)  # type: ignore[arg-type]
    numbers = _one_for_each(where, "signs", signs, limits, place)
    wrong = (numbers != 1) & (numbers != -1)
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise ValueError(f"{where}: expected signs to be 1 or -1, got {numbers[k].item()} at position {k}.")
    low, high = torch.where(numbers > 0, 0.0, -math.inf), torch.where(numbers > 0, math.inf, 0.0)
    limits.tightened(place, low, high).install(project)
    return layer


def bounded(layer: Layer, low: Any, high: Any, edges: Edges = None, *, project: bool = False) -> Layer:
    r"""Keep values inside of an open interval, :math:`w = low + (high - low) \, \sigma(4 r / (high - low))`.

    The slope is 1 in the middle, where r = 0, and falls towards the bounds, which rounding alone can reach.

    Args:
        layer, edges: as in positive.
        low, high: finite numbers, or tensors with one for each edge of the set.
        project: put values that contradict one hundredth of the interval inside of the nearer bound.

    Raises:
        ValueError: as positive; or low >= high in the dtype of the values, or bounds that are not finite.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = bounded(SparseLinear(4, 3, density=0.5), -1, 1)
        >>> layer.parametrizations["values"][0]
        Constrained(6 edges: bounded 6)
    """
    where = "constrain.bounded"
    limits = Limits.of(where, layer)
    place = positions(where, edges, layer.topology, limits.values.device)  # type: ignore[arg-type]
    ends = []
    for name, end in (("low", low), ("high", high)):
        tensor = checks.numbers(where, name, end)
        if tensor.is_complex():
            raise TypeError(f"{where}: expected {name} to be real, got {tensor.dtype}.")
        ends.append((_one_for_each(where, name, tensor, limits, place) if tensor.ndim else tensor).to(limits.values))
    width = (ends[1] - ends[0]).reshape(-1)
    wrong = ~((width > 0) & width.isfinite())  # true of NaN
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        a, b = (float(end.reshape(-1)[k if end.ndim else 0]) for end in ends)
        raise ValueError(
            f"{where}: expected low < high, finite and apart in {limits.values.dtype}, got low = {a} and high = {b}"
            f"{f' at position {k}' if width.numel() > 1 else ''}. For one bound at 0 use positive or negative."
        )
    limits.tightened(place, *ends).install(project)
    return layer


def frozen(layer: Layer, edges: Edges = None) -> Layer:
    """Keep values exactly as they are, whatever an optimizer does: they are read from a buffer.

    A gradient of zero would not be enough: momentum, weight decay and Adam's moments move a weight without one.

    Args:
        layer, edges: as in positive.

    Raises:
        ValueError: an edge is frozen already, or its value is NaN; or as positive.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(4, 3, density=0.5)
        >>> before = layer.values.detach()[:2].clone()
        >>> optimizer = torch.optim.AdamW(frozen(layer, [0, 1]).parameters(), lr=0.1)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     layer(torch.ones(1, 4)).square().sum().backward()
        ...     optimizer.step()
        >>> layer.values[:2].equal(before)
        True
    """
    where = "constrain.frozen"
    limits = Limits.of(where, layer)
    place = positions(where, edges, layer.topology, limits.values.device)  # type: ignore[arg-type]
    limits.freezing(place).install()
    return layer


def _between(where: str, layer: Layer, edges: Edges, low: float, high: float, project: bool) -> Layer:
    limits = Limits.of(where, layer)
    place = positions(where, edges, layer.topology, limits.values.device)  # type: ignore[arg-type]
    limits.tightened(place, low, high).install(project)
    return layer


def _one_for_each(where: str, name: str, given: Any, limits: Limits, place: Tensor | None) -> Tensor:
    """A tensor with one number for each edge of a set."""
    numbers = checks.numbers(where, name, given).to(limits.values.device)
    size = limits.values.numel() if place is None else place.numel()
    if numbers.shape != (size,):
        raise ValueError(f"{where}: expected {name} of shape ({size},), one for each edge, got {tuple(numbers.shape)}.")
    return numbers
