"""carry: a change of edges applied to everything that has one entry for each edge."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from ..edges.holders import check_reached
from ..edges.slots import Plan, SlotMap
from ..edges.weights import count_change, replace_numbers
from ..structure.edit import Edit
from . import state as of_optimizers
from .row_optimizer import RowOptimizer
from .wrapped import unwrapped

WHERE = "optim.carry"
Group = dict[str, Any]


class InPlace(NamedTuple):
    """Entries that are moved within their memory once everything is checked, one array after the other."""

    slots: SlotMap
    entries: Tensor
    fill: float

    @classmethod
    def or_moved(cls, slots: SlotMap, entries: Tensor, fill: Tensor | float = 0.0) -> "InPlace | Tensor":
        """Later, or where that could fail now: another array."""
        if slots.moves_in_place(entries, fill):
            return cls(slots, entries, float(fill))
        return slots.moved(entries, fill)


def carry(
    optimizer: Optimizer | None, edits: Mapping[Any, Edit], *, values: Mapping[Any, Tensor] | None = None
) -> None:
    r"""Change the edges of layers, and carry values, gradients and optimizer state along.

    Values, gradients, and what an optimizer of torch.optim or sparsetrain.optim keeps for each value move by one map:

    .. math:: w'_k = w_{s_k} \ \text{if} \ s_k \ge 0, \ \text{else what a new parameter starts with},

    with :math:`s` = ``edit.source``. Edges that stay keep theirs bit for bit. Newborn edges start at 0, with moments of
    0, Rprop's step size lr, Adagrad's initial accumulator, ASGD's average at the value. In sparsetrain.optim.Adam and
    AdamW their steps are counted from birth, so that their first move is lr, as that of a new parameter; torch's go on
    with the count of the parameter, and move a newborn edge by up to 3.16 lr.

    The Parameter stays the same object. Where the number of edges stays, data, gradient and state stay in their memory
    too, so that compiled graphs and DistributedDataParallel go on.

    Args:
        optimizer: of the layers' values; None where there is none, as for an average of a model's weights.
        edits: by layer: SparseLinear, SparseDeltaLinear, MaskedLinear. Of layers tied by ``transposed()`` one is
            enough. Constraints go on; those that hold for all edges alike hold for newborn ones, which start a
            hundredth of the interval inside where they would be on a bound, and never move.
        values: by layer, what newborn edges start with in place of zeros, in the order of ``edit.grown``.

    Raises:
        ValueError: an edit of other edges than the layer has, values that a layer without an edit holds too, state that
            can't be carried, such as that of LBFGS, or constraints that do not say what holds for newborn edges.
            TypeError: no layer over edges, no optimizer.
            RuntimeError: called inside of a backward pass. Whatever is raised, nothing has changed.

    Example:
        >>> from sparsetrain import Edit, Topology
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(3, 2, topology=Topology.from_mask([[1, 0, 1], [0, 1, 0]]))
        >>> nn.init.ones_(layer.values)
        Parameter containing:
        tensor([1., 1., 1.], requires_grad=True)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> carry(optimizer, {layer: Edit(layer.topology, kept=[0, 2], grown=([1], [2]))})
        >>> layer.values.tolist(), layer.topology.col.tolist()
        ([1.0, 1.0, 0.0], [0, 1, 2])
    """
    change = Carried(WHERE, optimizer, edits, values)
    change.layers()
    change.optimizer()


class Carried:
    """A change of edges that is checked and ready: nothing has changed yet, and what remains to be done can't fail.

    Layers and the optimizer are changed apart, for loading, which may have to undo what it did to the layers.
    """

    @torch.no_grad()
    def __init__(
        self,
        where: str,
        optimizer: Optimizer | None,
        edits: Mapping[Any, Edit],
        values: Mapping[Any, Tensor] | None = None,
    ) -> None:
        _check_arguments(where, optimizer, edits, values)
        optimizer = unwrapped(optimizer)
        if isinstance(optimizer, RowOptimizer):
            optimizer.flush()
        self._optimizer = optimizer
        self._plans = _plans(where, edits, {} if values is None else values)
        self._states, self._penalties = _moved_states(where, optimizer, self._plans)
        self._gradients = {p: _moved_gradient(p, plan.slots) for p, (plan, _) in self._plans.items()}
        later = [*self._gradients.values(), *(each for moved in self._states.values() for each in moved.values())]
        sizes = [each.entries.nbytes for each in later if isinstance(each, InPlace)]
        self._room = torch.empty(max(sizes, default=0), dtype=torch.uint8)

    @torch.no_grad()
    def layers(self) -> None:
        """Values, gradients and edges of the layers."""
        for p, (plan, finishes) in self._plans.items():
            _go_on(p, plan, self._gradients[p], self._room)
            for finish in finishes:
                finish()

    @torch.no_grad()
    def optimizer(self) -> None:
        """What the optimizer holds for them."""
        for p, moved in self._states.items():
            if moved:
                _put(self._optimizer.state[p], moved, self._room)
            if isinstance(self._optimizer, RowOptimizer) and not self._plans[p][0].slots.keeps_size:
                self._optimizer.resized(p)
        for group, l1 in self._penalties:
            group["l1"] = l1


def _check_arguments(where: str, optimizer: Any, edits: Any, values: Any) -> None:
    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        raise TypeError(f"{where}: expected a torch optimizer or None, got {type(optimizer).__name__}.")
    if not isinstance(edits, Mapping) or not all(isinstance(edit, Edit) for edit in edits.values()):
        raise TypeError(f"{where}: expected edits as a dict from layers to Edit, got {edits!r}.")
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(f"{where}: called inside of a backward pass, which still reads the edges. Call it after.")
    for layer in {} if values is None else values:
        if layer not in edits:
            raise ValueError(f"{where}: expected values of layers that are edited, got some of {layer!r}.")


def _plans(
    where: str, edits: Mapping[Any, Edit], values: Mapping[Any, Tensor]
) -> dict[nn.Parameter, tuple[Plan, list[Any]]]:
    """By parameter, what is planned for it, and how each of its layers finishes."""
    plans: dict[nn.Parameter, tuple[Plan, list[Any]]] = {}
    for layer, edit in edits.items():
        if not hasattr(layer, "plan_edit"):
            raise TypeError(f"{where}: expected layers over edges such as SparseLinear, got {type(layer).__name__}.")
        plan = layer.plan_edit(where, edit, values.get(layer))
        known = plans.setdefault(plan.parameter, (plan, []))
        if not torch.equal(known[0].slots.source, plan.slots.source):
            raise ValueError(f"{where}: expected one edit for layers over one value array, got another for {layer!r}.")
        check_reached(where, repr(layer), plan.parameter, edits.keys())
        known[1].append(plan.finish)
    return plans


def _go_on(p: nn.Parameter, plan: Plan, gradient: Tensor | InPlace | None, room: Tensor) -> None:
    if plan.slots.keeps_size:
        p.copy_(plan.numbers)
        count_change(p)
        if isinstance(gradient, InPlace):
            gradient.slots.move_in_place(gradient.entries, gradient.fill, room)
        elif p.grad is not None and gradient is not None:
            p.grad.copy_(gradient)
    else:
        replace_numbers(p, plan.numbers)
        p.grad = cast(Tensor | None, gradient)  # of another size, so nothing that moves in place


def _moved_gradient(p: nn.Parameter, slots: SlotMap) -> Tensor | InPlace | None:
    if p.grad is None:
        return None
    if not p.grad.is_sparse:
        return InPlace.or_moved(slots, p.grad)
    named = torch.zeros_like(p).index_fill_(0, p.grad._indices()[0], 1.0)  # a used edge may have a gradient of zero
    rows = slots.moved(named).nonzero().flatten()
    moved = slots.moved(p.grad.to_dense())
    return torch.sparse_coo_tensor(rows[None], moved[rows], moved.shape, is_coalesced=True, check_invariants=False)


# ---- optimizers ------------------------------------------------------------------------------------------------------


def _moved_states(where: str, optimizer: Optimizer | None, plans: Mapping[nn.Parameter, tuple[Plan, Any]]) -> Any:
    """What an optimizer holds for each value, at its new place; and the l1 of groups."""
    states: dict[nn.Parameter, dict[str, Any]] = {}
    penalties: list[tuple[Group, Tensor]] = []
    if optimizer is None:
        return states, penalties
    if isinstance(optimizer, LBFGS) and plans:
        raise ValueError(
            f"{where}: the state of LBFGS is of all parameters together and can't be carried along. Change edges "
            "without it, and make a new optimizer."
        )
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p in plans:
                states[p] = _moved_state(where, optimizer, group, p, plans[p][0])
                l1 = group.get("l1")
                if isinstance(l1, Tensor) and l1.ndim:
                    penalties.append((group, _moved_l1(where, group, l1, plans[p][0].slots)))
    return states, penalties


def _moved_state(where: str, optimizer: Optimizer, group: Group, p: nn.Parameter, plan: Plan) -> Group:
    state, slots = optimizer.state.get(p, {}), plan.slots
    declared = of_optimizers.declared(optimizer) or {}
    newborn = slots.newborn
    grows = bool(newborn.any())
    moved: Group = {}
    for name, kept in state.items():
        kind, fill = declared.get(name, ("each", None))
        if not isinstance(kept, Tensor) or not kept.ndim or kind == "one":
            if kept is None or isinstance(kept, Tensor | bool | int | float | str):
                continue
        elif kind == "row":
            each = kept if kept.numel() == p.numel() else kept.repeat_interleave(p.numel() // max(1, kept.numel()))
            moved[name] = InPlace.or_moved(slots, each) if each is kept else slots.moved(each)
            continue
        elif kept.shape == p.shape and kept.layout is torch.strided and not (grows and fill is None):
            moved[name] = InPlace.or_moved(
                slots, kept, of_optimizers.filled(fill or 0.0, group, lambda: plan.numbers.reshape(-1)[newborn])
            )
            continue
        raise _unknown(where, optimizer, p, name, kept)
    if grows and state and isinstance(optimizer, RowOptimizer) and optimizer._counts_births(group):
        counts = state.get("row_steps")
        if counts is None:
            so_far = int(state["step"]) if "step" in state else 1
            steps = torch.full(newborn.shape, so_far, dtype=torch.int32, device=p.device)
            moved["row_steps"] = steps.masked_fill_(newborn, 0)
    return moved


def _put(state: Group, moved: Group, room: Tensor) -> None:
    """In the same memory where the size stays."""
    for name, new in moved.items():
        kept = state.get(name)
        if isinstance(new, InPlace):
            new.slots.move_in_place(new.entries, new.fill, room)
        elif isinstance(kept, Tensor) and kept.shape == new.shape:
            kept.copy_(new)
        else:
            state[name] = new


def _moved_l1(where: str, group: Group, l1: Tensor, slots: SlotMap) -> Tensor:
    if len(group["params"]) > 1:
        raise ValueError(
            f"{where}: an l1 for each value is shared by {len(group['params'])} parameters of a group, which would no "
            "longer be of one shape. Give each parameter a group of its own."
        )
    if bool(slots.newborn.any()):
        raise ValueError(
            f"{where}: an l1 for each value does not say what holds for newborn edges. Set it to a number in that "
            "group, and to a tensor for the new edges afterwards."
        )
    return slots.moved(l1)


def _unknown(where: str, optimizer: Optimizer, p: nn.Parameter, name: str, kept: Any) -> ValueError:
    got = f"shape {tuple(kept.shape)}, {kept.layout}" if isinstance(kept, Tensor) else type(kept).__name__
    return ValueError(
        f"{where}: expected the state of {type(optimizer).__name__} to hold numbers, and tensors of the values' shape "
        f"{tuple(p.shape)} of which it is known what newborn edges start with, got {name!r} of {got}. Delete it from "
        "optimizer.state, or make a new optimizer afterwards."
    )
