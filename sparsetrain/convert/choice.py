"""Which layers of a model become sparse, and which edges they keep."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import patterns
from ..dtypes import FLOATS, HALVES
from ..layer_names import by_any_name
from ..nn.convolution_edges import matrix_shape
from ..structure.topology import Topology
from .kinds import LAZY, beside_weight, sparse_kind, weight_shape
from .swap import check_names_free, check_untied, kind_of, some


def named(
    where: str,
    model: nn.Module,
    masks: Mapping[str, Any],
    left: set[nn.Module],
    candidate: Callable[[nn.Module], bool],
    what: str,
) -> dict[nn.Module, Any]:
    """The masks by layer, all of which are candidates, or ``what`` a message calls them."""
    if not isinstance(masks, Mapping):
        raise TypeError(f"{where}: expected masks to be a dict from layer names to masks, got {type(masks).__name__}.")
    modules = by_any_name(model)
    layers = {name: module for name, module in modules.items() if candidate(module)}
    wanted: dict[nn.Module, Any] = {}
    for name, mask in masks.items():
        if name not in layers:
            kind = f", a {type(modules[name]).__name__}" if name in modules else ""
            raise ValueError(
                f"{where}: expected names of {what} layers in masks, got {name!r}{kind}. There are {some(layers)}."
            )
        if layers[name] in wanted or layers[name] in left:
            place = "skip" if layers[name] in left else "masks under another name"
            raise ValueError(f"{where}: expected each layer to be named once, got {name!r} in masks and in {place}.")
        wanted[layers[name]] = mask
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
                f"{where}: expected layers of weight and bias alone, {name!r} has {', '.join(sorted(more))}. {advice}"
            )
        weight = None if kind_of(layer) in LAZY else current(layer, "weight")
        if weight is None or (meta and weight.is_meta):
            raise ValueError(f"{where}: expected weights, {name!r} has none yet. Initialize it before. Or: {advice}")
        if weight.dtype not in (*FLOATS, *HALVES):
            raise TypeError(
                f"{where}: expected weights in float32, float64, float16 or bfloat16, {name!r} has {weight.dtype}. "
                f"{advice}"
            )
    for name, layer in layers.items():
        check_names_free(where, {name: layer}, sparse_kind(layer))
    check_untied(where, model, {name: layer for name, layer in layers.items() if layer not in tied})


def by_density(
    where: str, densities: Mapping[Any, float], select: str, generator: torch.Generator | None
) -> dict[nn.Module, Topology]:
    """For each layer round(density * its weights) edges."""
    drawn = {}
    for layer, density in densities.items():
        weight = current(layer, "weight")
        # placeholders of as many edges, where there are no weights to compare
        if select == "random" or weight.is_meta:
            drawn[layer] = patterns.uniform(matrix_shape(tuple(weight.shape)), density, generator)
        else:
            drawn[layer] = _largest(weight, density)
    return drawn


def check_select(where: str, select: str) -> None:
    if select not in ("magnitude", "random"):
        raise ValueError(f"{where}: expected select to be 'magnitude' or 'random', got {select!r}.")


def _largest(weight: Tensor, density: float) -> Topology:
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    kept = order[: round(density * weight.numel())]
    mask = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, kept, True)
    return Topology.from_mask(mask.view(matrix_shape(tuple(weight.shape))))


def by_mask(where: str, name: str, layer: nn.Module, mask: Any) -> Topology:
    """The edges of a mask in the shape of the weight, or for convolutions in that of its matrix too."""
    shape = weight_shape(layer)
    matrix = matrix_shape(shape)
    try:
        if isinstance(mask, Tensor) and tuple(mask.shape) == shape:
            mask = mask.reshape(matrix)
        t = mask if isinstance(mask, Topology) else Topology.from_mask(mask)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: mask of {name!r}: {error}") from None
    if t.shape != matrix:
        expected = f"(out, in) = {shape}" if shape == matrix else f"{shape}, or as a matrix {matrix}"
        raise ValueError(f"{where}: expected the mask of {name!r} in shape {expected}, got {t.shape}.")
    return t


def current(layer: Any, part: str) -> Any:
    """Weight or bias, or None, as the next forward pass sees it: under the mask of torch.nn.utils.prune, if any."""
    original = layer._parameters.get(f"{part}_orig")
    if original is None:
        return layer._parameters.get(part)
    mask = layer._buffers[f"{part}_mask"]
    return nn.Parameter(original.detach() * mask.to(original.dtype), original.requires_grad)
