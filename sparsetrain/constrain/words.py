"""Constraints as edge lists spell them."""

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

from ..structure.names import is_missing
from .limits import Limits

Layer = TypeVar("Layer", bound=nn.Module)
WORDS = {"positive": (0.0, math.inf), "negative": (-math.inf, 0.0), "fixed": (-math.inf, math.inf)}


def by_word(layer: Layer, words: Iterable[Any]) -> Layer:
    """Constrain each edge by a word: ``"positive"``, ``"negative"``, ``"fixed"`` (as frozen), or None for none.

    Args:
        layer: a layer over edges, such as SparseLinear; it is returned.
        words: one for each edge, in the order of the value array; NaN and ``""``, which tables have for None, too.

    Raises:
        ValueError: an unknown word, not one for each edge, or as positive. TypeError: as positive.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(3, 1, density=1.0)
        >>> layer.values.data.copy_(torch.tensor([0.5, -0.5, 2.0]))
        tensor([ 0.5000, -0.5000,  2.0000])
        >>> by_word(layer, ["positive", None, "fixed"]).parametrizations["values"][0]
        Constrained(3 edges: signed 1, frozen 1)
    """
    where = "constrain.by_word"
    limits = Limits.of(where, layer)
    spelled = [None if is_missing(word) or word == "" else word for word in words]
    if len(spelled) != limits.values.numel():
        raise ValueError(f"{where}: expected {limits.values.numel()} words, one for each edge, got {len(spelled)}.")
    for k, word in enumerate(spelled):
        if word is not None and word not in WORDS:
            raise ValueError(f"{where}: expected one of {list(WORDS)} or None, got {word!r} at {limits.edge(k)}.")
    for word, interval in WORDS.items():
        place = torch.tensor([k for k, each in enumerate(spelled) if each == word], dtype=torch.int64)
        place = place.to(limits.values.device)
        limits = limits.tightened(place, *interval)
        if word == "fixed" and place.numel():
            limits = limits.freezing(place)
    limits.install()
    return layer
