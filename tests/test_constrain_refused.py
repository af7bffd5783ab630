"""Constraints that contradict values or each other are refused, or values projected; nothing is half-changed."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import identical
from constrained_layers import layer_of, plain
from torch import nn

import sparsetrain as st
from sparsetrain import constrain
from sparsetrain.nn import MaskedLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_project() -> None:
    layer = layer_of(-1.0, 0.5, 2.0, 3.0, -0.25, 1.0)
    constrain.positive(layer, [0, 1], project=True)
    assert layer.values.tolist() == [0.0, 0.5, 2.0, 3.0, -0.25, 1.0]
    constrain.bounded(layer, 0, 1, edges=[2, 4, 5], project=True)
    expected = torch.tensor([0.0, 0.5, 0.99, 3.0, 0.01, 0.99], dtype=torch.float64)
    torch.testing.assert_close(layer.values.detach(), expected)
    with pytest.raises(ValueError, match=r"^constrain.frozen: expected numbers to keep, got nan at edge 1"):
        constrain.frozen(layer_of(1, torch.nan, 1, 1, 1, 1))
    with pytest.raises(ValueError, match="got nan at edge 0"):
        constrain.positive(layer_of(torch.nan, 1, 1, 1, 1, 1), project=True)


def twice(first: Callable[[SparseLinear], Any], second: Callable[[Any], Any]) -> Callable[[], Any]:
    def call() -> Any:
        layer = first(plain())
        before = copy.deepcopy(layer)
        try:
            second(layer)
        finally:
            assert identical(dict(layer.state_dict()), dict(before.state_dict()))

    return call


def unchanged(call: Callable[[SparseLinear], Any]) -> Callable[[], Any]:
    return twice(lambda layer: layer, call)


def with_tanh(layer: SparseLinear) -> SparseLinear:
    nn.utils.parametrize.register_parametrization(layer, "values", nn.Tanh(), unsafe=True)
    return layer


CONTRADICTIONS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        unchanged(lambda a: constrain.positive(a)),
        ValueError,
        "constrain.positive: expected values from 0.0 to inf, got -2.0 at edge 1 (row 0, column 2). Initialize the "
        "layer before, or pass project=True",
    ),
    (unchanged(lambda a: constrain.negative(a, [3])), ValueError, "from -inf to 0.0, got 4.0 at edge 3 (row 1, col"),
    (
        twice(lambda a: constrain.positive(a, [2, 3]), lambda a: constrain.negative(a, [1, 3])),
        ValueError,
        "constrain.negative: expected constraints that leave room, got edge 3 (row 1, column 3) from 0.0 to inf so "
        "far, which leaves 0.0 to 0.0.",
    ),
    (
        twice(lambda a: constrain.frozen(a, [1]), lambda a: constrain.positive(a, project=True)),
        ValueError,
        "constrain.positive: expected edge 1 (row 0, column 2) from 0.0 to inf, it is frozen at -2.0.",
    ),
    (
        twice(lambda a: constrain.frozen(a, [5]), lambda a: constrain.bounded(a, 0, 5.5, [5])),
        ValueError,
        "expected edge 5 (row 2, column 1) from 0.0 to 5.5, it is frozen at 6.0.",
    ),
    (
        twice(lambda a: constrain.bounded(a, 0, 2, [0]), lambda a: constrain.bounded(a, 2, 3, [0])),
        ValueError,
        "edge 0 (row 0, column 0) from 0.0 to 2.0 so far, which leaves 2.0 to 2.0.",
    ),
    (
        twice(lambda a: constrain.frozen(a, [1, 2]), lambda a: constrain.frozen(a, [0, 2])),
        ValueError,
        "constrain.frozen: expected edges that are not frozen yet, got edge 2 (row 1, column 1).",
    ),
    (unchanged(lambda a: constrain.bounded(a, 1, 1)), ValueError, "expected low < high, finite and apart in torch.fl"),
    (unchanged(lambda a: constrain.bounded(a, 2, 1)), ValueError, "got low = 2.0 and high = 1.0. For one bound at 0"),
    (unchanged(lambda a: constrain.bounded(a, 0, torch.inf)), ValueError, "got low = 0.0 and high = inf."),
    (unchanged(lambda a: constrain.bounded(a, torch.nan, 1)), ValueError, "got low = nan and high = 1.0."),
    (
        unchanged(lambda a: constrain.bounded(a, [0.0, 7.0], 6.5, [0, 2])),
        ValueError,
        "got low = 7.0 and high = 6.5 at position 1.",
    ),
    (unchanged(lambda a: constrain.bounded(a, [0.0], 1, [0, 2])), ValueError, "expected low of shape (2,), one for ea"),
    (unchanged(lambda a: constrain.bounded(a, 1, 10, [0])), ValueError, "expected values from 1.0 to 10.0, got 1.0 at"),
    (unchanged(lambda a: constrain.signed(a, [1, 0, 1, 1, 1, 1])), ValueError, "to be 1 or -1, got 0 at position 1."),
    (unchanged(lambda a: constrain.signed(a, [1, 1])), ValueError, "expected signs of shape (6,), one for each edge"),
    (unchanged(lambda a: constrain.signed(a, [1], [0, 1])), ValueError, "expected signs of shape (2,), one for each"),
    (
        unchanged(lambda a: constrain.shared(a, [0, 0, 1, 1, 1, 1])),
        ValueError,
        "constrain.shared: expected edges of type 0 to share one value, got -2.0 at edge 1, for which others have 1.0. "
        "Initialize the layer before, or pass project=True",
    ),
    (
        twice(lambda a: constrain.shared(a, [0], [0]), lambda a: constrain.shared(a, [0], [1])),
        ValueError,
        "expected a layer that shares no values yet. Give all types in one call.",
    ),
    (unchanged(lambda a: constrain.shared(a, [0, 1])), ValueError, "expected types of shape (6,), one for each edge"),
    (unchanged(lambda a: constrain.shared(a, [0.5] * 6)), TypeError, "expected types to hold integers, got torch.fl"),
    (unchanged(lambda a: constrain.shared(a, [-1], [0])), IndexError, "expected types from 0 to 0, got -1 at"),
    (
        unchanged(lambda a: constrain.shared(a, [2], [0], initial=[1.0, 2.0])),
        IndexError,
        "expected types from 0 to 1, g",
    ),
    (unchanged(lambda a: constrain.shared(a, [0], [0], initial=1.0)), ValueError, "expected initial of shape (types,)"),
    (
        unchanged(lambda a: constrain.shared(a, [0, 6], [0, 1])),
        ValueError,
        "from 0, got 6 among 2 edges. Number them wi",
    ),
    (unchanged(lambda a: constrain.shared(a, [0], [0], initial=[torch.nan])), ValueError, "to be finite, got nan."),
    (unchanged(lambda a: constrain.bounded(a, 1j, 2)), TypeError, "expected low to be real, got torch.complex"),
    (unchanged(lambda a: constrain.frozen(a, [6])), IndexError, "constrain.frozen: expected edges from 0 to 5, got 6"),
    (unchanged(lambda a: constrain.by_word(a, ["odd"] * 6)), ValueError, "'fixed'] or None, got 'odd' at edge 0 (row"),
    (unchanged(lambda a: constrain.by_word(a, [3] * 6)), ValueError, "'fixed'] or None, got 3 at edge 0 (row 0"),
    (unchanged(lambda a: constrain.by_word(a, [None])), ValueError, "expected 6 words, one for each edge, got 1."),
    (
        unchanged(lambda a: constrain.by_word(a, ["fixed", "positive", None, None, None, None])),
        ValueError,
        "constrain.by_word: expected values from 0.0 to inf, got -2.0 at edge 1 (row 0, column 2).",
    ),
    (lambda: constrain.positive(nn.Linear(2, 2)), TypeError, "constrain.positive: expected a layer over edges such as"),
    (lambda: constrain.positive(MaskedLinear(2, 2, density=1.0)), TypeError, "with values and topology, got MaskedLin"),
    (lambda: constrain.frozen(None), TypeError, "constrain.frozen: expected a layer over edges such as SparseLinear"),  # type: ignore[type-var]
    (
        lambda: constrain.frozen(plain().transposed()),
        ValueError,
        "expected the layer that the values belong to, got its transpose. Constrain that.",
    ),
    (
        lambda: constrain.frozen(SparseLinear(2, 2, density=1.0, sparse_grad=True)),
        ValueError,
        "got one with sparse_grad=True, of which unused edges have none. Set layer.sparse_grad = False first.",
    ),
    (lambda: constrain.frozen(SparseLinear(2, 2, density=1.0, device="meta")), ValueError, "(meta device)"),
    (twice(with_tanh, lambda a: constrain.frozen(a)), ValueError, "got Tanh. Register others afterwards."),
]


@pytest.mark.parametrize(("call", "error", "message"), CONTRADICTIONS)
def test_contradictions(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_initial_values_come_before() -> None:
    with pytest.raises(TypeError, match="got a tensor that is computed from others"):
        st.init.normal_(constrain.frozen(plain()))
