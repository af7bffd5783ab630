"""Constraints on edges against dense float64 twins: values kept, gradients, optimizers, combinations."""

import copy
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import OPTIMIZERS
from constrained_layers import layer_of, plain, raw_of
from hypothesis import given, settings
from hypothesis import strategies as hypo
from structures import Structure, structures
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

import sparsetrain as st
from sparsetrain import constrain
from sparsetrain.nn import SparseLinear

OURS: dict[str, Callable[..., Any]] = {
    "ours SGD": lambda p: st.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, l1=0.1),
    "ours RMSprop": lambda p: st.optim.RMSprop(p, lr=0.01, momentum=0.9, bias_correction="row"),
    "ours Adagrad": lambda p: st.optim.Adagrad(p, lr=0.1, weight_decay=0.1),
    "ours Adam": lambda p: st.optim.Adam(p, lr=0.1, l1=0.1),
    "ours AdamW": lambda p: st.optim.AdamW(p, lr=0.1, weight_decay=0.5, unused="dense"),
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def train(layer: nn.Module, optimizer: Any, steps: int = 30) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(5, 4, generator=generator, dtype=layer.bias.dtype)
        optimizer.zero_grad()
        (layer(x) - 3 * x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()


# ---- each constraint ---------------------------------------------------------------------------------------------------


def test_signs_are_exact_and_hold() -> None:
    layer = layer_of(0.1, -0.2, 0.3, -0.4, 0.0, 1e-30)
    before, parameter = layer.values.detach().clone(), layer.values
    assert constrain.positive(layer, [0, 2, 4]) is layer
    constrain.negative(layer, [1, 3])
    assert layer.values.equal(before)
    assert raw_of(layer) is parameter
    train(layer, torch.optim.SGD(layer.parameters(), lr=0.5))
    values = layer.values.detach()
    assert (values[[0, 2, 4]] >= 0).all()
    assert (values[[1, 3]] <= 0).all()
    assert values[4] > 0  # a zero is not stuck
    other = layer_of(0.1, -0.2, 0.3, -0.4, 0.0, 1e-30)
    train(other, torch.optim.SGD(other.parameters(), lr=0.5))
    assert (other.values[[1, 3]] > 0).all()  # the constraint had something to do


def test_signed_is_dales_principle() -> None:
    layer = layer_of(1.0, 3.0, -2.0, 4.0, 5.0, -6.0)
    of_column = torch.tensor([1, -1, 1, 1])
    constrain.signed(layer, of_column[layer.topology.col])
    assert layer.values.tolist() == [1.0, 3.0, -2.0, 4.0, 5.0, -6.0]
    train(layer, torch.optim.Adam(layer.parameters(), lr=0.3))
    dense = layer.to_dense().weight
    assert ((dense * of_column) >= 0).all()
    other = layer_of(1.0, -3.0, 1, 1, 1, 1)
    constrain.signed(other, [-1.0, 1.0], edges=[1, 0])
    assert other.values.tolist() == [1.0, -3.0, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_hold_and_keep_values(dtype: torch.dtype) -> None:
    layer = layer_of(0.1, -0.999999, 0.3, -0.4, 0.0, 50.0, dtype=dtype)
    before = layer.values.detach().clone()
    constrain.bounded(layer, -1, 1, edges=range_of(5))
    constrain.bounded(layer, 10.0, 1000.0, edges=[5])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(layer.values.detach(), before, rtol=16 * eps, atol=4 * eps)
    train(layer, torch.optim.SGD(layer.parameters(), lr=1.0))
    values = layer.values.detach()
    assert (values[:5].abs() <= 1).all()
    assert 10 <= values[5] <= 1000
    with torch.no_grad():
        raw_of(layer).mul_(1e9)
    assert (layer.values[:5].abs() <= 1).all()
    assert 10 <= layer.values[5] <= 1000


def range_of(k: int) -> list[int]:
    return list(range(k))


def test_bounds_for_each_edge_and_their_slope() -> None:
    layer = layer_of(0.5, 2.0, 5.0, 1.0, 1.0, 1.0)
    constrain.bounded(layer, torch.tensor([0.0, 4.0]), [1.0, 6.0], edges=[0, 2])
    layer.values.sum().backward()
    torch.testing.assert_close(raw_of(layer).grad, torch.ones(6, dtype=torch.float64))  # the middles
    assert raw_of(layer)[[0, 2]].abs().max() < 1e-15


@pytest.mark.parametrize("name", [*OPTIMIZERS, *OURS])
def test_frozen_edges_do_not_move(name: str) -> None:
    layer = layer_of()
    before = layer.values.detach().clone()
    constrain.frozen(layer, [1, 4])
    optimizer = (OPTIMIZERS | OURS)[name](layer.parameters())
    train(layer, optimizer, 100)
    moved = layer.values.detach() != before
    assert moved.tolist() == [True, False, True, True, False, True]
    assert raw_of(layer).grad[[1, 4]].tolist() == [0.0, 0.0]


def test_shared_values_have_one_number_and_the_sum_of_the_gradients() -> None:
    layer = layer_of(5.0, 7.0, 7.0, 5.0, 1.0, 2.0)
    twin = layer_of(5.0, 7.0, 7.0, 5.0, 1.0, 2.0)
    parameter = layer.values
    old = layer(torch.ones(1, 4, dtype=torch.float64)).sum()  # its graph lives on
    constrain.shared(layer, [0, 1, 1, 0], edges=[0, 1, 2, 3])
    assert raw_of(layer) is parameter
    assert parameter.tolist() == [5.0, 7.0, 1.0, 2.0]
    assert layer.values.tolist() == [5.0, 7.0, 7.0, 5.0, 1.0, 2.0]
    x = torch.randn(5, 4, dtype=torch.float64)
    for each in (layer, twin):
        each(x).square().sum().backward()
    g = twin.values.grad
    expected = torch.stack([g[0] + g[3], g[1] + g[2], g[4], g[5]])
    torch.testing.assert_close(parameter.grad, expected, rtol=1e-14, atol=0)
    train(layer, torch.optim.Adam(layer.parameters(), lr=0.1))
    values = layer.values.tolist()
    assert values[0] == values[3]
    assert values[1] == values[2]
    assert old.isfinite()


def test_shared_starts() -> None:
    layer = layer_of(1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    types = [0, 0, 2, 2, 0, 2]
    free = constrain.shared(layer_of(torch.nan, 1.0, 1.0, 0, 0, 0), [0, 0], edges=[1, 2])
    assert free.values[1:].tolist() == [1.0, 1.0, 0, 0, 0]  # NaN elsewhere is none of its business
    constrain.shared(copy.deepcopy(layer), types, initial=[1.0, 2.0, 3.0])
    mean = constrain.shared(copy.deepcopy(layer), types, project=True)
    torch.testing.assert_close(raw_of(mean).detach(), torch.tensor([8 / 3, 0, 14 / 3], dtype=torch.float64))
    given = constrain.shared(layer, types, initial=torch.tensor([1.0, 2.0, 3.0]))
    assert raw_of(given).tolist() == [1.0, 2.0, 3.0]
    assert given.values.tolist() == [1.0, 1.0, 3.0, 3.0, 1.0, 3.0]


# ---- gradients ---------------------------------------------------------------------------------------------------------


def of_everything() -> SparseLinear:
    layer = layer_of(0.5, -0.5, 2.0, 0.25, 0.7, -1.0)
    constrain.signed(layer, [1, -1, 1], edges=[0, 1, 2])
    constrain.shared(layer, [0, 0], edges=[0, 1])
    constrain.bounded(layer, -1.0, 1.0, edges=[3, 4])
    return constrain.frozen(layer, [4, 5])


def test_derivatives() -> None:
    layer = of_everything()
    module, raw = layer.parametrizations["values"][0], raw_of(layer).detach().clone().requires_grad_()
    assert gradcheck(module, raw)
    assert gradgradcheck(module, raw)
    assert repr(module) == "Constrained(6 edges: shared by 5, signed 3, bounded 2, frozen 2)"


# ---- together ----------------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[[SparseLinear], Any]] = {
    "positive": lambda layer: constrain.positive(layer, [0, 2, 3]),
    "negative": lambda layer: constrain.negative(layer, [5]),
    "bounded": lambda layer: constrain.bounded(layer, -1, 1, edges=[0, 3]),
    "frozen": lambda layer: constrain.frozen(layer, [2, 4, 5]),
    "shared": lambda layer: constrain.shared(layer, [0, 1, 0], edges=[0, 1, 3]),
}


@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)))
def test_order_does_not_matter(order: tuple[str, ...]) -> None:
    layer = layer_of(0.5, 3.0, 2.0, 0.5, 0.7, -1.0)
    before = layer.values.detach().clone()
    for name in order:
        STEPS[name](layer)
    torch.testing.assert_close(layer.values.detach(), before, rtol=1e-14, atol=0)
    train(layer, torch.optim.AdamW(layer.parameters(), lr=0.3, weight_decay=0.3))
    values = layer.values.detach()
    assert values[[2, 4, 5]].equal(before[[2, 4, 5]])
    assert 0 <= values[0] <= 1
    torch.testing.assert_close(values[0], values[3], rtol=1e-14, atol=0)
    kinds = [key for key, buffer in layer.parametrizations["values"][0].named_buffers()]
    assert kinds == ["types", "signs", "bounded", "low", "high", "frozen", "held"]


def test_one_magnitude_with_two_signs() -> None:
    layer = layer_of(1.0, -1.0, 1.0, 2.0, 2.0, -2.0)
    constrain.signed(layer, [1, -1, 1, 1, 1, -1])
    constrain.shared(layer, [0, 0, 0, 1, 1, 1])
    assert raw_of(layer).tolist() == [1.0, 2.0]
    assert layer.values.tolist() == [1.0, -1.0, 1.0, 2.0, 2.0, -2.0]
    train(layer, torch.optim.Adam(layer.parameters(), lr=0.1))
    a, b = layer.values.detach()[[0, 3]].tolist()
    assert layer.values.tolist() == [a, -a, a, b, b, -b]


@settings(deadline=None, max_examples=60)
@given(structures(most=12), hypo.integers(0, 2**32 - 1))
def test_any_structure_and_any_words(structure: Structure, seed: int) -> None:
    t = st.Topology(structure.crow, structure.col, (structure.rows, structure.columns))
    generator = torch.Generator().manual_seed(seed)
    layer = SparseLinear(t.shape[1], t.shape[0], topology=t, dtype=torch.float64)
    before = layer.values.detach().clone()
    kinds = torch.randint(0, 3, (t.nnz,), generator=generator).tolist()
    words = [(None, "positive" if v >= 0 else "negative", "fixed")[k] for k, v in zip(kinds, before, strict=True)]
    constrain.by_word(layer, words)
    assert layer.values.equal(before)
    assert is_parametrized(layer) == any(words)
    optimizer = torch.optim.SGD(layer.parameters(), lr=2.0, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        x = torch.randn(4, t.shape[1], generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (layer(x) + step).square().sum().backward()
        optimizer.step()
    after = layer.values.detach()
    for word, old, new in zip(words, before.tolist(), after.tolist(), strict=True):
        assert word != "positive" or new >= 0
        assert word != "negative" or new <= 0
        assert word != "fixed" or new == old


@given(structures(most=6))
@settings(deadline=None, max_examples=30)
def test_every_constraint_on_any_structure(structure: Structure) -> None:
    t = st.Topology(structure.crow, structure.col, (structure.rows, structure.columns))
    layer = SparseLinear(t.shape[1], t.shape[0], topology=t)
    constrain.shared(layer, [k % 2 for k in range(t.nnz)], project=True)
    constrain.bounded(layer, -10, 10)
    constrain.frozen(layer, [])
    constrain.frozen(layer)
    assert layer.values.shape == (t.nnz,)
    layer(torch.ones(2, t.shape[1])).sum().backward()
    remove_parametrizations(layer, "values")
    assert layer.values.shape == (t.nnz,)


def test_nothing_asked_for_registers_nothing() -> None:
    layer = layer_of()
    constrain.by_word(layer, [None, "", float("nan"), None, None, None])
    constrain.positive(layer, [])
    assert type(layer) is SparseLinear


# ---- the way out, and assignments --------------------------------------------------------------------------------------


def test_removal_keeps_the_effective_values() -> None:
    layer = of_everything()
    values = layer.values.detach().clone()
    parameter = raw_of(layer)
    remove_parametrizations(layer, "values")
    assert type(layer) is SparseLinear
    assert layer.values is parameter
    assert layer.values.equal(values)
    layer.zero_grad()
    layer(torch.ones(2, 4, dtype=torch.float64)).sum().backward()
    assert layer.values.grad.shape == (6,)


def test_values_can_be_set() -> None:
    layer = constrain.frozen(constrain.positive(layer_of(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)), [0])
    new = torch.tensor([1.0, 0.0, 30.0, 40.0, 50.0, 60.0], dtype=torch.float64)
    layer.values = new
    assert layer.values.equal(new)
    for bad, message in (
        (new - 5, "values: expected edge 0 to keep 1.0, at which it is frozen, got -4.0."),
        (torch.cat([new[:1], -new[1:]]), "values: expected edge 2 from 0.0 to inf, got -30.0."),
        (new[:3], "values: expected shape (6,), got (3,)."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            layer.values = bad
    assert layer.values.equal(new)
    both = constrain.shared(layer_of(1.0, 1.0, 1.0, 4.0, 5.0, 6.0), [0, 0, 0], edges=[0, 1, 2])
    with pytest.raises(ValueError, match=re.escape("values: expected edges of type 0 to share one value, got 1.0 at")):
        both.values = new + torch.tensor([0.0, 2.0, -29.0, 0, 0, 0])


def test_a_bound_that_rounding_has_reached_is_no_contradiction_later() -> None:
    layer = constrain.bounded(layer_of(), -2, 2)
    with torch.no_grad():
        raw_of(layer)[0] = 1e6
    assert layer.values[0] == 2.0
    constrain.frozen(layer, [3])
    assert layer.values[0] == 2.0
    assert raw_of(layer).isfinite().all()


# ---- elsewhere ---------------------------------------------------------------------------------------------------------


def test_penalties_are_of_effective_values() -> None:
    layer = constrain.bounded(layer_of(0.5, -0.5, 0.1, 0.2, 0.3, 0.4), -1, 1)
    values = layer.values.detach()
    torch.testing.assert_close(st.penalty.l1(layer).detach(), values.abs().sum())
    st.penalty.l2(layer, [0]).backward()
    assert raw_of(layer).grad.count_nonzero() == 1


def test_what_tables_have_for_no_word() -> None:
    layer = plain()
    pandas = pytest.importorskip("pandas")
    words = pandas.Series(["positive", pandas.NA, None, "fixed", "", float("nan")], dtype="object")
    constrain.by_word(layer, words)
    assert repr(layer.parametrizations["values"][0]) == "Constrained(6 edges: signed 1, frozen 1)"
