"""Tables, models and optimizers for the tests of sparsetrain.optim, and what must not change when a step is refused."""

from typing import Any

import torch
from checkpoints import edges
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import LookupTable, SparseLinear

KINDS = ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"]
Case = tuple[str, dict[str, Any]]

# every form of every optimizer, as far as unused="dense" has it
DENSE: list[Case] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.5}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
]
# and what frozen rows have beside
COUPLED: list[Case] = [
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
]
FROZEN: list[Case] = DENSE + COUPLED


def name_of(value: Any) -> str:
    """Of a case, for pytest."""
    if isinstance(value, dict):
        return "-".join(f"{key}={each}" for key, each in value.items() if key != "lr") or "plain"
    return str(value)


def ours(kind: str, params: Any, **options: Any) -> Any:
    return getattr(st.optim, kind)(params, **options)


def torchs(kind: str, params: Any, **options: Any) -> Any:
    """The same optimizer of torch."""
    return getattr(torch.optim, kind)(params, **options)


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def twin(p: Tensor) -> nn.Parameter:
    """A parameter with the same numbers."""
    return nn.Parameter(p.detach().clone())


def rows_gradient(p: Tensor, ids: list[int], seed: int = 0) -> Tensor:
    """A sparse gradient of a table that names these rows, as often as they occur."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(ids), *p.shape[1:], generator=generator, dtype=p.dtype)
    return torch.sparse_coo_tensor(
        torch.tensor([ids], dtype=torch.long), values, p.shape, is_coalesced=False, check_invariants=False
    )


class Mixed(nn.Module):
    """A dense layer, edges, and tables of every kind, in float64."""

    def __init__(self, rows: int = 6, seed: int = 0) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 3)
        self.edges = SparseLinear(4, 6, topology=edges(0, (6, 4), 0.5))
        self.table = LookupTable(rows, 4)
        self.columns = LookupTable(rows, 4, columns=True)
        self.embedding = nn.Embedding(rows, 4, sparse=True)
        self.bag = nn.EmbeddingBag(rows, 4, mode="sum", sparse=True)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) + self.columns(ids).t() * self.embedding(ids)
        loss: Tensor = self.dense(x).tanh().mean() + self.edges(x).sin().mean() + self.bag(ids.view(-1, 2)).sin().mean()
        return loss


def every_row(step: int, rows: int = 6) -> Tensor:
    """Ids that name every row, some twice, in an order of their own; an even number."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.cat([torch.arange(rows), torch.randint(rows, (4 + rows % 2,), generator=generator)])
    return ids[torch.randperm(ids.numel(), generator=generator)]


def densify(model: nn.Module) -> None:
    for p in model.parameters():
        if p.grad is not None and p.grad.is_sparse:
            p.grad = p.grad.to_dense()


def train(model: nn.Module, optimizer: Any, steps: range, scheduler: Any = None, dense: bool = False) -> list[float]:
    """The losses. ``dense`` is for a twin that torch's optimizer steps."""
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = model(every_row(step))
        loss.backward()
        if dense:
            densify(model)
        optimizer.step()
        losses.append(float(loss.detach()))
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler is not None:
            scheduler.step()
    return losses


def everything(optimizer: Any, *, gradients: bool = True) -> list[Any]:
    """Weights, gradients, state and options as they are: nothing is flushed to look at them."""
    return [
        [
            {**{k: v for k, v in group.items() if k not in ("params", "param_names")}, "ids": [id(p) for p in group["params"]]},
            [(p.detach().clone(), _numbers(p.grad) if gradients else None, _state(optimizer.state.get(p, {}))) for p in group["params"]],
        ]
        for group in optimizer.param_groups
    ]  # fmt: skip


def _numbers(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad.detach().to_dense().clone()


def _state(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def apart(one: Any, other: Any) -> float:
    """The largest difference between the parameters of two models, or two lists of tensors."""
    first, second = (list(m.parameters()) if isinstance(m, nn.Module) else m for m in (one, other))
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in zip(first, second, strict=True))
