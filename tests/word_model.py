"""A small model of words, and a step of HessianFree on it."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import sparsetrain as st
from sparsetrain.nn import LookupTable, SparseLinear
from sparsetrain.optim import HessianFree

ROWS, CLASSES = 9, 3
IDS, LABELS = torch.tensor([1, 4, 4, 7, 1, 6]), torch.tensor([0, 2, 1, 1, 0, 2])


class Words(nn.Module):
    """A table before edges; by rows, or as a whole."""

    def __init__(
        self, by_rows: bool = True, dtype: torch.dtype = torch.float64, seed: int = 0, padding: int | None = None
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.by_rows = by_rows
        self.table = LookupTable(ROWS, 4, dtype=dtype, generator=generator, padding_idx=padding)
        t = st.patterns.uniform((CLASSES, 4), 0.7, generator=generator)
        self.out = SparseLinear(4, CLASSES, topology=t, dtype=dtype, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) if self.by_rows else one_hot(ids, ROWS).to(self.table.weight) @ self.table.weight
        return self.out(x.tanh())


def stepped(model: nn.Module, optimizer: HessianFree, ids: Tensor = IDS, labels: Tensor = LABELS) -> Tensor:
    return optimizer.step(lambda: model(ids), lambda z: cross_entropy(z, labels))
