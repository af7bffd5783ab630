"""Which layers of a model become sparse, and which edges they keep."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import patterns
from ..dtypes import FLOATS, HALVES
from ..layer_names import by_any_name
from ..nn import SparseLinear
from ..structure.topology import Topology
from .swap import check_names_free, check_untied, kind_of, some

PARTS = {"weight", "bias", "weight_orig", "weight_mask", "bias_orig", "bias_mask"}  # with those of torch.nn.utils.prune


def is_linear(module: nn.Module) -> bool:
    """A linear layer, which may turn out to be lazy or parametrized, but no other subclass."""
    return kind_of(module) in (nn.Linear, nn.LazyLinear)


def is_pruned(module: nn.Module) -> bool:
    return type(module) is nn.Linear and "weight_mask" in module._buffers


def beside_weight(linear: nn.Module) -> set[str]:
    """What a linear layer has that a SparseLinear would not, such as parametrizations."""
    return {*linear._parameters, *linear._buffers, *linear._modules} - PARTS


def named(where: str, model: nn.Module, masks: Mapping[str, Any], left: set[nn.Module]) -> dict[nn.Module, Any]:
    """The masks by layer."""
    if not isinstance(masks, Mapping):
        raise TypeError(f"{where}: expected masks to be a dict from layer names to masks, got {type(masks).__name__}.")
    modules = by_any_name(model)
    linears = {name: module for name, module in modules.items() if is_linear(module)}
    wanted: dict[nn.Module, Any] = {}
    for name, mask in masks.items():
        if name not in linears:
            kind = f", a {type(modules[name]).__name__}" if name in modules else ""
            raise ValueError(
                f"{where}: expected names of nn.Linear layers in masks, got {name!r}{kind}. There are {some(linears)}."
            )
        if linears[name] in wanted or linears[name] in left:
            place = "skip" if linears[name] in left else "masks under another name"
            raise ValueError(f"{where}: expected each layer to be named once, got {name!r} in masks and in {place}.")
        wanted[linears[name]] = mask
    return wanted


def check_replaceable(
    where: str, model: nn.Module, layers: Mapping[str, nn.Module], largest: bool, tied: Collection[nn.Module] = ()
) -> None:
    """Nothing of these layers would be lost, and there are weights where the largest are to be kept. Layers that are
    tied to each other may be."""
    meta = largest and torch.get_default_device().type != "meta"  # where models are made before their weights are read
    for name, layer in layers.items():
        advice = f"Leave it dense with skip=[{name!r}]."
        more = beside_weight(layer)
        if more:
            raise ValueError(
                f"{where}: expected linear layers of weight and bias alone, {name!r} has {', '.join(sorted(more))}. "
                f"{advice}"
            )
        weight = None if isinstance(layer, nn.LazyLinear) else current(layer, "weight")
        if weight is None or (meta and weight.is_meta):
            raise ValueError(f"{where}: expected weights, {name!r} has none yet. Initialize it before. Or: {advice}")
        if weight.dtype not in (*FLOATS, *HALVES):
            raise TypeError(
                f"{where}: expected weights in float32, float64, float16 or bfloat16, {name!r} has {weight.dtype}. "
                f"{advice}"
            )
    check_names_free(where, layers, SparseLinear)
    check_untied(where, model, {name: layer for name, layer in layers.items() if layer not in tied})


def by_density(
    where: str, densities: Mapping[Any, float], select: str, generator: torch.Generator | None
) -> dict[nn.Module, Topology]:
    """For each layer round(density * its weights) edges."""
    drawn = {}
    for linear, density in densities.items():
        weight = current(linear, "weight")
        # placeholders of as many edges, where there are no weights to compare
        if select == "random" or weight.is_meta:
            drawn[linear] = patterns.uniform(tuple(weight.shape), density, generator)
        else:
            drawn[linear] = _largest(weight, density)
    return drawn


def check_select(where: str, select: str) -> None:
    if select not in ("magnitude", "random"):
        raise ValueError(f"{where}: expected select to be 'magnitude' or 'random', got {select!r}.")


def _largest(weight: Tensor, density: float) -> Topology:
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    kept = order[: round(density * weight.numel())]
    return Topology.from_mask(torch.zeros_like(order, dtype=torch.bool).index_fill_(0, kept, True).view(weight.shape))


def by_mask(where: str, name: str, linear: Any, mask: Any) -> Topology:
    try:
        t = mask if isinstance(mask, Topology) else Topology.from_mask(mask)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: mask of {name!r}: {error}") from None
    if t.shape != (linear.out_features, linear.in_features):
        raise ValueError(
            f"{where}: expected the mask of {name!r} in shape (out, in) = ({linear.out_features}, "
            f"{linear.in_features}), got {t.shape}."
        )
    return t


def current(linear: Any, part: str) -> Any:
    """Weight or bias, or None, as the next forward pass sees it: under the mask of torch.nn.utils.prune, if any."""
    original = linear._parameters.get(f"{part}_orig")
    if original is None:
        return linear._parameters.get(part)
    mask = linear._buffers[f"{part}_mask"]
    return nn.Parameter(original.detach() * mask.to(original.dtype), original.requires_grad)
