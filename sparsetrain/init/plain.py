"""Rules that do not depend on the layer: one distribution for all weights, or a custom rule."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from ..structure.edge_sets import Edges
from .chosen import Chosen, Layer, fill, not_negative


def normal_(
    layer: Layer, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None, *, edges: Edges = None
) -> Layer:
    """N(mean, std²).

    Args:
        layer: a layer over edges, a MaskedLinear or an nn.Linear; it is returned.
        edges: draw only these: places in the value array, booleans, or a Topology that is part of the layer's.

    Raises:
        ValueError: a negative std, or edges that do not belong to the layer (IndexError, if out of range or not
            stored). TypeError: a layer of another type, or computed weights.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = normal_(SparseLinear(4, 8, density=0.5), std=0.01)
    """
    where = "init.normal_"
    std = not_negative(where, "std", std)
    return fill(where, layer, lambda t: t.normal_(mean, std, generator=generator), edges)


def trunc_normal_(
    layer: Layer, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
    generator: Generator | None = None, *, edges: Edges = None,
) -> Layer:  # fmt: skip
    """N(mean, std²), truncated to [a, b]. The bounds are absolute, not multiples of std.

    Args:
        layer, edges: as in :func:`normal_`.

    Raises:
        ValueError: std is not positive, a >= b, or as in :func:`normal_`.

    Source: ``torch.nn.init.trunc_normal_``.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = trunc_normal_(SparseLinear(4, 8, density=0.5), std=0.02, a=-0.04, b=0.04)
        >>> bool((layer.values.abs() <= 0.04).all())
        True
    """
    where = "init.trunc_normal_"
    if not std > 0:  # true of NaN
        raise ValueError(f"{where}: expected std > 0, got {std!r}.")
    if not a < b:
        raise ValueError(f"{where}: expected a < b, got a = {a!r} and b = {b!r}.")
    return fill(where, layer, lambda t: nn.init.trunc_normal_(t, mean, std, a, b, generator), edges)


def uniform_(
    layer: Layer, a: float = 0.0, b: float = 1.0, generator: Generator | None = None, *, edges: Edges = None
) -> Layer:
    """U(a, b).

    Args:
        layer, edges: as in :func:`normal_`.

    Raises:
        ValueError: a > b, or as in :func:`normal_`.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = uniform_(SparseLinear(4, 8, density=0.5), -0.1, 0.1)
    """
    where = "init.uniform_"
    if not a <= b:  # true of NaN
        raise ValueError(f"{where}: expected a <= b, got a = {a!r} and b = {b!r}.")
    return fill(where, layer, lambda t: t.uniform_(a, b, generator=generator), edges)


def constant_(layer: Layer, val: float, *, edges: Edges = None) -> Layer:
    """The same value for all weights.

    Args:
        layer, edges: as in :func:`normal_`.

    Raises:
        ValueError: as in :func:`normal_`.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> constant_(SparseLinear(2, 2, density=1), 42).values.tolist()
        [42.0, 42.0, 42.0, 42.0]
    """
    return fill("init.constant_", layer, lambda t: t.fill_(val), edges)


def zeros_(layer: Layer, *, edges: Edges = None) -> Layer:
    """Zeros: ``constant_(layer, 0)``.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> zeros_(SparseLinear(2, 2, density=0.5)).values.tolist()
        [0.0, 0.0]
    """
    return fill("init.zeros_", layer, lambda t: t.zero_(), edges)


def ones_(layer: Layer, *, edges: Edges = None) -> Layer:
    """Ones: ``constant_(layer, 1)``.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> ones_(SparseLinear(2, 2, density=0.5)).values.tolist()
        [1.0, 1.0]
    """
    return fill("init.ones_", layer, lambda t: t.fill_(1.0), edges)


@torch.no_grad()
def custom_(layer: Layer, rule: Callable[[Tensor], object], edges: Edges = None) -> Layer:
    """A rule of your own, which fills a tensor in place as those of torch.nn.init do, or returns another.

    Args:
        layer: a layer over edges, a MaskedLinear or an nn.Linear; it is returned.
        rule: called once with a copy of the present weights, one for each edge, shape ``(k,)``; the whole weight of
            an nn.Linear has its own shape. A tensor that it returns counts, or else what it left in that which it got.
        edges: as in ``normal_``.

    Raises:
        TypeError: the rule is not callable, or returns neither a tensor nor None. ValueError: it returns a tensor of
            another shape. Otherwise as ``normal_``. Whatever is raised, the layer is as it was.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = custom_(SparseLinear(4, 8, density=0.5), nn.init.zeros_)
        >>> custom_(layer, lambda t: t.uniform_(-10, 10) * (t.abs() >= 5), edges=[0, 3]).values[1:3].tolist()
        [0.0, 0.0]
    """
    where = "init.custom_"
    if not callable(rule):
        raise TypeError(f"{where}: expected a rule that can be called with a tensor, got {rule!r}.")
    chosen = Chosen.of(where, layer, edges)
    given = chosen.read()
    shape = given.shape
    returned = rule(given)
    drawn = given if returned is None else returned
    if not isinstance(drawn, Tensor):
        raise TypeError(f"{where}: expected the rule to return a tensor or None, got {type(drawn).__name__}.")
    if drawn.shape != shape:
        raise ValueError(
            f"{where}: expected the rule to leave shape {tuple(shape)}, one number for each edge, got "
            f"{tuple(drawn.shape)}."
        )
    chosen.write(drawn)
    return layer
