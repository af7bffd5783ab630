"""Row steps by Triton's kernels, against torch's in float64."""

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as strategy
from torch import Tensor

from sparsetrain.backends.row_gradient import RowGradient
from sparsetrain.backends.torch import rows as torch_rows
from sparsetrain.backends.triton import rows
from sparsetrain.backends.triton.available import interpreted

DEVICE = "cpu" if interpreted() else "cuda"
UNIT = 2.0**-24  # half a unit in the last place of float32
HUB = 140  # places of one row: three chunks

# without shrinking, which in the interpreter takes minutes
some = settings(
    max_examples=7 if interpreted() else 30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
flags = strategy.booleans()


class Tables:
    """A row-sparse gradient and the tables of an optimizer, and copies of them in float64."""

    def __init__(self, seed: int, named: int, rows: int, dim: int, hub: bool, placed: bool) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, rows, (named,), generator=self.generator)
        if hub:
            ids = torch.cat([ids, torch.full((HUB,), rows // 2)])[torch.randperm(named + HUB, generator=self.generator)]
        self.rows, self.dim, self.ids = rows, dim, ids.to(DEVICE)
        places = torch.randint(0, 7, ids.shape, generator=self.generator).to(DEVICE) if placed else None
        values = self.normal(7 if placed else ids.numel(), dim)
        self.g = RowGradient(self.ids, values, rows, dim, False, places)
        self.twin_g = RowGradient(self.ids, values.double(), rows, dim, False, places)
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self.l1 = self.drawn_l1()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(DEVICE)

    def table(self, keep: bool = True, positive: bool = False, dim: int | None = None) -> tuple[Any, Any]:
        """A table, and its twin."""
        if not keep:
            return None, None
        numbers = self.normal(self.rows, self.dim if dim is None else dim)
        numbers = numbers.square() if positive else numbers
        self.pairs.append((numbers, numbers.double()))
        return self.pairs[-1]

    def counts(self, keep: bool, least: int = 0) -> tuple[Any, Any]:
        if not keep:
            return None, None
        counts = torch.randint(least, 5, (self.rows,), generator=self.generator, dtype=torch.int32).to(DEVICE)
        self.pairs.append((counts, counts.clone()))
        return self.pairs[-1]

    def drawn_l1(self) -> tuple[Any, Any]:
        kind = int(torch.randint(3, (), generator=self.generator))
        if kind == 2:
            l1 = self.normal(self.rows, self.dim).abs()
            return l1, l1.double()
        return kind / 3, kind / 3

    def compare(self, terms: float) -> None:
        """Tables are as near to their twins as so many roundings of the largest number allow, and equal where unused."""
        for table, twin in self.pairs:
            scale = 1 + twin.abs().max().item() if twin.numel() else 1.0
            assert bool(((table.double() - twin.double()).abs() <= terms * UNIT * scale).all())


def step(case: Tables, name: str, tables: list[tuple[Any, Any]], **numbers: Any) -> None:
    before = [table.clone() for table, _ in case.pairs]
    told = [(table, table._version) for table, _ in case.pairs if table.is_floating_point()]
    getattr(rows, name)(case.g, *(table for table, _ in tables), case.l1[0], scale=-0.5, **numbers)
    getattr(torch_rows, name)(case.twin_g, *(twin for _, twin in tables), case.l1[1], scale=-0.5, **numbers)
    case.compare(60 + HUB)
    assert all(table._version > version for table, version in told)  # autograd is
    unused = torch.ones(case.rows, dtype=torch.bool, device=DEVICE)
    unused[case.ids] = False
    for (table, _), old in zip(case.pairs, before, strict=True):
        assert torch.equal(table[unused], old[unused])


cases = strategy.builds(
    Tables, strategy.integers(0, 2**32 - 1), strategy.sampled_from([0, 1, 30]), strategy.sampled_from([1, 8, 400]),
    strategy.sampled_from([1, 3, 16, 300]), flags, flags,
)  # fmt: skip


@some
@given(cases, flags, flags, flags, flags)
def test_adam(case: Tables, amsgrad: bool, counted: bool, decoupled: bool, small: bool) -> None:
    tables = [case.table(), case.table(), case.table(positive=True), case.table(amsgrad, positive=True)]
    step(
        case, "adam", [*tables, case.counts(counted)], step=7, lr=0.1, betas=(0.9, 0.999) if small else (0.0, 0.5), eps=0.1,
        weight_decay=0.2, decoupled=decoupled,
    )  # fmt: skip


@pytest.mark.parametrize("dim", [1, 5])
def test_dense_gradients_are_not_sorted(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Tables(0, 0, 700, dim, hub=False, placed=False)
    gradient = case.normal(700, dim)
    case.g, case.twin_g = RowGradient.of_dense(gradient, 700), RowGradient.of_dense(gradient.double(), 700)
    case.ids = case.g.ids
    monkeypatch.setattr(torch, "sort", None)
    tables = [case.table(), case.table(True), case.counts(True)]
    step(case, "sgd", tables, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.2, nesterov=False)


@some
@given(cases, flags, flags, flags)
def test_sgd(case: Tables, momentum: bool, dampening: bool, nesterov: bool) -> None:
    tables = [case.table(), case.table(momentum), case.counts(momentum and dampening)]
    step(
        case, "sgd", tables, lr=0.1, momentum=0.9, dampening=0.3 * dampening, weight_decay=0.2, nesterov=nesterov
    )  # fmt: skip


@some
@given(cases, flags)
def test_adagrad(case: Tables, rowwise: bool) -> None:
    step(
        case, "adagrad", [case.table(), case.table(positive=True, dim=1 if rowwise else None)], lr=0.1, eps=0.1,
        weight_decay=0.2,
    )  # fmt: skip


@some
@given(cases, flags, flags, flags)
def test_rmsprop(case: Tables, centered: bool, momentum: bool, counted: bool) -> None:
    weights, squares, means = case.table(), case.table(positive=True), case.table(centered)
    if centered:
        for square, mean in zip(squares, means, strict=True):
            square += (3 * mean) ** 2  # or the variance is not one
    counts = case.counts(counted and not centered, least=2)
    step(
        case, "rmsprop", [weights, squares, means, case.table(momentum), counts], lr=0.1, alpha=0.9, eps=0.1,
        weight_decay=0.2, momentum=0.9,
    )  # fmt: skip


def catch_up(case: Tables, name: str, steps: Tensor, tables: list[tuple[Any, Any]], *numbers: Any) -> None:
    used = case.ids.unique()
    behind = torch.randint(0, len(steps) + 1, used.shape, generator=case.generator).to(DEVICE)
    if not used.numel():
        return
    getattr(rows, name)(used, behind, steps, *(table for table, _ in tables), case.dim, *numbers)
    getattr(torch_rows, name)(used, behind, steps, *(twin for _, twin in tables), case.dim, *numbers)
    case.compare(4 * (len(steps) + 4))


def uniform(case: Tables, least: list[float], most: list[float], count: int) -> Tensor:
    drawn = torch.rand(count, 5, generator=case.generator, dtype=torch.float64)
    return torch.tensor(least).double() + drawn * (torch.tensor(most) - torch.tensor(least)).double()


@some
@given(cases, flags, strategy.sampled_from([1, 2, 20]))
def test_idle_adam(case: Tables, amsgrad: bool, count: int) -> None:
    steps = uniform(case, [0.85, 0.98, 0, 1, 0.99], [0.95, 0.999, 0.1, 5, 1], count)
    tables = [case.table(), case.table(), case.table(positive=True), case.table(amsgrad, positive=True)]
    catch_up(case, "idle_adam", steps, tables, 1e-1)


@some
@given(cases, flags, flags, flags, strategy.sampled_from([1, 2, 20]))
def test_idle_linear(case: Tables, buffer: bool, squares: bool, means: bool, count: int) -> None:
    steps = uniform(case, [0.8, -0.1, 0, 0.5, 0.8], [1, 0.1, 0.1, 1, 1], count)
    steps[:, 1:3] *= buffer  # what the other one does to each
    catch_up(case, "idle_linear", steps, [case.table(), case.table(buffer), case.table(squares), case.table(means)])
