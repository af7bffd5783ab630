"""Trainable entries: whole parameters, and of tables the rows that were used, as one vector."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .used_rows import Read


@dataclass(frozen=True, eq=False)
class Entry:
    """A part of the vector of trainable entries.

    Attributes:
        name: of the parameter.
        parameter: which holds the numbers.
        rows: ids of the rows of a table that are used, or of the edges of a value array, ascending; None for all.
        start: where its numbers begin in the vector.
    """

    name: str
    parameter: Tensor
    rows: Tensor | None = field(repr=False)
    start: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.parameter.shape)
        return shape if self.rows is None else (self.rows.numel(), *shape[1:])

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def stop(self) -> int:
        return self.start + self.numel

    def numbers(self) -> Tensor:
        """What the parameter holds there."""
        return self.parameter if self.rows is None else self.parameter.index_select(0, self.rows)

    def places(self, rows: Tensor) -> Tensor | None:
        """Where these rows of the parameter are among those of the entry; None where they are the same."""
        if self.rows is None:
            return rows
        return None if torch.equal(rows, self.rows) else torch.searchsorted(self.rows, rows)


class Entries:
    """The trainable entries of some passes over a model, in the order of its parameters.

    Args:
        parameters: by name, those that may be entries.
        whole: of these, those that a pass reads otherwise than by rows.
        reads: the rows that were read, of all passes.
    """

    def __init__(self, parameters: Mapping[str, Tensor], whole: Iterable[Tensor], reads: Iterable[Read]) -> None:
        read: dict[Tensor, list[Tensor]] = {}
        for each in reads:
            read.setdefault(each.table, []).append(each.rows)
        whole = frozenset(whole)
        self._of: dict[Tensor, Entry] = {}
        start = 0
        for name, p in parameters.items():
            if p in whole:
                rows = None
            elif p in read:
                rows = read[p][0] if len(read[p]) == 1 else torch.unique(torch.cat(read[p]))
            else:
                continue
            entry = Entry(name, p, rows, start)
            self._of[p] = entry
            start = entry.stop
        self.size = start
        self._entries = [entry for entry in self._of.values() if entry.numel]

    def check(self, where: str) -> "Entries":
        """There are some, on one device."""
        if not self._entries:
            raise ValueError(
                f"{where}: expected a loss that depends on trainable entries, got one that depends on none: on no "
                "parameter, and on no row of a table."
            )
        devices = {entry.parameter.device: entry.name for entry in self}
        if len(devices) > 1:
            raise ValueError(
                f"{where}: expected parameters on one device, got "
                f"{', '.join(f'{name} on {device}' for device, name in devices.items())}."
            )
        return self

    def check_real(self, where: str) -> "Entries":
        """A curvature matrix acts on real numbers."""
        for entry in self:
            if entry.parameter.is_complex():
                raise ValueError(
                    f"{where}: expected real parameters, got {entry.name} of {entry.parameter.dtype}. Train its real "
                    "and imaginary parts, and join them in the model by torch.view_as_complex."
                )
        return self

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, place: Any) -> Any:
        return self._entries[place]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def dtype(self) -> torch.dtype:
        """The type of vectors, which holds the numbers of all entries and sums of their squares."""
        return reduce(torch.promote_types, (entry.parameter.dtype for entry in self), torch.float32)

    def of(self, parameter: Tensor) -> Entry | None:
        """The entry of this parameter, if it has one."""
        entry = self._of.get(parameter)
        return entry if entry is None or entry.numel else None

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector by name, each in the shape of its entry; views."""
        return {entry.name: vector[entry.start : entry.stop].view(entry.shape) for entry in self}

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The vector of parts by name."""
        return torch.cat([parts[entry.name].reshape(-1) for entry in self])

    def zeros(self) -> Tensor:
        """A vector of zeros."""
        return torch.zeros(self.size, dtype=self.dtype, device=self[0].parameter.device)

    def numbers(self) -> Tensor:
        """What the parameters hold, (size,)."""
        with torch.no_grad():
            return torch.cat([entry.numbers().reshape(-1) for entry in self]).to(self.dtype)

    @torch.no_grad()
    def put(self, vector: Tensor) -> None:
        """Write numbers into the parameters."""
        for entry, part in zip(self, self.split(vector).values(), strict=True):
            if entry.rows is None:
                entry.parameter.copy_(part)
            else:
                entry.parameter.index_copy_(0, entry.rows, part.to(entry.parameter.dtype))

    # ---- between the vector and the tensors that a pass reads --------------------------------------------------------

    def spread(self, vector: Tensor, whole: Sequence[Tensor], reads: Sequence[Read]) -> list[Tensor]:
        """What a vector is for parameters that are read whole, and for rows that are read."""
        return [self._part(vector, p, None) for p in whole] + [self._part(vector, r.table, r.rows) for r in reads]

    def _part(self, vector: Tensor, parameter: Tensor, rows: Tensor | None) -> Tensor:
        entry = self._of[parameter]
        part = vector[entry.start : entry.stop].view(entry.shape)
        places = None if rows is None else entry.places(rows)
        return part if places is None else part.index_select(0, places)

    def gather(self, tensors: Sequence[Tensor | None], whole: Sequence[Tensor], reads: Sequence[Read]) -> Tensor:
        """The sum of what these parameters and rows contribute to a vector; the adjoint of ``spread``."""
        vector = self.zeros()
        for tensor, p in zip(tensors, whole, strict=False):
            if tensor is not None:
                entry = self._of[p]
                vector[entry.start : entry.stop] += tensor.reshape(-1)
        for tensor, read in zip(tensors[len(whole) :], reads, strict=True):
            if tensor is None:
                continue
            entry = self._of[read.table]
            part = vector[entry.start : entry.stop].view(entry.shape)
            places = entry.places(read.rows)
            if places is None:
                part += tensor
            else:
                part.index_add_(0, places, tensor)
        return vector
