"""LookupTable under every transform and derivative of torch, against products with one-hot codes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from derivative_rules import MAPPED, RULES, compare, with_dense_gradient
from hypothesis import given, settings
from hypothesis import strategies as hyp
from torch import Tensor, nn
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from sparsetrain.nn import LookupTable

ROWS, DIM = 5, 2
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's, at its first dual tensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def twin_of(table: LookupTable, offsets: Tensor | None) -> Callable[..., Tensor]:
    """The table as dense products; gradients are those of the sums written out."""

    def call(weight: Tensor, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        padding, numbers = table.padding_idx, torch.arange(ROWS)
        if padding is not None:
            weight = torch.where((numbers == padding)[:, None], weight.detach(), weight)
        one_hot = (ids[..., None] == numbers).to(weight.dtype)
        if table.pool is None:
            y = one_hot @ weight
            return y.movedim(-1, 0) if table.columns else y
        length = ids.shape[-1]
        starts = torch.arange(0, ids.numel(), length) if offsets is None else offsets
        ends, at = torch.cat([starts[1:], torch.tensor([ids.numel()])]), torch.arange(ids.numel())
        member = (at >= starts[:, None]) & (at < ends[:, None])  # (bags, k)
        if padding is not None:
            member = member & (ids.reshape(-1) != padding)
        rows = one_hot.reshape(-1, ROWS) @ weight
        if table.pool == "max":
            lowest = torch.full((len(starts), 1, DIM), -torch.inf, dtype=rows.dtype)  # for where there are no ids
            masked = torch.where(member[..., None], rows, -torch.inf)
            largest = torch.cat([masked, lowest], 1).amax(1)
            y = torch.where(member.any(1)[:, None], largest, 0.0)
        else:
            factors = member.to(weight.dtype)
            if weights is not None:
                factors = factors * weights.reshape(-1)
            if table.pool == "mean":
                factors = factors / factors.sum(1, keepdim=True).clamp(min=1)
            y = factors @ rows
        return y.t() if table.columns else y

    return call


class Case:
    """A table, its twin and ids: (k,) with offsets, else a matrix, or three of them."""

    def __init__(self, options: dict[str, Any], ragged: bool = False, dtype: torch.dtype = torch.float64) -> None:
        self.table = LookupTable(ROWS, DIM, dtype=dtype, **options)
        self.offsets = torch.tensor([0, 2, 2]) if ragged else None  # one bag of nothing
        ids = torch.tensor([1, 4, 2, 0, 1, 3])
        self.ids = ids if ragged else ids.view(2, 3)
        self.many = torch.stack([self.ids, (self.ids + 1) % ROWS, (self.ids * 2) % ROWS])
        self.weight = self.table.weight.detach()
        self.twin = twin_of(self.table, self.offsets)

    def __call__(self, weight: Tensor, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        y: Tensor = functional_call(self.table, {"weight": weight}, (ids, self.offsets, weights))
        return y


FORMS = [
    {}, {"columns": True}, {"padding_idx": 4}, {"pool": "sum"}, {"pool": "mean", "columns": True}, {"pool": "max"},
    {"pool": "sum", "padding_idx": 4}, {"pool": "mean", "padding_idx": 4}, {"pool": "max", "padding_idx": 4},
]  # fmt: skip


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_by_the_table(options: dict[str, Any], ragged: bool) -> None:
    case = Case(options, ragged and "pool" in options)
    compare(RULES, case, case.twin, case.weight, case.ids)
    compare(MAPPED, case, case.twin, case.weight, case.many)


@pytest.mark.parametrize("padding_idx", [None, 4])
@pytest.mark.parametrize("ragged", [False, True])
def test_by_the_weights_of_samples(ragged: bool, padding_idx: int | None) -> None:
    case = Case({"pool": "sum", "padding_idx": padding_idx}, ragged)
    weight, numbers = case.weight, torch.randn(case.ids.shape, dtype=torch.float64)
    for rules, ids in ((RULES, case.ids), (MAPPED, case.many)):
        compare(rules, lambda c, i: case(weight, i, c), lambda c, i: case.twin(weight, i, c), numbers, ids)
        both, k = torch.cat([weight.flatten(), numbers.flatten()]), weight.numel()
        compare(
            rules,
            lambda p, i, k=k: case(with_dense_gradient(p[:k].view_as(weight)), i, p[k:].view_as(numbers)),
            lambda p, i, k=k: case.twin(p[:k].view_as(weight), i, p[k:].view_as(numbers)),
            both,
            ids,
        )


@pytest.mark.parametrize("options", [{}, {"pool": "sum"}, {"pool": "max", "padding_idx": 4}], ids=str)
def test_in_single_precision(options: dict[str, Any]) -> None:
    case = Case(options, dtype=torch.float32)
    compare(RULES, case, case.twin, case.weight, case.ids)
    compare(MAPPED, case, case.twin, case.weight, case.many)


@settings(max_examples=40, deadline=None)
@given(
    lengths=hyp.lists(hyp.integers(0, 4), min_size=1, max_size=4), pool=hyp.sampled_from(["sum", "mean", "max"]),
    padding_idx=hyp.sampled_from([None, 0]), weighted=hyp.booleans(), seed=hyp.integers(0, 1000), narrow=hyp.booleans(),
)  # fmt: skip
def test_bags_of_any_length(
    lengths: list[int], pool: str, padding_idx: int | None, weighted: bool, seed: int, narrow: bool
) -> None:
    torch.manual_seed(seed)
    case = Case({"pool": pool, "padding_idx": padding_idx})
    ids = torch.randint(ROWS, (sum(lengths),), dtype=torch.int32 if narrow else torch.int64)
    case.offsets = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    twin = twin_of(case.table, case.offsets)
    weights = torch.randn(ids.shape, dtype=torch.float64) if weighted and pool == "sum" else None
    names = ("backward", "double backward", "forward_ad", "hessian", "jvp of jvp", "vmap")
    rules = {name: RULES[name] for name in names}
    compare(rules, lambda w, i: case(w, i, weights), lambda w, i: twin(w, i, weights), case.weight, ids)


@pytest.mark.parametrize("pool", [None, "sum", "max"])
def test_the_row_of_padding_has_no_derivative(pool: Any) -> None:
    case = Case({"padding_idx": 4, "pool": pool})
    for jacobian in (jacrev, jacfwd):
        slopes = jacobian(case)(case.weight, torch.tensor([[4, 1], [1, 4]]))
        assert not slopes[..., 4, :].any()
        assert slopes[..., 1, :].any()


@pytest.mark.parametrize("pool", [None, "sum"])
def test_norms_are_limited_without_writing_into_the_table(pool: Any) -> None:
    table = LookupTable(ROWS, DIM, max_norm=0.5, pool=pool, dtype=torch.float64)
    other = (nn.EmbeddingBag(ROWS, DIM, mode="sum", max_norm=0.5, dtype=torch.float64) if pool
             else nn.Embedding(ROWS, DIM, max_norm=0.5, dtype=torch.float64))  # fmt: skip
    other.load_state_dict(table.state_dict())
    before, ids = table.weight.detach().clone(), torch.tensor([[1, 4], [1, 0]])
    loss = lambda w: functional_call(table, {"weight": w}, (ids,)).sin().sum()  # noqa: E731
    slope = grad(loss)(table.weight)
    moved = jvp(loss, (table.weight.detach(),), (torch.ones_like(before),))[1]
    mapped = vmap(table)(ids[None])[0]
    assert table.weight.equal(before)
    y = other(ids)
    torch.testing.assert_close(mapped, y, rtol=1e-14, atol=0)
    y.sin().sum().backward()
    torch.testing.assert_close(slope, other.weight.grad, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(moved, slope.sum(), rtol=1e-13, atol=1e-15)


def test_ids_that_are_not_mapped_are_checked_under_transforms() -> None:
    table = LookupTable(ROWS, DIM, pool="sum")
    for wrong in (-1, ROWS):
        with pytest.raises(IndexError, match=f"expected ids from 0 to {ROWS - 1}, got {wrong}"):
            grad(lambda w, i=wrong: functional_call(table, {"weight": w}, (torch.tensor([[i]]),)).sum())(table.weight)
    with pytest.raises(ValueError, match="expected offsets that begin at 0"):
        grad(lambda w: functional_call(table, {"weight": w}, (torch.tensor([1, 2]), torch.tensor([1]))).sum())(
            table.weight
        )
