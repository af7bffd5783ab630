"""Which places of a table an index selects, by numpy's rules, and what is written there.

Every index comes down to one of two forms, each of them one-dimensional: whole lines along one dimension (rows,
columns), or single elements of the flattened table. So reading and writing are torch's index_select, index_add and
index_copy. They are differentiable any number of times, make nothing of the table's size when they write in place, and
on a CPU they write in the order of the ids. Where the last entry wins, the others are dropped first: no position is
written twice.
"""

import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..arrays import array

Part = int | slice | Tensor  # what selects from one dimension


class Places(NamedTuple):
    """The places of a subset, in the order of its elements; one that is selected twice is there twice."""

    dim: int | None  # the ids are lines along this dimension; None: elements of the flattened table
    ids: Tensor  # (k,) int64, not negative, in memory of their own
    shape: tuple[int, ...]  # of the subset
    table: tuple[int, ...]  # shape of the table

    @property
    def axis(self) -> int:
        """The dimension of the lined table that the ids run along."""
        return self.dim or 0

    def lined(self, table: Tensor) -> Tensor:
        """The table in the form that the ids select from."""
        return table.reshape(-1) if self.dim is None else table

    def read(self, table: Tensor) -> Tensor:
        """A copy of what is there, one line for each id."""
        return self.lined(table).index_select(self.axis, self.ids).reshape(self.shape)

    def last_of_each(self) -> Tensor:
        """Positions in ``ids`` of the last occurrence of each id."""
        rising, order = torch.sort(self.ids, stable=True)
        last = torch.ones_like(rising, dtype=torch.bool)
        last[:-1] = rising.diff() != 0
        return order[last]


class Change(NamedTuple):
    """Values that are added to, or put at, places of a table."""

    places: Places
    ids: Tensor
    values: Tensor  # as many lines as ids
    add: bool

    @classmethod
    def at(cls, places: Places, values: Tensor, *, add: bool, last_wins: bool) -> "Change":
        """The change by ``values`` of the subset's shape; of places selected twice all count, or the last wins."""
        ids, shape = places.ids, [0] if places.dim is None else list(places.table)
        shape[places.axis] = ids.numel()
        values = values.reshape(shape)
        if last_wins:
            last = places.last_of_each()
            ids, values = ids[last], values.index_select(places.axis, last)
        return cls(places, ids, values, add)

    def made(self, table: Tensor) -> Tensor:
        """The changed table as a new tensor, differentiable in the table and in the values."""
        lined = self.places.lined(table)
        new = (lined.index_add if self.add else lined.index_copy)(self.places.axis, self.ids, self.values)
        return new.reshape(table.shape)

    def gradients(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Of the table and of the values, by the gradient of the changed table."""
        values = self.places.lined(gradient).index_select(self.places.axis, self.ids)
        table = gradient if self.add else self._replace(values=torch.zeros_like(self.values)).made(gradient)
        return table, values

    def apply(self, table: Tensor) -> None:
        """The change of a contiguous table in place."""
        lined = self.places.lined(table)
        (lined.index_add_ if self.add else lined.index_copy_)(self.places.axis, self.ids, self.values)


def located(where: str, table: Tensor, index: Any) -> Places:
    """The places that an index of any kind selects."""
    parts = tuple(_part(where, part) for part in (index if isinstance(index, tuple) else (index,)))
    shape = tuple(table.shape)
    line = _line(parts, shape)
    if line is None:
        ids, selected = _elements(where, parts, shape)
        return Places(None, ids.to(table.device), selected, shape)
    dim, part = line
    ids = _ids(where, part, dim, shape[dim]).to(table.device)
    return Places(dim, ids.reshape(-1), (*shape[:dim], *ids.shape, *shape[dim + 1 :]), shape)


def _part(where: str, part: Any) -> Any:
    """An int, a slice, None, an Ellipsis, or a tensor of int64 or bool."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if not isinstance(part, (bool, np.bool_, Tensor, np.ndarray)) and hasattr(part, "__index__"):
        return operator.index(part)
    ids = checks.numbers(where, "an index", part)
    if ids.dtype == torch.bool and ids.ndim:
        return ids
    if ids.dtype in checks.INDEX_DTYPES or ids.shape[-1:] == (0,):  # an empty list holds floats, says numpy
        return ids.to(torch.int64) if ids.ndim else int(ids)
    raise TypeError(
        f"{where}: index must be integers or a boolean mask, got "
        + ("a single boolean." if ids.dtype == torch.bool else f"{ids.dtype}. Convert with .long().")
    )


def _line(parts: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[int, Part] | None:
    """The one dimension that is selected from, and by what; None if it is not one."""
    left_out = len(shape) - sum(part is not Ellipsis for part in parts)
    if left_out < 0 or not shape or sum(part is Ellipsis for part in parts) > 1:
        return None
    dim, found = 0, []
    for part in parts:
        if part is None or (isinstance(part, Tensor) and part.dtype == torch.bool and part.ndim != 1):
            return None
        if part is not Ellipsis and not (isinstance(part, slice) and part == slice(None)):
            found.append((dim, part))
        dim += left_out if part is Ellipsis else 1
    return (found or [(0, slice(None))])[0] if len(found) < 2 else None


def _ids(where: str, part: Part, dim: int, size: int) -> Tensor:
    """Lines of a dimension of this size, from 0 to size - 1, in new memory."""
    if isinstance(part, slice):
        chosen = range(*part.indices(size))
        return torch.arange(len(chosen)) * chosen.step + chosen.start
    ids = torch.tensor(part) if isinstance(part, int) else part
    if ids.dtype == torch.bool:
        if ids.numel() != size:
            raise IndexError(
                f"{where}: boolean index did not match dimension {dim} of size {size}: the mask has {ids.numel()} "
                "entries."
            )
        return ids.nonzero().reshape(-1)
    bad = (ids < -size) | (ids >= size)
    if bool(bad.any()):
        raise IndexError(f"{where}: index {int(ids[bad][0])} is out of bounds for dimension {dim} of size {size}.")
    return torch.where(ids < 0, ids + size, ids)


def _elements(where: str, parts: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Positions in the flattened table, and the shape that they are selected in.

    numpy itself applies the index, to the coordinates along each dimension. They are spread over the table's shape
    with stride 0, so that memory is that of the result.
    """
    index = tuple(array(part.cpu()) if isinstance(part, Tensor) else part for part in parts)
    try:
        flat = np.broadcast_to(np.int64(0), shape)[index]
        for dim, size in enumerate(shape):
            along = np.arange(size).reshape(-1, *[1] * (len(shape) - dim - 1))
            flat = flat * size + np.broadcast_to(along, shape)[index]
    except IndexError as error:
        raise IndexError(f"{where}: {error}, in an index of a table of shape {shape}.") from None
    return torch.from_numpy(np.array(flat, dtype=np.int64)).reshape(-1), np.shape(flat)
