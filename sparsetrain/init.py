r"""Initial weights, in place: the values of a sparse layer, the live entries of a masked one, the weight of nn.Linear.

The fans that some rules are about are the real ones, counted in edges:

.. math:: \text{fan}_{in} = \frac{nnz}{out}, \qquad \text{fan}_{out} = \frac{nnz}{in}

on average over the outputs and over the inputs. One number is drawn for each edge, in the order of the edges, so a
sparse layer and its masked twin start alike from generators in the same state.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

from .weights import weights_of

Layer = TypeVar("Layer", bound=nn.Module)
Draw = Callable[[Tensor], object]  # fills a tensor in place


class Fans(NamedTuple):
    """Edges of an output and of an input, on average; zero where there are none."""

    fan_in: float
    fan_out: float


def xavier_uniform_(layer: Layer, gain: float = 1.0, generator: Generator | None = None) -> Layer:
    r"""U(-a, a) with :math:`a = \text{gain} \sqrt{6 / (\text{fan}_{in} + \text{fan}_{out})}`.

    Args:
        layer: a layer over edges, a MaskedLinear or an nn.Linear; it is returned.
        gain: factor for what follows the layer, see torch.nn.init.calculate_gain.

    Raises:
        TypeError: a layer of another type. ValueError: the gain is negative.

    Source: Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = xavier_uniform_(SparseLinear(40, 20, density=0.1))  # fans 4 and 2
        >>> bool((layer.values.abs() <= 1).all())
        True
    """
    where = "init.xavier_uniform_"
    a = _scale(where, "gain", gain) * math.sqrt(6.0 / (sum(_fans(where, layer)) or 1.0))
    return _fill(where, layer, lambda t: t.uniform_(-a, a, generator=generator))


def xavier_normal_(layer: Layer, gain: float = 1.0, generator: Generator | None = None) -> Layer:
    r"""N(0, std²) with :math:`\text{std} = \text{gain} \sqrt{2 / (\text{fan}_{in} + \text{fan}_{out})}`.

    Args, errors and source: as xavier_uniform_.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = xavier_normal_(SparseLinear(40, 20, density=0.1))
    """
    where = "init.xavier_normal_"
    std = _scale(where, "gain", gain) * math.sqrt(2.0 / (sum(_fans(where, layer)) or 1.0))
    return _fill(where, layer, lambda t: t.normal_(0.0, std, generator=generator))


def kaiming_uniform_(
    layer: Layer,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Layer:
    r"""U(-b, b) with :math:`b = \text{gain} \sqrt{3 / \text{fan}}`.

    Args:
        layer: a layer over edges, a MaskedLinear or an nn.Linear; it is returned.
        a: negative slope of the leaky ReLU that follows.
        mode: ``"fan_in"`` keeps the size of activations, ``"fan_out"`` that of gradients.
        nonlinearity: what follows; it sets the gain, see torch.nn.init.calculate_gain.

    Raises:
        TypeError: a layer of another type. ValueError: an unknown mode or nonlinearity.

    Source: He et al. (2015), Delving deep into rectifiers.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = kaiming_uniform_(SparseLinear(40, 20, density=0.1), nonlinearity="relu")
    """
    where = "init.kaiming_uniform_"
    b = math.sqrt(3.0) * _kaiming_std(where, layer, a, mode, nonlinearity)
    return _fill(where, layer, lambda t: t.uniform_(-b, b, generator=generator))


def kaiming_normal_(
    layer: Layer,
    a: float = 0.0,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Layer:
    r"""N(0, std²) with :math:`\text{std} = \text{gain} / \sqrt{\text{fan}}`.

    Args, errors and source: as kaiming_uniform_.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = kaiming_normal_(SparseLinear(40, 20, density=0.1), mode="fan_out", nonlinearity="relu")
    """
    where = "init.kaiming_normal_"
    std = _kaiming_std(where, layer, a, mode, nonlinearity)
    return _fill(where, layer, lambda t: t.normal_(0.0, std, generator=generator))


def normal_(layer: Layer, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Layer:
    """N(mean, std²). ValueError for a negative std, TypeError for a layer of another type.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = normal_(SparseLinear(4, 8, density=0.5), std=0.01)
    """
    where = "init.normal_"
    std = _scale(where, "std", std)
    return _fill(where, layer, lambda t: t.normal_(mean, std, generator=generator))


def uniform_(layer: Layer, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Layer:
    """U(a, b). ValueError unless a <= b, TypeError for a layer of another type.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = uniform_(SparseLinear(4, 8, density=0.5), -0.1, 0.1)
    """
    where = "init.uniform_"
    if not a <= b:  # true of NaN
        raise ValueError(f"{where}: expected a <= b, got a = {a!r} and b = {b!r}.")
    return _fill(where, layer, lambda t: t.uniform_(a, b, generator=generator))


def constant_(layer: Layer, val: float) -> Layer:
    """The same number everywhere. TypeError for a layer of another type.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> constant_(SparseLinear(2, 2, density=1), 42).values.tolist()
        [42.0, 42.0, 42.0, 42.0]
    """
    return _fill("init.constant_", layer, lambda t: t.fill_(val))


def zeros_(layer: Layer) -> Layer:
    """Zeros: ``constant_(layer, 0)``.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> zeros_(SparseLinear(2, 2, density=0.5)).values.tolist()
        [0.0, 0.0]
    """
    return _fill("init.zeros_", layer, lambda t: t.zero_())


def ones_(layer: Layer) -> Layer:
    """Ones: ``constant_(layer, 1)``.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> ones_(SparseLinear(2, 2, density=0.5)).values.tolist()
        [1.0, 1.0]
    """
    return _fill("init.ones_", layer, lambda t: t.fill_(1.0))


def reset_(layer: Layer, generator: Generator | None = None) -> Layer:
    """What a new layer starts with, weights and then bias: U(-k, k) with k = 1 / sqrt(mean fan-in), as nn.Linear.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = reset_(SparseLinear(40, 20, density=0.1))
        >>> bool((layer.values.abs() <= 0.5).all())
        True
    """
    where = "init.reset_"
    k = _bound(where, layer)
    _fill(where, layer, lambda t: t.uniform_(-k, k, generator=generator))
    return reset_bias_(layer, generator)


def reset_bias_(layer: Layer, generator: Generator | None = None) -> Layer:
    """The bias alone: U(-k, k) with k = 1 / sqrt(mean fan-in), or zeros where no edge arrives.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> reset_bias_(SparseLinear(4, 2, density=0)).bias.any()
        tensor(False)
    """
    k = _bound("init.reset_bias_", layer)
    bias = layer.bias
    if isinstance(bias, Tensor):
        with torch.no_grad():
            bias.uniform_(-k, k, generator=generator)
    return layer


def _fill(where: str, layer: Layer, draw: Draw) -> Layer:
    """Draw the weights that exist."""
    weight, mask = _weight(where, layer)
    with torch.no_grad():
        if mask is None or mask.is_meta:
            draw(weight)
        else:
            live = mask != 0
            values = weight.new_empty(int(live.sum()))
            draw(values)
            weight[live] = values  # row by row, as edges are numbered
    return layer


def _weight(where: str, layer: nn.Module) -> tuple[nn.Parameter, Tensor | None]:
    """The tensor that holds a layer's weights, and the mask that says which of them exist, where there is one."""
    name, weight, mask = weights_of(where, layer)
    if not isinstance(weight, nn.Parameter):
        raise TypeError(
            f"{where}: expected {name} of {type(layer).__name__} to be a Parameter, got a tensor that is computed from "
            "others. Set those, or take the parametrization away first."
        )
    return weight, mask


def _fans(where: str, layer: Any) -> Fans:
    _, weight, mask = weights_of(where, layer)
    edges = weight.numel() if mask is None or mask.is_meta else int(mask.count_nonzero())
    return Fans(*(edges / size if size else 0.0 for size in (layer.out_features, layer.in_features)))


def _bound(where: str, layer: nn.Module) -> float:
    fan_in = _fans(where, layer).fan_in
    return 1.0 / math.sqrt(fan_in) if fan_in else 0.0


def _kaiming_std(where: str, layer: nn.Module, a: float, mode: str, nonlinearity: str) -> float:
    fans = _fans(where, layer)._asdict()
    if mode not in fans:
        raise ValueError(f"{where}: expected mode to be one of {list(fans)}, got {mode!r}.")
    gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    return float(gain) / math.sqrt(fans[mode] or 1.0)


def _scale(where: str, name: str, value: float) -> float:
    if not value >= 0:  # true of NaN
        raise ValueError(f"{where}: expected {name} >= 0, got {value!r}.")
    return value
