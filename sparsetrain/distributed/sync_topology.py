"""sync_topology: all ranks go on with the edges of the first."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import ranks
from ..edges.packed_edges import packed
from ..edges.sharded import is_sharded
from ..edges.stored_edges import unpacked
from ..edges.weights import weights_of
from ..optim.carried import Carried
from ..structure.edit import Edit
from .same_topology import layers_of, said_by_all

Sent = tuple[list[Tensor], dict[str, tuple[int, Tensor]]]  # topologies; by layer the place of its own, and its values


def sync_topology(model: nn.Module, group: Any = None, *, optimizer: Optimizer | None = None) -> None:
    r"""Give all ranks of a group the edges of its first rank. All of its ranks call it.

    It is a change of edges as by optim.carry. Where a rank has an edge that the first has too, the value stays, bit for
    bit, and so does what an optimizer holds for it. Other edges come with the value that they have on the first rank:

    .. math:: w'_e = w_e \ \text{if the rank has edge } e, \ \text{else } w_e \text{ of the first rank}.

    Layers whose edges agree are left as they are. DistributedDataParallel does all this as it wraps a model, and sends
    the values of the first rank after. Call it for models that are trained otherwise, before fully_shard for instance,
    and make an Evolver afterwards. Without a group, or with one rank, it does nothing.

    Args:
        model: the same layers on all ranks, drawn with any seeds.
        group: a process group, or None for all processes.
        optimizer: of its parameters on this rank, which is carried along: moments stay with their edges and start anew
            for those that come.

    Raises:
        RuntimeError: on all ranks, naming one of them and a layer: models differ in more than edges, a layer can't
            go on with other edges (they are sharded already, or constrained edge by edge), or a rank does not take
            part. Nothing is changed then. ValueError: this rank is not in the group.
        TypeError: the model is no module, or the optimizer none.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> model = nn.Sequential(SparseLinear(8, 4, density=0.5))
        >>> sync_topology(model)  # under torchrun; in one process there is nothing to do
    """
    where = "distributed.sync_topology"
    layers = layers_of(where, model)
    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        raise TypeError(f"{where}: expected a torch optimizer or None, got {type(optimizer).__name__}.")
    if ranks.count(where, group) > 1:
        follow_first(where, layers, group, optimizer)


@torch.no_grad()
def follow_first(where: str, layers: Mapping[str, Any], group: Any, optimizer: Optimizer | None = None) -> None:
    """Give the layers of this rank the edges of the group's first, where theirs differ. All ranks call it."""
    said = said_by_all(where, layers, group)
    first, ours = said[0], said[ranks.own_place(group)]
    differ = [name for name in layers if any(each[name] != first[name] for each in said)]
    if not differ:
        return
    _check_all(where, group, next((_sharded(where, name) for name in differ if _is_sharded(where, layers[name])), None))
    ours_sent = _packed(where, {name: layers[name] for name in differ}) if ranks.own_place(group) == 0 else None
    sent = ranks.sent_by_first(where, ours_sent, group)
    change, fault = None, None
    try:
        change = _change(where, {name: layers[name] for name in differ if ours[name] != first[name]}, sent, optimizer)
    except (RuntimeError, TypeError, ValueError) as error:
        fault = str(error)
    _check_all(where, group, fault)
    if change is not None:
        change.layers()
        change.optimizer()


def _packed(where: str, layers: Mapping[str, Any]) -> Sent:
    """The edges and values of layers on the CPU, as devices differ by rank. Layers that share edges go on to do so."""
    of_layers = {name: layer.topology for name, layer in layers.items()}
    distinct = list({id(t): t for t in of_layers.values()}.values())
    places = {id(t): place for place, t in enumerate(distinct)}
    values = {name: (places[id(t)], _values(where, layers[name])) for name, t in of_layers.items()}
    return [packed(t).cpu() for t in distinct], values


def _values(where: str, layer: Any) -> Tensor:
    """A number for each edge, in their order."""
    weights = weights_of(where, layer)
    numbers = weights.tensor.detach().flatten().cpu()
    return numbers if weights.live is None else numbers[weights.live.cpu()]


def _change(where: str, layers: Mapping[str, Any], sent: Sent, optimizer: Optimizer | None) -> Carried:
    """The change after which these layers have the edges that were sent. ValueError, TypeError: one can't go on so."""
    topologies = [unpacked(edges).topology() for edges in sent[0]]
    edits, start = {}, {}
    for name, layer in layers.items():
        place, values = sent[1][name]
        edit = Edit.between(layer.topology, topologies[place])
        edits[layer], start[layer] = edit, values.to(edit.grown.device)[edit.grown]
        layer.plan_edit(f"{where}: layer {name!r}", edit, start[layer])  # what is refused is refused by name
    return Carried(where, optimizer, edits, start)


def _is_sharded(where: str, layer: Any) -> bool:
    return is_sharded(weights_of(where, layer).tensor)


def _sharded(where: str, name: str) -> str:
    return f"{where}: layer {name!r}: the values are sharded over ranks. Call it before fully_shard."


def _check_all(where: str, group: Any, fault: str | None) -> None:
    """RuntimeError, on all ranks: one of them has a fault."""
    for place, each in enumerate(ranks.gathered(where, fault, group)):
        if each is not None:
            raise RuntimeError(
                f"{each} Rank {ranks.number_of(group, place)} can't go on with the edges of rank "
                f"{ranks.number_of(group, 0)}, and nothing was changed. Draw edges from a generator with the same seed "
                "on all ranks."
            )
