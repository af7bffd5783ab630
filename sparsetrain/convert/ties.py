"""Linear layers that have one weight together, and weights that something else reads too."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..nn import SparseLinear, TransposedSparseLinear
from .swap import identity, owners_of

Followers = dict[nn.Module, nn.Module]  # a layer, and the earlier one whose weight it has


def tied_elsewhere(model: nn.Module, layers: Iterable[Any]) -> set[nn.Module]:
    """Those of these layers whose weight is that of an embedding, or of something else that is not among them."""
    names = {module: name for name, module in model.named_modules()}
    layers = list(layers)
    own = {f"{names[layer]}.weight".lstrip(".") for layer in layers}
    owners = owners_of(model)
    return {layer for layer in layers if _has_weight(layer) and not own.issuperset(owners[identity(_weight(layer))])}


def followers(layers: Iterable[Any]) -> Followers:
    """Layers that have the weight of an earlier one, or its transpose."""
    first: dict[Any, Any] = {}
    follow: Followers = {}
    for layer in layers:
        if _has_weight(layer) and not _is_pruned(layer):
            leader = first.setdefault(identity(_weight(layer)), layer)
            if leader is not layer and (_weight_alike(leader, layer) or turns(leader, layer)):
                follow[layer] = leader
    return follow


def turns(leader: Any, layer: Any) -> bool:
    """Whether a layer has the transpose of another one's weight."""
    one, other = _weight(leader), _weight(layer)
    same = one.shape == other.shape and one.stride() == other.stride()
    return not same and one.shape == other.shape[::-1] and one.stride() == other.stride()[::-1]


def tied_layer(leader: SparseLinear, layer: Any, bias: nn.Parameter | None, turned: bool) -> nn.Module:
    """What replaces a layer that has the weight of another one: a layer over the values of what replaced that."""
    tied: Any
    if turned:
        tied = TransposedSparseLinear(leader, bias is not None)
    else:
        t = leader.topology
        tied = SparseLinear(t.shape[1], t.shape[0], bias is not None, topology=t, device="meta")
        tied.values, tied.topology = leader.values, t
    tied.bias = bias
    return tied.train(layer.training)  # type: ignore[no-any-return]


def sharing_values(model: nn.Module, layers: Mapping[str, nn.Module]) -> Followers:
    """Sparse layers that have the values of an earlier one, where nothing but these layers has them."""
    follow: Followers = {}
    owners = owners_of(model)
    first: dict[Any, tuple[str, Any]] = {}
    for name, layer in layers.items():
        values = layer._parameters.get("values")
        if type(layer) is not SparseLinear or values is None:
            continue
        leader = first.setdefault(identity(values), (name, layer))[1]
        known = {f"{each}.values".lstrip(".") for each in layers}
        if leader is not layer and leader.topology is layer.topology and known.issuperset(owners[identity(values)]):
            follow[layer] = leader
    return follow


def _weight(layer: Any) -> Any:
    return layer._parameters["weight"]


def _has_weight(layer: Any) -> bool:
    weight = layer._parameters.get("weight")
    return weight is not None and not nn.parameter.is_lazy(weight)


def _is_pruned(layer: Any) -> bool:
    return "weight_mask" in layer._buffers


def _weight_alike(leader: Any, layer: Any) -> bool:
    one, other = _weight(leader), _weight(layer)
    return bool(one.shape == other.shape and one.stride() == other.stride())
