"""Where a layer keeps the weights that exist, whatever kind of layer it is: layers stand on higher floors."""

from collections.abc import MutableMapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..structure.edge_sets import Edges, Structure, positions
from ..structure.topology import Topology

_changes: MutableMapping[Tensor, int] = WeakIdKeyDictionary()  # an attribute would be pickled with the values


class Weights(NamedTuple):
    """The tensor that holds a layer's weights."""

    name: str  # of the attribute
    tensor: Tensor
    mask: Tensor | None  # which of them exist, where not all do

    @property
    def live(self) -> Tensor | None:
        """Places of those that exist in the flattened tensor, row by row as edges are numbered; None for all."""
        return None if self.mask is None or self.mask.is_meta else (self.mask != 0).flatten().nonzero().flatten()


def weights_of(where: str, layer: Any) -> Weights:
    """The values of a layer over edges, the weight of a masked one or of nn.Linear."""
    mask = getattr(layer, "mask", None)
    name = "weight" if isinstance(layer, nn.Linear) or mask is not None else "values"
    weight = getattr(layer, name, None)
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"{where}: expected a layer over edges such as SparseLinear, a MaskedLinear or an nn.Linear, got "
            f"{type(layer).__name__}."
        )
    return Weights(name, weight, mask)


def structure_of(layer: Any) -> Structure:
    """Which edges the weights of a layer are of, in the order in which ``live`` has them."""
    topology = getattr(layer, "topology", None)
    if isinstance(topology, Topology):
        return topology
    return layer.out_features, layer.in_features


def neurons_of(layer: Any) -> tuple[int, int]:
    """Outputs and inputs of a layer: features, or channels."""
    if hasattr(layer, "geometry"):
        return layer.out_channels, layer.in_channels
    return layer.out_features, layer.in_features


def places_of(where: str, layer: Any, weights: Weights, edges: Edges) -> Tensor | None:
    """Places of an edge set in the flattened tensor of weights; None where that is all of it."""
    live = weights.live
    if edges is None:
        return live
    place = positions(where, edges, structure_of(layer), weights.tensor.device)
    return place if live is None or place is None else live[place]


def check_replacement(where: str, ours: Topology, values: Tensor, topology: Any, numbers: Any) -> None:
    """These edges, and a number for each, can take the place of a layer's own."""
    if not isinstance(topology, Topology):
        raise TypeError(
            f"{where}: expected a Topology, got {type(topology).__name__}. Make one with Topology.from_mask, from_coo "
            "or patterns.uniform."
        )
    if topology.shape != ours.shape:
        raise ValueError(f"{where}: expected a topology of shape (out, in) = {ours.shape}, got {topology.shape}.")
    if not are_real(numbers):
        got = f"{numbers.dtype}, {numbers.layout}" if isinstance(numbers, Tensor) else type(numbers).__name__
        raise TypeError(f"{where}: expected values to be a strided tensor of real numbers, got {got}.")
    if numbers.shape != (topology.nnz,):
        raise ValueError(
            f"{where}: expected a value for each edge, shape ({topology.nnz},), got {tuple(numbers.shape)}."
        )
    if numbers.is_meta and not values.is_meta:
        raise ValueError(f"{where}: expected values that hold numbers, got a meta tensor.")
    if numbers.dtype is not values.dtype and not values.is_meta:
        lost = numbers.to(values.dtype).isinf() & ~numbers.isinf()
        if bool(lost.any()):
            raise ValueError(
                f"{where}: expected values that {values.dtype} can hold, as the layer's, got {numbers[lost][0].item()}."
            )


def are_real(numbers: Any) -> TypeGuard[Tensor]:
    """A dense tensor of real numbers, each stored as it is."""
    return (
        isinstance(numbers, Tensor)
        and numbers.layout is torch.strided
        and not numbers.is_complex()
        and not numbers.is_quantized
    )


def edge_changes(values: Tensor) -> int:
    """How often the edges of these values have changed: what a graph may ask that does not read them."""
    return _changes.get(values, 0)


def changed_since(found: str = "") -> RuntimeError:
    """What a backward pass says whose edges are others by now."""
    return RuntimeError(
        f"backward: {found}the edges were changed after the forward pass; run the forward pass again. Change edges "
        "when all backward passes of a step are done."
    )


def count_change(p: nn.Parameter) -> None:
    """The edges of these values have changed."""
    _changes[p] = edge_changes(p) + 1


def replace_numbers(p: nn.Parameter, numbers: Tensor) -> None:
    """The same Parameter object, so that optimizers keep it, with other numbers, as many as there are, and no gradient.

    A graph recorded before can't be used afterwards, and need not be gone: while it lives, autograd keeps the node that
    receives the gradient, and the size that it had. Data of another type in between is what makes it take a new one.
    """
    p.data = numbers.new_empty(0, dtype=torch.float16 if numbers.dtype is torch.float32 else torch.float32)
    p.data = numbers
    p.grad = None
    count_change(p)
    torch.autograd.graph.increment_version(p)
