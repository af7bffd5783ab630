"""Parameters of which each rank of a group holds some rows: which rows, and how states of them become those of the
whole and come back. What steps, clips and wraps parameters asks here, and needs to know no layer."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .. import ranks

MARK = "first_row"  # attribute of the DTensors that we make, which outlives torch.save


class Shard:
    """The rows of a table that this rank holds: all ranks hold equally many, but for the last ones.

    That is how DTensor splits a dimension, so that states are DTensors, which torch.distributed.checkpoint saves, and
    loads on any number of ranks.

    Args:
        where: whose rows, for errors.
        rows: of the whole table.
        group: a process group, or None for all processes; where none was made, one rank holds all rows.

    Attributes:
        first, count: this rank holds the rows from first to first + count - 1.
    """

    def __init__(self, where: str, rows: int, group: Any = None) -> None:
        self.where, self.rows, self.group = where, rows, group
        self.ranks = ranks.count(where, group)
        self.rank = ranks.own_place(group) if self.ranks > 1 else 0
        self.each = max(1, -(-rows // self.ranks))
        self.first = min(rows, self.rank * self.each)
        self.count = min(rows, self.first + self.each) - self.first

    def __deepcopy__(self, memo: Any) -> "Shard":
        return self  # it never changes, and a process group can't be copied

    def __reduce__(self) -> Any:
        if self.ranks > 1:
            raise TypeError(
                f"{self.where}: expected to pickle what one process holds alone, got rows that are spread over "
                f"{self.ranks} ranks. Save state_dict()."
            )
        return Shard, (self.where, self.rows)

    @cached_property
    def _meshes(self) -> dict[str, Any]:
        return {}

    def whole(self, own: Tensor) -> Tensor:
        """These rows as a part of the whole, a DTensor over the same memory."""
        from torch.distributed.device_mesh import DeviceMesh  # takes a while to import
        from torch.distributed.tensor import DTensor
        from torch.distributed.tensor import Shard as Split

        kind = own.device.type
        if kind not in self._meshes:
            group: Any = dist.group.WORLD if self.group is None else self.group
            self._meshes[kind] = DeviceMesh.from_group(group, kind)
        shape = torch.Size((self.rows, *own.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        part = DTensor.from_local(
            own.detach(), self._meshes[kind], [Split(0)], run_check=False, shape=shape, stride=stride
        )
        setattr(part, MARK, self.first)
        return part

    def own(self, given: Tensor, shape: Sequence[int]) -> Tensor:
        """The rows of this rank, of a state of the whole.

        Args:
            given: a DTensor as ``whole`` makes, or that was loaded into one; or all rows.
            shape: of a row.

        Raises:
            ValueError: it has other rows.
        """
        expected = (self.rows, *shape)
        if tuple(given.shape) != expected:
            held = (self.count, *shape)
            hint = " These are rows of one rank alone." if tuple(given.shape) == held else ""
            raise ValueError(f"expected the rows of a table of shape {expected}, got shape {tuple(given.shape)}.{hint}")
        if not hasattr(given, "to_local"):
            return given[self.first : self.first + self.count].clone()  # what is assigned must not hold the others
        part: Tensor = given.to_local()
        first, mesh = getattr(given, MARK, self.first), given.device_mesh  # type: ignore[attr-defined]
        if mesh.size() != self.ranks or first != self.first or part.shape[0] != self.count:
            raise ValueError(
                f"expected rows {self.first} to {self.first + self.count - 1} of {self.rows}, those of rank "
                f"{self.rank} of {self.ranks}, got the {part.shape[0]} rows from {first} on, of one of {mesh.size()} "
                "ranks. For another number of ranks save and load by torch.distributed.checkpoint."
            )
        return part


_registered: Any = WeakIdKeyDictionary()


def shard_of(parameter: Tensor) -> Shard | None:
    """What a parameter is a part of, where other ranks hold other parts; None where it is whole."""
    found: tuple[Shard, bool] | None = _registered.get(parameter)
    return None if found is None else found[0]


def rows_of(parameter: Tensor) -> Shard | None:
    """Which rows a parameter holds, where other ranks hold others; None where it is whole, or no rows but edges."""
    found: tuple[Shard, bool] | None = _registered.get(parameter)
    return None if found is None or not found[1] else found[0]


def register(parameter: Tensor, shard: Shard, in_rows: bool = True) -> None:
    """From now on this parameter holds these rows, or without ``in_rows`` what belongs to them."""
    if shard.ranks > 1:
        _registered[parameter] = shard, in_rows
