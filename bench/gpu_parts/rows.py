"""A large table of which each step reads a few rows: forward with backward, and a step of Adam."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import sparsetrain as st

from .machine import Machine, Result

ROWS, DIM, IDS = 1_000_000, 64, 65_536
PASSES = 7  # over the used rows, at least: gradient in; weight and both moments in and out


def some_ids(machine: Machine, kind: str, rows: int, count: int) -> Tensor:
    """Uniform, or by Zipf's law, where some rows are named by a good part of a batch."""
    chance = torch.rand(count, device=machine.device, dtype=torch.float64)
    if kind == "uniform":
        return (chance * rows).long().clamp_(max=rows - 1)
    return (torch.exp(chance * torch.log(torch.tensor(float(rows)))).long() - 1).clamp_(0, rows - 1)


Table = tuple[nn.Module, torch.optim.Optimizer]


def ours(rows: int, dim: int, place: Any, pool: Any) -> Table:
    """Rows that were used are stepped, in one kernel where Triton is there."""
    table = st.nn.LookupTable(rows, dim, device=place, pool=pool)
    return table, st.optim.Adam(table.parameters())


def sparse_adam(rows: int, dim: int, place: Any, pool: Any) -> Table:
    """torch's own for sparse gradients."""
    table = embedding(rows, dim, place, pool, sparse=True)
    return table, torch.optim.SparseAdam(list(table.parameters()))


def dense_adam(rows: int, dim: int, place: Any, pool: Any) -> Table:
    """A dense gradient, and one kernel over all rows."""
    table = embedding(rows, dim, place, pool, sparse=False)
    return table, torch.optim.Adam(table.parameters(), fused=True)


def embedding(rows: int, dim: int, place: Any, pool: Any, sparse: bool) -> nn.Module:
    """nn.Embedding, or nn.EmbeddingBag."""
    if pool is None:
        return nn.Embedding(rows, dim, sparse=sparse, device=place)
    return nn.EmbeddingBag(rows, dim, mode=pool, sparse=sparse, device=place)


WAYS: dict[str, Callable[[int, int, Any, Any], Table]] = {
    "ours": ours,
    "SparseAdam": sparse_adam,
    "dense, fused Adam": dense_adam,
}


def rows(machine: Machine) -> Iterator[Result]:
    """Milliseconds, on the device and from step to step; the step of Adam is timed by itself, over one gradient."""
    count, dim, used = machine.sizes((ROWS, DIM, IDS), (1000, 8, 64))
    for kind in ("uniform", "Zipf"):
        ids = [some_ids(machine, kind, count, used) for _ in range(4)]
        distinct = int(torch.unique(ids[0]).numel())
        yield {"ids": kind, "distinct": distinct, "least_gb": PASSES * distinct * dim * 4 / 1e9}
        for pool in (None, "sum"):
            shape = (used,) if pool is None else (used // 16, 16)
            batches = [each.view(shape) for each in ids]
            for way, make in WAYS.items():
                what: Result = {"ids": kind, "rows": count, "dim": dim, "used": used, "pool": str(pool), "way": way}
                table, optimizer = make(count, dim, machine.device, pool)
                yield what | timed(machine, table, optimizer, batches)
                del table, optimizer


def timed(machine: Machine, table: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> Result:
    """Forward and backward, the optimizer's step, and all of it as a training loop has it."""

    def gradient(k: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        table(batches[k % len(batches)]).sum().backward()

    def train(k: int) -> None:
        gradient(k)
        optimizer.step()

    passes = machine.milliseconds(gradient)
    gradient(0)
    step = machine.milliseconds(lambda _: optimizer.step())
    return {"passes_ms": passes, "adam_ms": step, "from_step_to_step_ms": machine.wall_milliseconds(train)}
