"""Chosen columns of several tensors, side by side."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from .. import tracing
from ..with_data import with_data


class Columns(nn.Module):
    """Reads columns (tensor, place in it) in the order given; tensors that are read whole and in order are not copied.

    Args:
        places: which tensor of those that come, and which of its columns.
        widths: columns of each tensor.
    """

    def __init__(self, places: Sequence[tuple[int, int]], widths: Sequence[int]) -> None:
        super().__init__()
        self.width = len(places)
        self.read = sorted({tensor for tensor, _ in places})
        grouped = sorted(range(len(places)), key=lambda k: places[k][0])
        # no buffers: they follow from the wiring, are saved nowhere, and to_empty would leave them without numbers
        with with_data():
            self.parts = [_index([c for t, c in places if t == tensor], widths[tensor]) for tensor in self.read]
            self.order = _index(torch.tensor(grouped).argsort().tolist(), len(places))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        device = fn(torch.empty(0)).device
        if device.type != "meta":  # which has no numbers
            self.parts = [None if part is None else part.to(device) for part in self.parts]
            self.order = None if self.order is None else self.order.to(device)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        parts = [chosen(tensors[k], part) for k, part in zip(self.read, self.parts, strict=True)]
        return chosen(parts[0] if len(parts) == 1 else torch.cat(parts, -1), self.order)

    __prepare_scriptable__ = tracing.refuse_script

    def extra_repr(self) -> str:
        return f"{self.width} of {len(self.read)} tensor{'s' * (len(self.read) > 1)}"


def _index(columns: list[int], width: int) -> Tensor | None:
    """These columns as an index; None where they are all there are, in order."""
    return None if columns == list(range(width)) else torch.tensor(columns, dtype=torch.int64)


def chosen(x: Tensor, columns: Tensor | None) -> Tensor:
    """These columns; all, without."""
    if columns is None:
        return x
    return x.index_select(-1, *tracing.beside((columns.to(x.device),), x))
