"""LookupTable against nn.Embedding and nn.EmbeddingBag."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tables import apart
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from sparsetrain.nn import LookupTable


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def table_of(**options: Any) -> LookupTable:
    return LookupTable(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), **options)


IDS = [
    torch.tensor([3, 6, 3, 0]), torch.tensor([[1, 1], [5, 2]]), torch.tensor(4), torch.zeros(0, dtype=torch.long),
    torch.zeros(2, 0, 3, dtype=torch.long), torch.tensor([[[6, 0, 2]]], dtype=torch.int32),
    torch.arange(6).view(2, 3).t(),
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding_idx": 3},
        {"padding_idx": -1},
        {"max_norm": 0.7},
        {"max_norm": 0.7, "norm_type": 1.0, "padding_idx": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("ids", IDS, ids=lambda ids: f"{tuple(ids.shape)}-{ids.dtype}")
def test_rows_are_those_of_an_embedding(ids: Tensor, columns: bool, options: dict[str, Any]) -> None:
    table = table_of(columns=columns, **options)
    other = nn.Embedding(7, 3, sparse=True, dtype=torch.float64, **options)
    other.load_state_dict(table.state_dict())
    y, expected = table(ids), other(ids.reshape(-1)).reshape(*ids.shape, 3)  # torch's gradient takes no single id
    if columns:
        expected = expected.movedim(-1, 0)
        assert y.shape == (3, *ids.shape)
    assert y.equal(expected)
    if max_norm := options.get("max_norm"):
        assert (table.weight[ids].norm(options.get("norm_type", 2.0), -1) <= max_norm + 1e-6).all()
    assert table.weight.equal(other.weight)
    push = torch.randn_like(y)
    y.backward(push)
    expected.backward(push)
    one, two = table.weight.grad, other.weight.grad
    assert one is not None
    assert two is not None
    assert one.is_sparse
    assert one.to_dense().equal(two.to_dense())
    assert set(one._indices()[0].tolist()) == set(ids.flatten().tolist()) - {table.padding_idx}


def test_columns_are_a_matrix_of_which_columns_are_picked() -> None:
    table, ids = table_of(columns=True), torch.tensor([[2, 2], [0, 6]])
    assert table.matrix.shape == (3, 7)
    assert table(ids).equal(table.matrix[:, ids])
    assert table.matrix.data_ptr() == table.weight.data_ptr()
    assert table_of().matrix.shape == (7, 3)


BAGS: list[tuple[Tensor, Tensor | None]] = [
    (torch.tensor([[3, 6], [3, 0], [1, 1]]), None),
    (torch.tensor([3, 6, 3, 0, 2]), torch.tensor([0, 2, 2])),
    (torch.tensor([3, 6, 3], dtype=torch.int32), torch.tensor([0], dtype=torch.int32)),
    (torch.zeros(0, dtype=torch.long), torch.tensor([0, 0])),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("pool", ["sum", "mean"])
@pytest.mark.parametrize("bag", range(len(BAGS)))
def test_pools_are_those_of_an_embedding_bag(
    bag: int, pool: Any, columns: bool, padding_idx: int | None, weighted: bool
) -> None:
    if weighted and pool == "mean":
        pytest.skip("torch weighs sums alone")
    ids, offsets = BAGS[bag]
    table = table_of(pool=pool, columns=columns, padding_idx=padding_idx)
    other = nn.EmbeddingBag(7, 3, mode=pool, sparse=True, padding_idx=padding_idx, dtype=torch.float64)
    other.load_state_dict(table.state_dict())
    weights = torch.randn(ids.shape, dtype=torch.float64) if weighted else None
    mine, theirs = (None if weights is None else weights.clone().requires_grad_() for _ in range(2))
    y, expected = table(ids, offsets, mine), other(ids, offsets, theirs)
    expected = expected.t() if columns else expected
    assert y.equal(expected)
    push = torch.randn_like(y)
    y.backward(push)
    expected.backward(push)
    one, two = table.weight.grad, other.weight.grad
    assert one is not None
    assert two is not None
    assert one.is_sparse
    torch.testing.assert_close(one.to_dense(), two.to_dense(), rtol=1e-15, atol=1e-16)  # sums of duplicates
    if not weighted:
        assert one._nnz() == len(set(ids.flatten().tolist()) - {padding_idx})  # each row once
    if mine is not None and theirs is not None:
        assert mine.grad is not None
        assert theirs.grad is not None
        assert mine.grad.equal(theirs.grad)


def test_the_largest_numbers_are_those_of_an_embedding_bag_with_padding() -> None:
    table = table_of(pool="max", padding_idx=3)
    other = nn.EmbeddingBag(7, 3, mode="max", padding_idx=3, dtype=torch.float64)
    other.load_state_dict(table.state_dict())
    ids, offsets = (
        torch.tensor([3, 6, 1, 3, 3, 3, 0, 6]),
        torch.tensor([0, 3, 5, 5]),
    )  # a bag of padding, one of nothing
    push = torch.randn(4, 3, dtype=torch.float64)
    results = []
    for module in (table, other):
        y = module(ids, offsets)
        y.backward(push)
        assert module.weight.grad is not None
        results.append((y.detach(), module.weight.grad.to_dense()))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_bags_of_no_ids_are_zero(pool: Any) -> None:
    y = table_of(pool=pool)(torch.zeros(2, 0, dtype=torch.long))
    assert y.equal(torch.zeros(2, 3, dtype=torch.float64))


def test_pools_are_sums_and_means() -> None:
    ids = torch.tensor([[3, 6, 3], [0, 0, 0]])
    rows = table_of()(ids)
    torch.testing.assert_close(table_of(pool="sum")(ids), rows.sum(1), rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(table_of(pool="mean")(ids), rows.mean(1), rtol=1e-15, atol=1e-15)
    without = table_of(pool="mean", padding_idx=3)
    torch.testing.assert_close(without(ids)[0], without.weight[6], rtol=1e-15, atol=0)


class Densified(torch.autograd.Function):
    """The identity, for what can't take a sparse gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *dy: Tensor) -> Tensor:
        return dy[0].to_dense()


def dense_lookup(options: dict[str, Any]) -> tuple[LookupTable, Callable[[Tensor], Tensor]]:
    table, ids = table_of(**options), torch.tensor([[3, 6], [3, 0]])

    def look(weight: Tensor) -> Tensor:
        y: Tensor = functional_call(table, {"weight": weight}, (ids,))
        return y

    return table, look


@pytest.mark.parametrize(
    "options", [{}, {"columns": True}, {"padding_idx": 6}, {"pool": "sum"}, {"pool": "mean"}], ids=str
)
def test_gradients_are_those_of_finite_differences(options: dict[str, Any]) -> None:
    table, look = dense_lookup(options)
    weight = table.weight.detach().clone().requires_grad_()
    push = torch.randn_like(look(weight))
    (sparse,) = torch.autograd.grad((look(weight) * push).sin().sum(), [weight])
    numbers = torch.func.grad(lambda w: (look(w) * push).sin().sum())(weight.detach())
    torch.testing.assert_close(sparse.to_dense(), numbers, rtol=1e-14, atol=1e-14)
    if "padding_idx" not in options:  # which is no gradient of anything
        densified: Any = Densified.apply
        assert gradcheck(lambda w: look(densified(w)), (weight,))
    for k in ((3, 1), (0, 0), (6, 2)):
        if options.get("padding_idx") == k[0]:
            assert sparse.to_dense()[k] == 0
            continue
        shift = torch.zeros_like(weight.detach())
        shift[k] = 1e-6
        above, below = ((look(weight.detach() + s * shift) * push).sin().sum() for s in (1, -1))
        torch.testing.assert_close(sparse.to_dense()[k], (above - below) / 2e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"columns": True}, {"pool": "sum"}], ids=str)
def test_compiled(options: dict[str, Any]) -> None:
    table, other, ids = table_of(**options), table_of(**options), torch.tensor([[3, 6], [3, 0]])
    compiled: Any = torch.compile(table, fullgraph=True, backend="aot_eager")
    y, expected = compiled(ids), other(ids)
    assert y.equal(expected)
    push = torch.randn_like(y)
    y.backward(push)
    expected.backward(push)
    assert table.weight.grad is not None
    assert other.weight.grad is not None
    assert table.weight.grad.layout is torch.sparse_coo
    torch.testing.assert_close(table.weight.grad.to_dense(), other.weight.grad.to_dense(), rtol=1e-15, atol=1e-15)


def test_autocast_and_no_grad() -> None:
    table, ids = LookupTable(7, 3), torch.tensor([1, 5])
    with torch.autocast("cpu", torch.bfloat16):
        assert table(ids).equal(table.weight[ids])
    with torch.no_grad():
        assert not table(ids).requires_grad


# ---- a module ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}], ids=str)
def test_its_state_is_that_of_an_embedding(options: dict[str, Any]) -> None:
    table, embedding = table_of(**options), nn.Embedding(7, 3, dtype=torch.float64, **options)
    embedding.load_state_dict(table.state_dict())
    assert embedding.weight.equal(table.weight)
    other = table_of(**options)
    other.reset_parameters(torch.Generator().manual_seed(5))
    assert apart(other, table) > 0.1
    other.load_state_dict(embedding.state_dict())
    assert other.weight.equal(table.weight)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        table.load_state_dict(nn.Embedding(6, 3).state_dict())


@pytest.mark.parametrize("options", [{}, {"columns": True}, {"padding_idx": 2, "max_norm": 1.5}], ids=str)
def test_from_pretrained(options: dict[str, Any]) -> None:
    weight = torch.randn(7, 3, dtype=torch.float64)
    before = torch.get_rng_state()
    table = LookupTable.from_pretrained(weight, **options)
    assert torch.get_rng_state().equal(before)
    assert table.weight.requires_grad
    assert table.weight.data_ptr() == weight.data_ptr()  # as nn.Embedding, without a copy
    assert (table.rows, table.dim) == (7, 3)
    embedding = nn.Embedding.from_pretrained(weight.clone(), **{k: v for k, v in options.items() if k != "columns"})
    ids = torch.tensor([2, 6, 2])
    assert table(ids).equal(embedding(ids).t() if table.columns else embedding(ids))


def test_from_pretrained_of_other_forms() -> None:
    weight = torch.randn(7, 3)
    frozen = LookupTable.from_pretrained(weight.numpy(), freeze=True, pool="mean")
    assert not frozen.weight.requires_grad
    assert frozen(torch.tensor([[1, 2]])).equal(weight[1:3].mean(0, keepdim=True))
    half = LookupTable.from_pretrained(weight.to(torch.bfloat16))
    assert (half.weight.dtype, half(torch.tensor([1])).dtype) == (torch.float32, torch.bfloat16)
    turned = LookupTable.from_pretrained(torch.randn(3, 7).t())
    assert turned.weight.is_contiguous()  # rows are stepped in such memory
    for bad, error in (
        (torch.zeros(7, 3, dtype=torch.long), TypeError),
        (torch.zeros(7), ValueError),
        ("x", TypeError),
    ):
        with pytest.raises(error, match=r"^LookupTable\.from_pretrained: expected"):
            LookupTable.from_pretrained(bad)


def test_initial_values() -> None:
    big = LookupTable(4000, 10, padding_idx=-1, generator=torch.Generator().manual_seed(1))
    assert abs(float(big.weight.detach().mean())) < 0.02
    assert abs(float(big.weight.detach().std()) - 1) < 0.02
    assert big.padding_idx == 3999
    assert big.weight[3999].count_nonzero() == 0
    again = LookupTable(4000, 10, padding_idx=-1, generator=torch.Generator().manual_seed(1))
    assert again.weight.equal(big.weight)


def test_it_says_what_it_is() -> None:
    assert (
        repr(LookupTable(7, 3, columns=True, padding_idx=0, pool="sum"))
        == "LookupTable(7, 3, columns=True, padding_idx=0, pool=sum)"
    )
    assert repr(LookupTable(7, 3)) == "LookupTable(7, 3)"


# ---- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "kind", "match"),
    [
        (torch.tensor([1.0]), TypeError, r"expected ids to be a tensor of int64 or int32, got torch\.float32. Convert with \.long\(\)"),
        (torch.tensor([True]), TypeError, r"got torch\.bool"),
        (torch.tensor([1], dtype=torch.uint8), TypeError, r"got torch\.uint8"),
        ([1, 2], TypeError, "got list"),
        (torch.tensor([0, 7]), IndexError, "expected ids from 0 to 6, got 7 at position 1."),
        (torch.tensor([0, 2, -1]), IndexError, "got -1 at position 2. An id can't count from the end here"),
        (torch.tensor([[0, 2], [9, -1]]), IndexError, "got 9 at position (1, 0)."),
        (torch.tensor(8), IndexError, "got 8 at position ()."),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("pool", [None, "sum"])
def test_ids_that_do_not_fit(ids: Any, kind: type[Exception], match: str, pool: Any) -> None:
    with pytest.raises(kind, match=f"LookupTable: .*{match if kind is TypeError else re.escape(match)}"):
        table_of(pool=pool)(ids)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pool": "median"}, "expected pool to be None, 'sum', 'mean' or 'max', got 'median'"),
        ({"padding_idx": 7}, "expected padding_idx from -7 to 6, got 7"),
        ({"padding_idx": -8}, "expected padding_idx from -7 to 6, got -8"),
        ({"max_norm": 0.0}, "expected max_norm > 0, got 0.0"),
        ({"max_norm": float("nan")}, "expected max_norm > 0, got nan"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"LookupTable: {match}"):
        table_of(**options)


@pytest.mark.parametrize(("rows", "dim"), [(-1, 3), (3, -1), (2.5, 3), ("7", 3)])
def test_sizes_that_do_not_fit(rows: Any, dim: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"LookupTable: .*(rows|dim)"):
        LookupTable(rows, dim)


def test_shapes_that_do_not_fit() -> None:
    ids = torch.tensor([1, 2])
    with pytest.raises(ValueError, match="offsets and per_sample_weights are for a table with pool"):
        table_of()(ids, torch.tensor([0]))
    with pytest.raises(ValueError, match="offsets and per_sample_weights are for a table with pool"):
        table_of()(ids, per_sample_weights=torch.ones(2))
    with pytest.raises(
        ValueError, match=r"expected ids of shape \(bags, length\), .* got ids of shape \(2,\) without offsets"
    ):
        table_of(pool="sum")(ids)
    with pytest.raises(ValueError, match=r"got ids of shape \(1, 2\) with offsets"):
        table_of(pool="sum")(ids[None], torch.tensor([0]))


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_second_derivatives_through_pools(pool: Any) -> None:
    """The gradient is linear in that of the output."""
    table = table_of(pool=pool)
    ids = torch.tensor([[3, 6, 3], [0, 0, 1]])
    push = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(table(ids), table.weight, push, create_graph=True)
    (second,) = torch.autograd.grad(gradient.to_dense().pow(2).sum(), push)
    dense = torch.zeros(2, 7, dtype=torch.float64).index_put(
        (torch.tensor([[0] * 3, [1] * 3]), ids), torch.tensor(1.0).double(), accumulate=True
    )
    dense = dense / 3 if pool == "mean" else dense
    torch.testing.assert_close(second, 2 * dense @ (dense.T @ push.detach()), rtol=1e-14, atol=1e-14)
