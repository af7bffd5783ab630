"""Chosen columns of several tensors, side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
        for tensor in self.read:
            columns = [column for t, column in places if t == tensor]
            whole = columns == list(range(widths[tensor]))
            self.register_buffer(f"of_{tensor}", None if whole else torch.tensor(columns), persistent=False)
        grouped = sorted(range(len(places)), key=lambda k: places[k][0])
        sorted_already = grouped == list(range(len(places)))
        self.register_buffer("order", None if sorted_already else torch.tensor(grouped).argsort(), persistent=False)

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        parts = [chosen(tensors[k], self._buffers[f"of_{k}"]) for k in self.read]
        return chosen(parts[0] if len(parts) == 1 else torch.cat(parts, -1), self._buffers["order"])

    def extra_repr(self) -> str:
        return f"{self.width} of {len(self.read)} tensor{'s' * (len(self.read) > 1)}"


def chosen(x: Tensor, columns: Tensor | None) -> Tensor:
    """These columns; all, without."""
    return x if columns is None else x.index_select(-1, columns)
