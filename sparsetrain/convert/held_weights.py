"""The weights of a model and the tensors that hold them, whatever computes one from the others."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from ..edges.module import EdgeModule
from ..nn import MaskedLinear
from ..nn.sparse_convolution import SparseConvolution
from ..structure.topology import Topology
from .swap import identity, kind_of


@dataclass(frozen=True)
class Held:
    """A weight of a module.

    Attributes:
        name: as a summary calls it.
        module: which has it.
        shape: empty where it has none yet.
        edges: how many of its positions count.
        tensors: that hold its numbers.
        masks: that say which positions count.
        topology: of a layer over edges.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    edges: int
    tensors: list[Tensor]
    masks: list[Tensor] = field(default_factory=list)
    topology: Topology | None = None

    @property
    def kind(self) -> str:
        """The class, without what parametrizations make of it."""
        return kind_of(self.module).__name__

    @property
    def sparse(self) -> bool:
        """Whether it is over edges, or a masked twin of that."""
        return self.topology is not None or isinstance(self.module, MaskedLinear)


class Once:
    """Counts the bytes of each piece of memory once, and knows which weight it belongs to."""

    def __init__(self) -> None:
        self._owners: dict[object, str | None] = {}

    def owner(self, tensor: Tensor) -> str:
        """The weight that these numbers were counted for, if they were."""
        return self._owners.get(identity(tensor)) or ""

    def bytes_of(self, tensor: Tensor, owner: str | None = None) -> int:
        """Of a tensor that was not counted yet, else 0."""
        nbytes = 0 if is_lazy(tensor) else tensor.numel() * tensor.element_size()
        return self.bytes_of_arrays({identity(tensor): nbytes}, owner)

    def bytes_of_arrays(self, arrays: dict[Any, int], owner: str | None = None) -> int:
        """Of those among some pieces of memory that were not counted yet."""
        new = {key: nbytes for key, nbytes in arrays.items() if key not in self._owners}
        self._owners.update(dict.fromkeys(new, owner))
        return sum(new.values())


def held_weights(model: nn.Module) -> Iterator[Held]:
    """Every weight of a model: of layers over edges, of linear layers, and each other of two dimensions or more."""
    inside = {
        inner
        for module in model.modules()
        if isinstance(module, ParametrizationList)
        for inner in module.modules()
    }  # fmt: skip
    for name, module in model.named_modules():
        if module in inside:
            continue
        tensors = _tensors_by_name(module)
        if isinstance(module, EdgeModule):
            yield _over_edges(name, module, tensors.get("values", []))
        elif isinstance(module, nn.Linear | MaskedLinear):
            yield _linear(name, module, [each for key, held in tensors.items() if key != "bias" for each in held])
        else:
            yield from _others(name, module, tensors)


def _tensors_by_name(module: nn.Module) -> dict[str, list[Tensor]]:
    """What holds each parameter: itself, what torch.nn.utils.prune made of it, or what it is computed from."""
    held: dict[str, list[Tensor]] = defaultdict(list)
    for key, parameter in module._parameters.items():
        if parameter is not None:
            held[key.removesuffix("_orig") if _mask(module, key) is not None else key].append(parameter)
    if is_parametrized(module):
        for key, computed in module.get_submodule("parametrizations").named_children():
            held[key] += [*computed.parameters(), *computed.buffers()]
    return held


def _mask(module: nn.Module, original: str) -> Tensor | None:
    return module._buffers.get(f"{original.removesuffix('_orig')}_mask") if original.endswith("_orig") else None


def _over_edges(name: str, layer: Any, tensors: list[Tensor]) -> Held:
    t = layer.topology
    shape = layer.weight_shape if isinstance(layer, SparseConvolution) else t.shape
    return Held(name, layer, shape[::-1] if layer.reads_transposed else shape, t.nnz, tensors, topology=t)


def _linear(name: str, layer: Any, tensors: list[Tensor]) -> Held:
    if any(map(is_lazy, tensors)):
        return Held(name, layer, (), 0, tensors)
    shape = (layer.out_features, layer.in_features)
    masks = [mask for mask in (layer._buffers.get("mask"), layer._buffers.get("weight_mask")) if mask is not None]
    edges = int(masks[0].count_nonzero()) if masks and not masks[0].is_meta else math.prod(shape)
    return Held(name, layer, shape, edges, tensors, masks)


def _others(name: str, module: nn.Module, tensors: dict[str, list[Tensor]]) -> Iterator[Held]:
    for key, held in tensors.items():
        lazy = any(map(is_lazy, held))
        largest = None if lazy else max(held, key=Tensor.numel)
        if "bias" in key or (largest is not None and largest.ndim < 2):
            continue
        full = name if key == "weight" else f"{name}.{key}".lstrip(".")
        mask = module._buffers.get(f"{key}_mask")
        masks = [] if mask is None else [mask]
        shape = () if largest is None else tuple(largest.shape)
        edges = int(mask.count_nonzero()) if mask is not None and not mask.is_meta else math.prod(shape) if shape else 0
        yield Held(full, module, shape, edges, held, masks)
