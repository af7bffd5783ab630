"""Edges that change inside of a backward pass, or between a forward pass and its backward pass, in each kind of layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.backends import dense_products
from sparsetrain.nn import MaskedLinear, SparseConv1d, SparseDeltaLinear, SparseLinear


def sparse(**options: Any) -> SparseLinear:
    return SparseLinear(12, 9, **{"density": 0.4} | options)


def constrained(constrain: Callable[..., Any], *arguments: Any) -> SparseLinear:
    layer = sparse()
    layer.values.data.abs_()
    constrain(layer, *arguments)
    return layer


def tied() -> nn.Module:
    layer = sparse()
    return nn.Sequential(layer, layer.transposed())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "sparse": sparse,
    "without bias": lambda: sparse(bias=False),
    "of density 1": lambda: sparse(density=1.0),
    "convolution of density 1": lambda: nn.Sequential(nn.Unflatten(1, (2, 6)), SparseConv1d(2, 8, 4, density=1.0)),
    "sparse gradients": lambda: sparse(sparse_grad=True),
    "beside a frozen weight": lambda: SparseDeltaLinear(nn.Linear(12, 9), st.patterns.uniform((9, 12), 0.4)),
    "masked": lambda: MaskedLinear(12, 9, density=0.4),
    "masked after steps": lambda: MaskedLinear(12, 9, density=0.4, form="step"),
    "positive": lambda: constrained(st.constrain.positive),
    "bounded": lambda: constrained(st.constrain.bounded, -5.0, 5.0),
    "frozen": lambda: constrained(st.constrain.frozen, [0, 1]),
    "tied": tied,
}


def evolver_of(model: nn.Module, fewer: bool, rule: evolve.Rule | None = None) -> evolve.Evolver:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    schedule = evolve.Linear(interval=1, stop=9, final_density=0.2) if fewer else EVERY
    return evolve.Evolver(model, optimizer, rule or (evolve.GMP() if fewer else evolve.SET(start="zero")), schedule)


EVERY = evolve.Constant(interval=1, prune_fraction=0.3)
REFUSED = "modified by an inplace operation|the edges were changed after the forward pass"


@pytest.mark.parametrize("reads_values", [False, True])  # for the gradient of the input
@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_former_edges_is_refused(kind: str, fewer: bool, reads_values: bool) -> None:
    model = KINDS[kind]()
    evolver = evolver_of(model, fewer)
    loss = model(torch.randn(4, 12, requires_grad=reads_values)).sum()
    assert evolver.step() is not None
    if kind == "masked after steps" and not reads_values:  # it is a dense layer, of whose weights none has moved
        loss.backward()
        return
    with pytest.raises(RuntimeError, match=REFUSED):
        loss.backward()
    assert all(p.grad is None for name, p in model.named_parameters() if "values" in name or "weight" in name)
    model(torch.randn(4, 12)).sum().backward()


@pytest.mark.parametrize("onednn", [False, True])  # which of torch's products is faster here
@pytest.mark.parametrize("reads_values", [False, True])
@pytest.mark.parametrize("fewer", [False, True])
def test_on_any_processor(monkeypatch: pytest.MonkeyPatch, onednn: bool, reads_values: bool, fewer: bool) -> None:
    monkeypatch.setattr(dense_products, "onednn_is_faster", lambda: onednn)
    test_a_graph_of_former_edges_is_refused("of density 1", fewer, reads_values)


@pytest.mark.parametrize("rule", [evolve.SET, evolve.RigL])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_inside_of_backward(kind: str, rule: type[evolve.Rule]) -> None:
    model = KINDS[kind]()
    evolver = evolver_of(model, fewer=False, rule=rule())
    layer: Any = next(iter(evolver.modules.values()))
    before = layer.topology.digest, evolver.generator.get_state().tolist()
    y = model(torch.randn(4, 12, requires_grad=True))
    y.register_hook(lambda g: evolver.step() and None)
    with pytest.raises(RuntimeError, match="called inside of a backward pass"):
        y.sum().backward()
    assert (layer.topology.digest, evolver.generator.get_state().tolist(), evolver.steps) == (*before, 0)


def test_graphs_that_nobody_goes_back_through_hinder_nothing() -> None:
    """Losses that are kept for a log, an evaluation that records a graph, and one that is dropped."""
    model = sparse()
    evolver = evolver_of(model, fewer=False)
    kept = []
    for _ in range(3):
        kept.append(model(torch.randn(4, 12)).sum())
        loss = model(torch.randn(4, 12)).square().mean()
        loss.backward()
        kept.append(loss)
        model(torch.randn(4, 12))
        assert evolver.step() is not None
