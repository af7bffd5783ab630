"""What every layer over edges shares: a value Parameter and a Topology that travel, save and load together."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from ..dtypes import keeping_wide, widen_loaded
from ..structure.edit import Edit
from ..structure.topology import Topology
from ..tracing import refuse_script
from . import holders
from .frames import Unknown, aligned, edge_frame
from .packed_edges import for_state_dict
from .pending import bring_up_to_date
from .settable_state import Buffers
from .sharded import check_same_edges, is_sharded, misfit, no_view, row_sparse_refused
from .slots import Plan, SlotMap, started
from .stored_edges import KEY, difference, stored_in, unpacked, upgrade
from .weights import check_replacement, replace_numbers


class EdgeModule(nn.Module):
    """A module that keeps its weight as one value for each edge of a topology.

    The topology is a plain attribute that modules share, not a buffer: loading a state must not write into what other
    layers use, and ``.to`` must not make copies of it. ``state_dict`` holds a copy all the same, as torch's extra
    state, so that values are never loaded onto other edges.
    """

    topology: Topology
    values: nn.Parameter
    awaits_edges = False  # whether the edges are placeholders, drawn on the meta device, for those of a state to come
    _agreed: Topology | None = None  # edges that all ranks over which the values are sharded have
    reads_transposed = False  # whether the edges' rows are inputs here, and their columns outputs

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.__dict__["_buffers"] = Buffers(self, {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_buffers"] = Buffers(self, self._buffers)
        if not self.reads_transposed:  # which lists the values of another layer
            holders.note(self, self._parameters.get("values"))

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As in nn.Module. Layers with the same values keep track of each other."""
        super().register_parameter(name, param)
        if name == "values":
            holders.note(self, param)

    @property
    def _extra_state(self) -> Tensor:
        return self.get_extra_state()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "values" and is_sharded(value) and getattr(self, "sparse_grad", False):
            raise row_sparse_refused(type(self).__name__, "Set layer.sparse_grad = False before.")
        if name == KEY:  # an empty tensor from transformers, for what a checkpoint lacks
            return
        super().__setattr__(name, Parametrizations() if name == "parametrizations" else value)
        if name == "values" and is_sharded(value) and self._agreed is not self.topology:
            check_same_edges(type(self).__name__, self.topology, value.device_mesh)
            if self._agreed is None:
                self.register_forward_hook(no_view, prepend=True)
            self.__dict__["_agreed"] = self.topology

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.bring_up_to_date()
        super()._apply(keeping_wide(fn), recurse)  # type: ignore[no-untyped-call]
        if self.values.device.type != "meta":  # a structure can't be made anew from nothing
            self.topology = self.topology.to(self.values.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.bring_up_to_date()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def get_extra_state(self) -> Tensor:
        """The edges as one tensor, a copy."""
        return for_state_dict(self.topology)

    def set_extra_state(self, state: Any) -> None:
        """Load the edges that are stored with the values. They must equal the layer's edges.

        A layer that was created on the meta device, with random edges, takes the stored edges.

        Raises:
            ValueError: these are other edges, or damaged ones.
        """
        stored = unpacked(state)
        error = difference(self.topology, stored)
        if not error:
            self.awaits_edges = False
            return
        topology = stored.topology() if self.awaits_edges and stored.shape == self.topology.shape else None
        if topology is None or (self.values.numel() != topology.nnz and not self.values.is_meta):
            raise ValueError(f"{type(self).__name__}: {error}")
        if self.values.numel() != topology.nnz:
            self.values = nn.Parameter(self.values.new_empty(topology.nnz), self.values.requires_grad)
        self.topology = topology if self.values.is_meta else topology.to(self.values.device)
        self.awaits_edges = False

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        for hook in self._load_state_dict_pre_hooks.values():  # they may give keys the names that are checked
            hook(state_dict, prefix, *rest)
        try:
            upgrade(state_dict, prefix)
            if self.awaits_edges and prefix + KEY in state_dict:
                self.set_extra_state(state_dict[prefix + KEY])
            stored = stored_in(state_dict, prefix)
            error = difference(self.topology, stored) if stored else ""
            error = error or misfit(self._parameters.get("values"), state_dict.get(prefix + "values"))
        except ValueError as damaged:
            error = str(damaged)
        if error:
            error_msgs.append(f"{type(self).__name__} {prefix.rstrip('.') or '(the model itself)'}: {error}")
            return
        self.bring_up_to_date()  # pending updates belong to the old values
        widen_loaded(state_dict, prefix + "values")
        hooks, self._load_state_dict_pre_hooks = self._load_state_dict_pre_hooks, OrderedDict()
        try:
            super()._load_from_state_dict(state_dict, prefix, *rest)
        finally:
            self._load_state_dict_pre_hooks = hooks

    def bring_up_to_date(self) -> None:
        """Apply pending updates, before values are read, saved or copied."""
        if "values" in self._parameters:  # and not a parametrization of them
            bring_up_to_date(self.values)

    __prepare_scriptable__ = refuse_script

    def __getstate__(self) -> Any:
        self.bring_up_to_date()
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def edges(self) -> Any:
        """A data frame of the edges: source, target and weight, in the order of the values.

        Nodes have their names, or their numbers where they have none. ``frame.attrs`` keeps the names of all inputs and
        outputs in order, so that SparseLinear.from_edges makes the same layer of the frame. Constraints are not in it.

        Raises:
            ModuleNotFoundError: pandas is not installed; the message says how to get it.

        Example:
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear.from_edges([("TP53", "apoptosis"), ("MYC", "cycle")])
            >>> layer.edges()[["source", "target"]].values.tolist()
            [['TP53', 'apoptosis'], ['MYC', 'cycle']]
        """
        self.bring_up_to_date()
        return edge_frame(f"{type(self).__name__}.edges", self.topology, self.values, self.reads_transposed)

    def align(self, frame: Any, unknown: Unknown = "drop") -> Any:
        """The columns of a data frame in the order of the layer's inputs, under their names.

        Names are compared as text, so that a column 1 is the input "1".

        Args:
            frame: a pandas data frame, a row for each sample.
            unknown: what to do with columns that are no inputs: ``"drop"`` them, or ``"error"``.

        Raises:
            ValueError: the layer's inputs have no names, a column is missing, two read alike, or one holds
                something else than finite numbers; or a column is unknown, with ``unknown="error"``.
            TypeError: it is no data frame.

        Example:
            >>> import pandas, torch
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear.from_edges([("TP53", "apoptosis"), ("MYC", "cycle")])
            >>> samples = pandas.DataFrame({"KRAS": [0.1], "MYC": [0.2], "TP53": [0.3]})
            >>> x = torch.tensor(layer.align(samples).to_numpy("float32"))
            >>> x.tolist()
            [[0.30000001192092896, 0.20000000298023224]]
        """
        names = self.topology.outputs if self.reads_transposed else self.topology.inputs
        return aligned(f"{type(self).__name__}.align", frame, names, unknown)

    def replace_edges(self, topology: Topology, values: Tensor) -> None:
        """Replace the edges. The Parameter stays the same object, with new values and without a gradient.

        Graphs recorded before, and a DistributedDataParallel wrapped before, cannot be used afterwards. optim.carry
        changes edges and also keeps the optimizer state of those that stay.

        Args:
            topology: of the same shape as the present one.
            values: one number for each of its edges, shape ``(nnz,)``, which take dtype and device of the present ones.

        Raises:
            TypeError: these are no topology and no tensor of real numbers, or the present values are computed by a
                parametrization. ValueError: they are of another shape, or on the meta device. Nothing is changed then.

        Example:
            >>> import torch
            >>> from sparsetrain import Topology
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear(3, 2, density=0.5)
            >>> layer.replace_edges(Topology.from_mask([[1, 0, 0], [0, 0, 1]]), torch.tensor([5.0, 7.0]))
            >>> layer.values.tolist()
            [5.0, 7.0]
        """
        where = f"{type(self).__name__}.replace_edges"
        if not isinstance(self.values, nn.Parameter):
            raise TypeError(
                f"{where}: expected values that are a Parameter, got values computed from "
                'others. Call torch.nn.utils.parametrize.remove_parametrizations(layer, "values") before.'
            )
        check_replacement(where, self.topology, self.values, topology, values)
        self.bring_up_to_date()
        replace_numbers(self.values, values.detach().to(self.values, copy=True))
        self.topology = topology if self.values.is_meta else topology.to(self.values.device)
        self.awaits_edges = False

    def plan_edit(self, where: str, edit: Edit, start: Tensor | None) -> Plan:
        """Plan a change of edges for optim.carry, which applies it to the layer and the optimizer.

        Raises:
            ValueError: it is of other edges than the layer has, or its values are on the meta device, sharded, or
                constrained in a way that does not say what holds for newborn edges. TypeError: they are computed by
                parametrizations of others.
        """
        check_edit(where, self, self.topology, edit)
        self.bring_up_to_date()
        topology = edit.topology.to(self.values.device)

        def finish() -> None:
            self.topology = topology
            self.awaits_edges = False

        values = self.values.detach()
        slots = SlotMap(edit.source, edit.before.nnz)
        numbers = slots.moved(values, started(where, edit, start, values))
        if isinstance(self.values, nn.Parameter):
            return Plan(self.values, slots, numbers, finish)
        constraints: Any = self.parametrizations["values"]
        if len(constraints) != 1 or not hasattr(constraints[0], "plan_edit"):
            raise TypeError(
                f"{where}: expected values that are a Parameter or constrained by sparsetrain.constrain, got values "
                'computed from others. Call torch.nn.utils.parametrize.remove_parametrizations(layer, "values") before.'
            )
        plan: Plan = constraints[0].plan_edit(where, constraints, slots, numbers)
        of_constraints = plan.finish

        def finish_both() -> None:
            of_constraints()
            finish()

        plan.finish = finish_both
        return plan


def check_edit(where: str, layer: nn.Module, topology: Topology, edit: Edit) -> None:
    """An edit of the edges that a layer has."""
    kind = type(layer).__name__
    if edit.before is not topology and (edit.before.shape != topology.shape or edit.before.digest != topology.digest):
        raise ValueError(
            f"{where}: expected an edit of the edges that the {kind} has, {topology!r}, got one of other edges, "
            f"{edit.before!r}. Make it of layer.topology."
        )
    values: Any = getattr(layer, "values", None)
    if isinstance(values, Tensor) and values.is_meta:
        raise ValueError(f"{where}: expected values, the {kind} has none yet (meta device). Load them before.")
    if is_sharded(values):
        raise ValueError(
            f"{where}: the values of the {kind} are sharded over processes. Change edges before fully_shard."
        )


class Parametrizations(nn.ModuleDict):
    """What torch.nn.utils.parametrize keeps in a module, with room for ``values``: a dict has a method of that name."""

    @property
    def values(self) -> Any:
        raise AttributeError("values")  # so that nn.Module looks for a parametrization
