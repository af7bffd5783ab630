"""Rules whose scale follows from the fans, so that activations and gradients keep their size from layer to layer."""

import math
from typing import Literal

from torch import Generator, Tensor, nn

from ..structure.edge_sets import Edges
from .chosen import Layer, fill, not_negative
from .fans import By, fans_of

Scale = float | Tensor  # of all weights, or of each


def xavier_uniform_(
    layer: Layer, gain: float = 1.0, generator: Generator | None = None, *, edges: Edges = None, fans: By = "mean"
) -> Layer:
    r"""U(-a, a) with :math:`a = \text{gain} \sqrt{6 / (\text{fan}_{in} + \text{fan}_{out})}`.

    Args:
        layer: a layer over edges, a MaskedLinear or an nn.Linear; it is returned.
        gain: factor for what follows the layer, see torch.nn.init.calculate_gain.
        edges: draw only these: places in the value array, booleans, or a Topology that is part of the layer's. Fans
            count all edges of the layer all the same.
        fans: ``"mean"``, the layer's averages, one scale for all; or ``"edge"``, the fan-in of each edge's own row and
            the fan-out of its own column, for graphs with hubs. The package's text says when that matters. All fans of
            an nn.Linear are alike.

    Raises:
        ValueError: the gain is negative, unknown fans, or edges that do not belong to the layer (IndexError, if out of
            range or not stored). TypeError: a layer of another type, or computed weights.

    Source: Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = xavier_uniform_(SparseLinear(40, 20, density=0.1))  # fans 4 and 2
        >>> bool((layer.values.abs() <= 1).all())
        True
    """
    where = "init.xavier_uniform_"
    a = _xavier_std(where, layer, gain, edges, fans) * math.sqrt(3.0)
    return _uniform(where, layer, a, generator, edges)


def xavier_normal_(
    layer: Layer, gain: float = 1.0, generator: Generator | None = None, *, edges: Edges = None, fans: By = "mean"
) -> Layer:
    r"""N(0, std²) with :math:`\text{std} = \text{gain} \sqrt{2 / (\text{fan}_{in} + \text{fan}_{out})}`.

    Arguments, errors and source are those of :func:`xavier_uniform_`.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = xavier_normal_(SparseLinear(40, 20, density=0.1), fans="edge")
    """
    where = "init.xavier_normal_"
    return _normal(where, layer, _xavier_std(where, layer, gain, edges, fans), generator, edges)


def kaiming_uniform_(
    layer: Layer,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
    *,
    edges: Edges = None,
    fans: By = "mean",
) -> Layer:
    r"""U(-b, b) with :math:`b = \text{gain} \sqrt{3 / \text{fan}}`.

    Args:
        layer: a layer over edges, a MaskedLinear or an nn.Linear; it is returned.
        a: negative slope of the leaky ReLU that follows.
        mode: ``"fan_in"`` keeps the size of activations, ``"fan_out"`` that of gradients.
        nonlinearity: what follows; it sets the gain, see torch.nn.init.calculate_gain.
        edges, fans: as in ``xavier_uniform_``. With ``fans="edge"`` every output (every input, by fan-out) has the same
            variance, whatever its number of edges.

    Raises:
        ValueError: an unknown mode or nonlinearity; otherwise as ``xavier_uniform_``.

    Source: He et al. (2015), Delving deep into rectifiers.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = kaiming_uniform_(SparseLinear(40, 20, density=0.1), nonlinearity="relu")
    """
    where = "init.kaiming_uniform_"
    b = _kaiming_std(where, layer, a, mode, nonlinearity, edges, fans) * math.sqrt(3.0)
    return _uniform(where, layer, b, generator, edges)


def kaiming_normal_(
    layer: Layer,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
    *,
    edges: Edges = None,
    fans: By = "mean",
) -> Layer:
    r"""N(0, std²) with :math:`\text{std} = \text{gain} / \sqrt{\text{fan}}`.

    Arguments, errors and source are those of :func:`kaiming_uniform_`.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = kaiming_normal_(SparseLinear(40, 20, density=0.1), mode="fan_out", nonlinearity="relu")
    """
    where = "init.kaiming_normal_"
    return _normal(where, layer, _kaiming_std(where, layer, a, mode, nonlinearity, edges, fans), generator, edges)


def _xavier_std(where: str, layer: nn.Module, gain: float, edges: Edges, by: By) -> Scale:
    gain = not_negative(where, "gain", gain)
    fan_in, fan_out = fans_of(where, layer, by, edges)
    return gain * _root(2.0, fan_in + fan_out)


def _kaiming_std(where: str, layer: nn.Module, a: float, mode: str, nonlinearity: str, edges: Edges, by: By) -> Scale:
    fans = fans_of(where, layer, by, edges)._asdict()
    if mode not in fans:
        raise ValueError(f"{where}: expected mode to be one of {list(fans)}, got {mode!r}.")
    gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    return float(gain) * _root(1.0, fans[mode])


def _root(share: float, fan: Scale) -> Scale:
    """sqrt(share / fan), where there are edges."""
    return (share / fan).sqrt() if isinstance(fan, Tensor) else math.sqrt(share / (fan or 1.0))


def _uniform(where: str, layer: Layer, bound: Scale, generator: Generator | None, edges: Edges) -> Layer:
    if isinstance(bound, Tensor):
        return fill(where, layer, lambda t: t.uniform_(-1.0, 1.0, generator=generator).mul_(bound), edges)
    return fill(where, layer, lambda t: t.uniform_(-bound, bound, generator=generator), edges)


def _normal(where: str, layer: Layer, std: Scale, generator: Generator | None, edges: Edges) -> Layer:
    if isinstance(std, Tensor):
        return fill(where, layer, lambda t: t.normal_(0.0, 1.0, generator=generator).mul_(std), edges)
    return fill(where, layer, lambda t: t.normal_(0.0, std, generator=generator), edges)
