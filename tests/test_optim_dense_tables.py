"""What is said of a table whose gradient is dense under unused="frozen", and what is left alone."""

import copy
import warnings
from typing import Any

import pytest
import torch
from tables import KINDS, ours
from torch import nn

import sparsetrain as st
from sparsetrain.nn import LookupTable


def step(optimizer: Any, model: nn.Module, ids: torch.Tensor) -> None:
    optimizer.zero_grad()
    model(ids).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_a_dense_gradient_of_a_table_is_told_once(kind: str) -> None:
    table, ids = nn.Embedding(1000, 2), torch.tensor([3, 7, 7])
    optimizer = ours(kind, table.parameters(), lr=0.1, weight_decay=0.1)
    with pytest.warns(
        UserWarning, match=rf"^{kind}: parameter 0 of group 0 .* 998 of 1000 rows are zero\. .* LookupTable"
    ):
        step(optimizer, table, ids)
    before = table.weight.detach().clone()
    step(optimizer, table, ids)  # warnings are errors
    assert not torch.equal(table.weight[0], before[0])  # as it said


def test_names_are_said() -> None:
    table = nn.Embedding(1000, 2)
    optimizer = st.optim.Adam([("words", table.weight)])
    with pytest.warns(UserWarning, match="Adam: words has a dense gradient"):
        step(optimizer, table, torch.tensor([3]))
    step(copy.deepcopy(optimizer), table, torch.tensor([3]))  # without a gradient of its own


@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1}), ("Adam", {"unused": "dense"}), ("RMSprop", {"unused": "dense"})],
    ids=str,
)
def test_where_nothing_else_would_happen_nothing_is_said(kind: str, options: dict[str, Any]) -> None:
    table = nn.Embedding(1000, 2)
    step(ours(kind, table.parameters(), **options), table, torch.tensor([3]))


@pytest.mark.parametrize(
    ("module", "ids"),
    [
        (LookupTable(1000, 2), torch.tensor([3])),
        (nn.Embedding(1000, 2, sparse=True), torch.tensor([3])),
        (nn.Embedding(1000, 2), torch.arange(500)),  # half of it
        (nn.Embedding(255, 2), torch.tensor([3])),  # or a layer, of which some outputs are dead
        (nn.Linear(3, 1000), torch.ones(2, 3)),
    ],
    ids=str,
)
def test_other_gradients(module: nn.Module, ids: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(st.optim.Adam(module.parameters()), module, ids)
