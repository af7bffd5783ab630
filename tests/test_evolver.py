"""The loop around the rules: which layers change, what it says of them, and how newborn edges start."""

import re
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from evolving_models import EVERY, Returns, network
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import SparseLinear

# ---- layers and rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "grown"),
    [
        (None, {"0": 21, "2": 21}),
        ("2", {"2": 21}),
        (["0", "2"], {"0": 21, "2": 21}),
        ({"0": 0.5, "*": 1.0}, {"0": 10, "2": 21}),
        ({"0": 0.0, "*": 1.0}, {"2": 21}),
        (re.compile("[0-1]"), {"0": 21}),
        ("re:[0-1]", {"0": 21}),
        ({"0": 0.0, SparseLinear: 0.5}, {"2": 10}),
        (SparseLinear, {"0": 21, "2": 21}),
    ],
)
def test_names_patterns_and_rates(layers: Any, grown: dict[str, int]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, Returns(), EVERY, layers=layers)
    change = evolver.step()
    assert change is not None
    assert {name: layer.grown for name, layer in change.layers.items()} == grown


def test_names_are_those_of_the_model_itself() -> None:
    """Parts of a wrapper's name are left out, and parts of a model's own names that read alike are not."""
    own = nn.ModuleDict({"module": nn.ModuleDict({"x": network()[0]}), "x": network()[0]})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    change = evolve.Evolver(own, optimizer, evolve.SET(), EVERY).step()
    assert change is not None
    assert list(change.layers) == ["module.x", "x"]
    model = network()
    followers = [AveragedModel(model), torch.compile(network(), backend="eager"), nn.DataParallel(network())]
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        change = evolve.Evolver(wrapped, optimizer, evolve.SET(), EVERY).step()
        assert change is not None
        assert list(change.layers) == ["0", "2"]
        for follower in followers:
            change.follow(follower)  # type: ignore[arg-type]
    for follower in followers:
        digests = [layer.topology.digest for layer in follower.modules() if isinstance(layer, SparseLinear)]
        assert digests == [layer.topology.digest for layer in model[::2]]


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_numbers_of_a_change() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, Returns(), EVERY, layers="0")
    tried = model[0].topology.to_mask()
    for step in range(1, 5):
        change = evolver.step()
        assert change is not None
        tried |= model[0].topology.to_mask()
        layer = change.layers["0"]
        assert change.explored == pytest.approx(float(tried.float().mean()))
        assert (change.step, change.edges, change.pruned, change.grown) == (step, 72, 21, 21)
        assert change.churn == pytest.approx(21 / 72)
        assert layer.in_degree.tolist() == model[0].topology.to_mask().sum(1).tolist()
        assert layer.out_degree.tolist() == model[0].topology.to_mask().sum(0).tolist()
        assert layer.dead_outputs == int((model[0].topology.to_mask().sum(1) == 0).sum())
    numbers = change.scalars("edges/")
    assert numbers["edges/0/age"] == pytest.approx(float(layer.age.float().mean()))
    assert all(isinstance(number, float) for number in numbers.values())
    assert int((layer.age == 0).sum()) == 21


def test_explored_share_of_a_sample_of_rows() -> None:
    from sparsetrain.evolve.history import sample

    t = st.patterns.uniform((5000, 3000), 0.001)
    layer = SparseLinear(3000, 5000, topology=t)
    evolver = evolve.Evolver(layer, torch.optim.SGD(layer.parameters(), lr=0.1), evolve.SET(), EVERY)
    for _ in range(3):
        change = evolver.step()
    assert change is not None
    history = evolver.histories[""]
    assert history.tried.numel() <= 1 << 20
    assert change.explored == pytest.approx(0.001 * (1 + 3 * 0.3), rel=0.1)
    rows = sample(5000, 349)
    assert rows.unique().numel() == rows.numel() >= 340
    assert float(rows.double().mean()) == pytest.approx(2500, rel=0.05)


# ---- warm-up ---------------------------------------------------------------------------------------------------------


def test_updates_of_newborn_edges_grow_from_none_to_whole() -> None:
    layer = SparseLinear(30, 20, density=0.2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    evolver = evolve.Evolver(
        layer,
        optimizer,
        evolve.SET(start="zero"),
        evolve.Constant(interval=100, start=1, prune_fraction=0.3),
        warm_up=4,
    )
    change = evolver.step()
    assert change is not None
    newborn = change.layers[""].edit.grown
    old = torch.ones(layer.topology.nnz, dtype=torch.bool).index_fill(0, newborn, False)
    for part in (0.25, 0.5, 0.75, 1.0, 1.0):
        before = layer.values.detach().clone()
        layer.values.grad = torch.ones_like(layer.values)
        optimizer.step()
        evolver.step()
        moved = before - layer.values.detach()
        torch.testing.assert_close(moved[newborn], torch.full((newborn.numel(),), part))
        torch.testing.assert_close(moved[old], torch.ones(int(old.sum())))


def test_what_is_printed_is_short() -> None:
    layers = nn.Sequential(*(SparseLinear(200, 200, density=0.1) for _ in range(20)))
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    evolver = st.evolve.Evolver(layers, optimizer, st.evolve.SET(), st.evolve.Constant(1, prune_fraction=0.1))
    assert repr(evolver).endswith("layers=20)")
    layers(torch.zeros(1, 200)).sum().backward()
    change = evolver.step()
    assert change is not None
    assert len(repr(change.layers["0"])) < 120
    assert "tensor" not in repr(change)


def test_a_change_prints_in_one_line_however_many_layers_it_has() -> None:
    model = nn.Sequential(*(SparseLinear(100, 100, density=0.1) for _ in range(12)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = st.evolve.Evolver(model, optimizer, st.evolve.SET(), st.evolve.Constant(interval=1, prune_fraction=0.3))
    change = evolver.step()
    assert change is not None
    counts = f"{change.pruned:,} pruned, {change.grown:,} grown"
    assert repr(change) == f"Change(step=1, 12 layers, 12,000 edges, {counts})"


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0])
def test_learning_rate_follows_the_density_of_all_layers(exponent: float) -> None:
    model = nn.Sequential(SparseLinear(40, 30, density=0.5), SparseLinear(30, 20, density=0.2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    falls = evolve.Linear(interval=1, stop=4, final_density=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.GMP(), falls)
    factor, first = evolver.lr_factor(exponent), sum(layer.topology.nnz for layer in model)
    assert factor(0) == 1.0
    for step in range(1, 6):
        optimizer.step()
        evolver.step()
        assert factor(step) == pytest.approx((sum(layer.topology.nnz for layer in model) / first) ** exponent)
    assert sum(layer.topology.nnz for layer in model) < first / 2
