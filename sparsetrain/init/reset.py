"""What a new layer starts with."""

import math

import torch
from torch import Generator, Tensor, nn

from .chosen import Layer, fill
from .fans import mean_fans


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
    fill(where, layer, lambda t: t.uniform_(-k, k, generator=generator))
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


def _bound(where: str, layer: nn.Module) -> float:
    fan_in = float(mean_fans(where, layer).fan_in)
    return 1.0 / math.sqrt(fan_in) if fan_in else 0.0
