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

from .. import ranks
from ..curvature.used_rows import in_recorded_pass
from ..edges.module import EdgeModule
from ..edges.spread_rows import Shard, shard_of
from ..nn import LookupTable, SparseLinear
from ..structure.topology import Topology
from . import row_gradients
from .row_sharded_linear import RowShardedLinear
from .same_topology import check_same_edges, layers_of, said_by_all
from .sync_topology import follow_first

WHERE = "DistributedDataParallel"
_ask = DistributedDataParallel._build_params_for_reducer


@wraps(_ask)
def _told(self: Any) -> Any:
    leave_out_shards(self)
    layers = {
        name: layer
        for name, layer in layers_of(WHERE, self.module).items()
        if f"{name}.values".removeprefix(".") not in self.parameters_to_ignore
    }
    if ranks.count(WHERE, self.process_group) > 1:
        follow_first(WHERE, layers, self.process_group)
    self.register_forward_pre_hook(StillReduced(layers))
    parameters, expect_sparse = _ask(self)  # type: ignore[no-untyped-call]
    ours = row_sparse(self.module)
    expect_sparse = [sparse or p in ours for p, sparse in zip(parameters, expect_sparse, strict=True)]
    if ours or (layers and any(expect_sparse)):
        self.register_forward_pre_hook(_AveragedAtOnce())
    return parameters, expect_sparse


def leave_out_shards(wrapper: Any) -> None:
    """Parameters of which each rank holds other rows are neither sent nor averaged. Those that are spread over other
    groups, which have one rank in common with the wrapper's, have copies in this one, which are."""
    ours = set(_ranks_of(wrapper.process_group))

    def is_ours(shard: Shard | None) -> bool:
        return shard is not None and shard.ranks > 1 and len(ours.intersection(_ranks_of(shard.group))) > 1

    def is_spread(p: nn.Parameter) -> bool:
        return is_ours(shard_of(p))

    for name, layer in wrapper.module.named_modules():
        if isinstance(layer, RowShardedLinear) and is_ours(layer.shard):
            _refuse_unless_ignored(wrapper, name, layer)
    shards = {name for name, p in wrapper.module.named_parameters() if is_spread(p)}
    wrapper.parameters_to_ignore |= shards
    wrapper._module_parameters = [p for p in wrapper._module_parameters if not is_spread(p)]
    if shards and not any(p.requires_grad for p in wrapper._module_parameters):
        raise RuntimeError(
            f"{WHERE}: expected parameters beside those that are spread over ranks, which it leaves alone, got none. "
            "Train the model without the wrapper."
        )


def _refuse_unless_ignored(wrapper: Any, name: str, layer: RowShardedLinear) -> None:
    """Rows of the same shapes on all ranks would be overwritten by those of rank 0, without a word."""
    if {f"{name}.{own}".removeprefix(".") for own, _ in layer.named_parameters()} <= set(wrapper.parameters_to_ignore):
        return
    raise RuntimeError(
        f"{WHERE}: expected layers of which all ranks of its group hold copies, got RowShardedLinear "
        f"{name or '(the model itself)'!r}, whose rows are spread over them. Its ranks share one batch: wrap the model "
        "over a group of ranks that hold the same rows, or train it without the wrapper."
    )


def _ranks_of(group: Any) -> list[int]:
    return dist.get_process_group_ranks(dist.group.WORLD if group is None else group)


class StillReduced:
    """Whether the wrapper still averages the gradients of all values, and all ranks have the same edges, asked before
    each forward pass.

    Values that get another number of edges, or other edges by ``replace_edges``, get a new node in autograd's graph,
    which the wrapper does not know: its ranks would train apart without a word. Edges are compared over ranks at the
    first pass whose gradients are averaged, and when they have changed since: in other passes ranks exchange nothing.
    """

    def __init__(self, layers: dict[str, Any]) -> None:
        self.layers = {name: layer for name, layer in layers.items() if isinstance(layer, EdgeModule)}
        self.nodes = [_accumulator(layer) for layer in self.layers.values()]
        self.compared: list[Topology] | None = None

    def __call__(self, wrapper: Any, *_: Any) -> None:
        """RuntimeError: it does not."""
        if torch.compiler.is_compiling():
            return
        for (name, layer), node in zip(self.layers.items(), self.nodes, strict=True):
            if node is not None and _accumulator(layer) is not node:
                raise RuntimeError(
                    f"{WHERE}: expected the edges that {type(layer).__name__} {name or '(the model itself)'!r} had "
                    f"when the model was wrapped, got {layer.topology!r} that it changed to, whose gradients would not "
                    "be averaged over ranks. Wrap the model again after its number of edges changes."
                )
        if in_recorded_pass():
            raise RuntimeError(
                f"{WHERE}: expected passes of which gradients are averaged over ranks, got one for second derivatives, "
                f"which would be of the samples of rank {ranks.own_place()} alone. Pass wrapped.module to curvature, "
                "and average its products; train by HessianFree in one process, as ranks would train apart."
            )
        if torch.is_grad_enabled() and wrapper.require_backward_grad_sync and not wrapper._join_config.enable:
            self._compare(wrapper.process_group)

    def _compare(self, group: Any) -> None:
        now = [layer.topology for layer in self.layers.values()]
        known = self.compared
        if known is None or any(one is not other for one, other in zip(known, now, strict=True)):
            if ranks.count(WHERE, group) > 1:
                said = said_by_all(WHERE, self.layers, group)
                check_same_edges(WHERE, said, group)
            self.compared = now

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # nodes can't be sent; a wrapper that is unpickled asks for parameters anew


class _AveragedAtOnce:
    """At the first forward pass, when the user has chosen a communication hook or none: see row_gradients."""

    begun = False

    def __call__(self, wrapper: Any, *_: Any) -> None:
        if not self.begun and not torch.compiler.is_compiling():
            row_gradients.use(wrapper)
            self.begun = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()


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
