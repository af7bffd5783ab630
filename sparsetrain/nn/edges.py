"""What every layer over edges shares: a value Parameter and a Topology that travel, save and load together."""

import json
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..ops.tracing import refuse_script
from ..rows import bring_up_to_date
from ..topology import Topology
from ..weights import replace_numbers
from .frames import aligned, edge_frame

NAMES = ("inputs", "outputs")


class EdgeModule(nn.Module):
    """A module that keeps its weight as one value for each edge of a topology.

    The topology is a plain attribute that modules share, not a buffer: loading a state must not write into what other
    layers use, and ``.to`` must not make copies of it. ``state_dict`` holds it all the same, so that values are never
    loaded onto other edges.
    """

    topology: Topology
    values: nn.Parameter
    reads_transposed = False  # whether the edges' rows are inputs here, and their columns outputs

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, Parametrizations() if name == "parametrizations" else value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.bring_up_to_date()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.values.device.type != "meta":  # a structure can't be made anew from nothing
            self.topology = self.topology.to(self.values.device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.bring_up_to_date()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in structure_tensors(self.topology).items():
            # copies: people average state dicts in place, and the topology's own arrays are shared and trusted
            destination[prefix + name] = tensor if keep_vars else tensor.clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        ours = structure_tensors(self.topology)
        error = difference(ours, {name: state_dict.get(prefix + name) for name in ours})
        if error:
            error_msgs.append(f"{type(self).__name__} {prefix.rstrip('.') or '(the model itself)'}: {error}")
            return
        self.bring_up_to_date()  # what was owed was owed to the old numbers
        missing_keys.extend(prefix + name for name in ("crow", "col") if prefix + name not in state_dict)
        known = len(unexpected_keys)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        structure = {prefix + name for name in (*ours, *NAMES)}
        unexpected_keys[known:] = [key for key in unexpected_keys[known:] if key not in structure]

    def bring_up_to_date(self) -> None:
        """Values are read, saved or copied: what an optimizer owes to unused edges is paid before."""
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

    def align(self, frame: Any) -> Any:
        """The columns of a data frame in the order of the layer's inputs, under their names; others are dropped.

        Names are compared as text, so that a column 1 is the input "1".

        Args:
            frame: a pandas data frame, a row for each sample.

        Raises:
            ValueError: the layer's inputs have no names, a column is missing, two read alike, or one holds
                something else than finite numbers.
            TypeError: it is no data frame.

        Example:
            >>> import pandas
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear.from_edges([("TP53", "apoptosis"), ("MYC", "cycle")])
            >>> samples = pandas.DataFrame({"KRAS": [0.1], "MYC": [0.2], "TP53": [0.3]})
            >>> x = torch.tensor(layer.align(samples).to_numpy("float32"))
            >>> x.tolist()
            [[0.30000001192092896, 0.20000000298023224]]
        """
        names = self.topology.outputs if self.reads_transposed else self.topology.inputs
        return aligned(f"{type(self).__name__}.align", frame, names)

    def replace_edges(self, topology: Topology, values: Tensor) -> None:
        """Go on with other edges: the same Parameter object, so that optimizers keep it, with new data and no gradient.

        A graph recorded before can't be used afterwards. TypeError: the values are computed by a parametrization.
        """
        if not isinstance(self.values, nn.Parameter):
            raise TypeError(
                f"{type(self).__name__}.replace_edges: expected values that are a Parameter, got values computed from "
                'others. Call torch.nn.utils.parametrize.remove_parametrizations(layer, "values") before.'
            )
        self.bring_up_to_date()
        replace_numbers(self.values, values.to(self.values))
        self.topology = topology.to(self.values.device)


class Parametrizations(nn.ModuleDict):
    """What torch.nn.utils.parametrize keeps in a module, with room for ``values``: a dict has a method of that name."""

    @property
    def values(self) -> Any:
        raise AttributeError("values")  # so that nn.Module looks for a parametrization


def structure_tensors(t: Topology) -> dict[str, Tensor]:
    """A topology as tensors alone, the form that every checkpoint format takes."""
    tensors = {
        "crow": t.crow,
        "col": t.col,
        "shape": torch.tensor(t.shape),
        "digest": torch.frombuffer(bytearray.fromhex(t.digest), dtype=torch.uint8),
    }
    for side in NAMES:
        names = getattr(t, side)
        if names is not None:
            tensors[side] = torch.frombuffer(bytearray(json.dumps(names).encode()), dtype=torch.uint8)
    return tensors


def topology_from(tensors: dict[str, Tensor]) -> Topology:
    """The topology that ``structure_tensors`` wrote, checked anew."""
    names = {side: _names(tensors[side]) for side in NAMES if side in tensors}
    return Topology(tensors["crow"], tensors["col"], tensors["shape"].tolist(), **names)


def difference(ours: dict[str, Tensor], stored: dict[str, Tensor | None]) -> str:
    """What speaks against loading a stored structure into ours, or nothing. Keys that are not stored say nothing."""
    shape, digest = stored.get("shape"), stored.get("digest")
    if shape is not None and shape.tolist() != ours["shape"].tolist():
        return f"expected edges of shape {tuple(ours['shape'].tolist())}, the checkpoint has {tuple(shape.tolist())}."
    if digest is not None and digest.tolist() != ours["digest"].tolist():
        edges = stored.get("col")
        return (
            f"expected the same {ours['col'].numel()} edges, the checkpoint has other edges"
            f"{'' if edges is None else f' ({edges.numel()})'}. Make the layer from the stored topology, or load with "
            'sparsetrain.io.load(..., topology="adopt").'
        )
    for side in NAMES:
        names, other = (None if tensor is None else _names(tensor) for tensor in (ours.get(side), stored.get(side)))
        if names is not None and other is not None and names != other:
            k = next(k for k, pair in enumerate(zip(names, other, strict=True)) if pair[0] != pair[1])
            return (
                f"expected the same names in {side}, the checkpoint has {other[k]!r} where the layer has {names[k]!r} "
                f"(number {k}). Make the layer from the stored topology, or load with "
                'sparsetrain.io.load(..., topology="adopt").'
            )
    return ""


def _names(tensor: Tensor) -> list[str]:
    names: list[str] = json.loads(bytes(tensor.tolist()))
    return names
