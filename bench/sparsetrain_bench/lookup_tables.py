"""Lookup tables with their optimizers: ours, torch's, and FBGEMM's, which updates itself inside backward."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import sparsetrain as st

LR, EPS = 0.01, 1e-15  # SparseAdam puts it in another place, where this small it makes no difference
Optimize = Callable[[Any], torch.optim.Optimizer]


class Size(NamedTuple):
    """Rows of ``dim`` numbers; ids of a step, pooled in bags of ``bag`` where the rule says so."""

    rows: int
    dim: int
    ids: int
    bag: int


class Table(ABC):
    """A table that is trained by the gradient of its output."""

    weight: Tensor

    @abstractmethod
    def train(self, ids: Tensor, dy: Tensor) -> None:
        """One step."""


class ModuleTable(Table):
    """A module of torch's kind and an optimizer."""

    def __init__(self, module: Any, optimize: Optimize, bag: int) -> None:
        self.module, self.optimizer, self.bag = module, optimize(module.parameters()), bag
        self.weight = module.weight.detach()

    def train(self, ids: Tensor, dy: Tensor) -> None:
        self.optimizer.zero_grad()
        self.module(ids.view(-1, self.bag) if self.bag > 1 else ids).backward(dy)
        self.optimizer.step()


class FbgemmTable(Table):
    """FBGEMM's table."""

    def __init__(self, optimizer: str, size: Size, bag: int) -> None:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        self.module = SplitTableBatchedEmbeddingBagsCodegen(
            [(size.rows, size.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType[optimizer], learning_rate=LR, eps=EPS,
            pooling_mode=PoolingMode.SUM if bag > 1 else PoolingMode.NONE,
        )  # fmt: skip
        self.weight = self.module.split_embedding_weights()[0].detach()
        self.offsets = torch.arange(0, size.ids + 1, bag)

    def train(self, ids: Tensor, dy: Tensor) -> None:
        self.module(ids, self.offsets).backward(dy)


Make = Callable[[Size], Table]


def ours(optimize: Optimize, pooled: bool = False) -> Make:
    """A LookupTable."""

    def make(size: Size) -> Table:
        table = st.nn.LookupTable(size.rows, size.dim, pool="sum" if pooled else None)
        return ModuleTable(table, optimize, size.bag if pooled else 1)

    return make


def torchs(optimize: Optimize, sparse: bool = True) -> Make:
    """An nn.Embedding."""
    return lambda size: ModuleTable(nn.Embedding(size.rows, size.dim, sparse=sparse), optimize, 1)


def fbgemm(optimizer: str, pooled: bool) -> Make:
    """A table of FBGEMM."""
    return lambda size: FbgemmTable(optimizer, size, size.bag if pooled else 1)


_SPARSE_ADAM = torchs(lambda p: torch.optim.SparseAdam(list(p), LR, eps=EPS))
_ADAGRAD: Optimize = lambda p: st.optim.Adagrad(p, LR, eps=EPS)  # noqa: E731
_ROWWISE: Optimize = lambda p: st.optim.Adagrad(p, LR, eps=EPS, rowwise=True)  # noqa: E731

# by rule: who takes part, ours first
RACES: dict[str, dict[str, Make]] = {
    "Adam": {
        "sparsetrain": ours(lambda p: st.optim.Adam(p, LR, eps=EPS)),
        "torch SparseAdam": _SPARSE_ADAM,
        "dense Adam, fused": torchs(lambda p: torch.optim.Adam(p, LR, eps=EPS, fused=True), sparse=False),
    },
    "RMSprop": {
        "sparsetrain": ours(lambda p: st.optim.RMSprop(p, LR, eps=EPS)),
        "torch SparseAdam": _SPARSE_ADAM,  # torch has no sparse RMSprop
        "dense RMSprop": torchs(lambda p: torch.optim.RMSprop(p, LR, eps=EPS), sparse=False),
    },
    "Adagrad": {
        "sparsetrain": ours(_ADAGRAD),
        "torch Adagrad": torchs(lambda p: torch.optim.Adagrad(p, LR, eps=EPS, foreach=False)),
    },
    "Adagrad, pooled": {
        "sparsetrain": ours(_ADAGRAD, pooled=True),
        "FBGEMM": fbgemm("EXACT_ADAGRAD", pooled=True),
    },
    "row-wise Adagrad": {
        "sparsetrain": ours(_ROWWISE),
        "FBGEMM": fbgemm("EXACT_ROWWISE_ADAGRAD", pooled=False),
    },
    "row-wise Adagrad, pooled": {
        "sparsetrain": ours(_ROWWISE, pooled=True),
        "FBGEMM": fbgemm("EXACT_ROWWISE_ADAGRAD", pooled=True),
    },
}
