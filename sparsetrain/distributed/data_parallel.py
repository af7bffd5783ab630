"""What DistributedDataParallel is told of our layers: which gradients are row-sparse, and whose edges hold.

It asks nn.Embedding and nn.EmbeddingBag alone whether their gradients are sparse, in a private method that is extended
here when sparsetrain is imported; for other modules nothing changes. It sends the parameters of rank 0 to all ranks,
which drew edges of their own where they have no common seed: the edges of rank 0 are sent along, before.
"""

from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..edges.module import EdgeModule
from ..edges.stored_edges import packed, unpacked
from ..nn import LookupTable, SparseLinear

_ask = DistributedDataParallel._build_params_for_reducer


@wraps(_ask)
def _told(self: Any) -> Any:
    share_edges(self.module, self.process_group)
    self.register_forward_pre_hook(StillReduced(self.module))
    parameters, expect_sparse = _ask(self)  # type: ignore[no-untyped-call]
    ours = row_sparse(self.module)
    return parameters, [sparse or p in ours for p, sparse in zip(parameters, expect_sparse, strict=True)]


class StillReduced:
    """Whether the wrapper still averages the gradients of all values, asked before each forward pass.

    Values that get another number of edges, or other edges by ``replace_edges``, get a new node in autograd's graph,
    which the wrapper does not know: its ranks would train apart without a word.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, EdgeModule)]
        self.nodes = [_accumulator(layer) for layer in self.layers]

    def __call__(self, *_: Any) -> None:
        """RuntimeError: it does not."""
        if torch.compiler.is_compiling():
            return
        for layer, node in zip(self.layers, self.nodes, strict=True):
            if node is not None and _accumulator(layer) is not node:
                raise RuntimeError(
                    f"DistributedDataParallel: expected the edges that a {type(layer).__name__} had when the model was "
                    f"wrapped, got {layer.topology!r} that it changed to, whose gradients would not be averaged over "
                    "ranks. Wrap the model again after its number of edges changes."
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # nodes can't be sent; a wrapper that is unpickled asks for parameters anew


def _nothing() -> Any:
    return lambda *_: None


def _accumulator(layer: EdgeModule) -> Any:
    """The node of the graph in which the gradient of a layer's values arrives."""
    values = layer.values
    leaf = isinstance(values, nn.Parameter) and values.requires_grad
    return torch.autograd.graph.get_gradient_edge(values).node if leaf else None


def extend() -> None:
    """Let DistributedDataParallel know of the layers, from now on."""
    DistributedDataParallel._build_params_for_reducer = _told  # type: ignore[method-assign]


def row_sparse(model: nn.Module) -> set[nn.Parameter]:
    """The parameters whose gradients are row-sparse."""
    found = set()
    for module in model.modules():
        if isinstance(module, LookupTable):
            found.add(module.weight)
        elif isinstance(module, SparseLinear) and module.sparse_grad and isinstance(module.values, nn.Parameter):
            found.add(module.values)
    return found


@torch.no_grad()
def share_edges(model: nn.Module, group: Any = None) -> None:
    """Give all ranks the edges of the group's first, with its values, where theirs differ. All ranks call it.

    RuntimeError, on all of them: they differ in layers that can't go on with other edges, or ranks have other layers.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, EdgeModule)}
    ranks = dist.get_world_size(group)
    if not layers or ranks < 2:
        return
    said: list[Any] = [None] * ranks
    dist.all_gather_object(said, {name: _identity(layer) for name, layer in layers.items()}, group)
    if any(each.keys() != said[0].keys() for each in said):
        raise RuntimeError("DistributedDataParallel: expected the same layers over edges on all ranks, got others.")
    differ = [name for name in layers if any(each[name] != said[0][name] for each in said)]
    if not differ:
        return
    for name in differ:
        _check_replaceable(name, layers[name], {each[name][0] for each in said})
    first = 0 if group is None else dist.get_global_rank(group, 0)
    sent: list[Any] = [None] * len(differ)
    if dist.get_rank() == first:
        sent = [(packed(layer.topology), layer.values.detach()) for layer in map(layers.__getitem__, differ)]
    dist.broadcast_object_list(sent, first, group)
    for name, (edges, values) in zip(differ, sent, strict=True):
        if said[dist.get_rank(group)][name] != said[0][name]:
            layers[name].replace_edges(unpacked(edges).topology(), values)


def _identity(layer: EdgeModule) -> tuple[Any, ...]:
    t = layer.topology
    return t.shape, t.digest, t.inputs, t.outputs


def _check_replaceable(name: str, layer: EdgeModule, shapes: set[tuple[int, int]]) -> None:
    if len(shapes) > 1:
        raise RuntimeError(f"DistributedDataParallel: expected {name!r} in one shape on all ranks, got {shapes}.")
    computed = not isinstance(layer.values, nn.Parameter)
    if computed:
        raise RuntimeError(
            f"DistributedDataParallel: the edges of {name!r} differ between ranks, and its values are computed from "
            "others, so that it can't go on with those of rank 0. Draw edges from a generator with the same seed on "
            "all ranks."
        )
