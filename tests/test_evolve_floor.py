"""Densities that do not fit: no layer loses all of its edges, and where a final density leaves fewer edges than neurons
each neuron keeps one, with a warning; where it fits, rules choose as published."""

import copy
import re
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import MaskedLinear, SparseLinear

SIZES = 40, 100, 5
DENSITY = 0.02  # 80 edges for 100 neurons, which do not fit, and 10 for 5 neurons, which do
WARNS = re.escape("final_density=0.02 leaves layer '0' 80 edges for 100 neurons. It keeps 100")


class Own(evolve.Rule):
    """It answers without Layer.largest, which knows of the floor."""

    def keep(self, layer: evolve.Layer, count: int) -> Tensor:
        best = layer.values.abs().topk(count).indices
        return torch.zeros(layer.nnz, dtype=torch.bool).index_fill_(0, best, True)


RULES: dict[str, Any] = {
    "plain": evolve.Rule,
    "set": evolve.SET,
    "rigl": evolve.RigL,
    "snfs": lambda: evolve.SNFS(batches=2),
    "cht": evolve.CHT,
    "top-kast": evolve.TopKAST,
    "gmp": evolve.GMP,
    "own": Own,
}


def network() -> nn.Sequential:
    """All neurons have edges; those of half of the neurons are so small that a rule by magnitude takes them all."""
    generator = torch.Generator().manual_seed(0)
    layers = [SparseLinear(i, o, density=0.5, generator=generator) for i, o in pairwise(SIZES)]
    for layer in layers:
        small = layer.topology.row % 2 == 0
        layer.values.data[small] *= 1e-3
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


def train(model: nn.Module, evolver: evolve.Evolver, steps: int) -> list[evolve.Change]:
    changes = []
    for step in range(steps):
        x = torch.randn(8, SIZES[0], generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        if change := evolver.step():
            changes.append(change)
    return changes


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("schedule", [evolve.Linear, evolve.Cosine, evolve.Cubic])
@pytest.mark.parametrize("name", RULES)
def test_each_neuron_keeps_an_edge(name: str, schedule: Any, masked: bool) -> None:
    model: nn.Module = network()
    if masked:
        model = nn.Sequential(*(MaskedLinear.from_sparse(m) if isinstance(m, SparseLinear) else m for m in model))  # type: ignore[attr-defined]
    rule = RULES[name]()
    options = {} if rule.only_prunes else {"prune_fraction": 0.5}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.warns(UserWarning, match=WARNS) as warned:
        evolver = evolve.Evolver(model, optimizer, rule, schedule(interval=1, stop=4, final_density=DENSITY, **options))
    assert len(warned) == 1
    changes = train(model, evolver, 5)
    assert [change.step for change in changes] == [1, 2, 3, 4]
    assert all(change.layers["0"].dead_outputs == 0 for change in changes)
    last = changes[-1].layers
    assert last["2"].edges == 10
    if name == "own":
        assert 100 <= last["0"].edges < 200  # its own 100, and one for each neuron that has none of them
    else:
        assert last["0"].in_degree.tolist() == [1] * 100
    if name in ("gmp", "own"):
        assert last["2"].dead_outputs == 3  # the rule as published, as 10 edges could be 2 for each neuron


def test_the_largest_edge_of_each_neuron_stays() -> None:
    model = network()
    weight = model[0].to_dense().weight.detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.warns(UserWarning, match=WARNS):
        evolver = evolve.Evolver(
            model, optimizer, evolve.GMP(), evolve.Linear(interval=1, stop=1, final_density=DENSITY)
        )
    evolver.step()
    assert torch.equal(model[0].topology.to_mask().int().argmax(1), weight.abs().argmax(1))


def test_a_neuron_without_edges_gets_none_and_a_frozen_edge_is_the_one_of_its_neuron() -> None:
    t = st.Topology.from_mask([[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1], [0, 1, 1, 0]])
    layer: Any = SparseLinear(4, 4, topology=t)
    with torch.no_grad():
        layer.values.copy_(torch.tensor([1.0, 3.0, 2.0, 4.0, 6.0, 5.0, 8.0, 7.0]))
    st.constrain.frozen(layer, [0])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    with pytest.warns(UserWarning, match=re.escape("leaves layer '' 2 edges for 4 neurons. It keeps 4")):
        evolver = evolve.Evolver(layer, optimizer, evolve.GMP(), evolve.Linear(interval=1, stop=1, final_density=0.1))
    evolver.step()
    assert layer.values.tolist() == [1.0, 6.0, 8.0, 7.0]


def test_training_goes_on_with_the_same_floor() -> None:
    """In a copy that was made of a later state, with fewer edges."""
    model = network()
    schedule = evolve.Linear(interval=1, stop=6, final_density=DENSITY, prune_fraction=0.5)
    evolvers = []
    for each in (model, copy.deepcopy(model)):
        with pytest.warns(UserWarning, match=WARNS):
            evolvers.append(evolve.Evolver(each, torch.optim.SGD(each.parameters(), lr=0.0), evolve.SET(), schedule))
        if each is model:
            train(model, evolvers[0], 3)
    state = evolvers[0].state_dict()
    late = copy.deepcopy(model)
    with pytest.warns(UserWarning, match=WARNS):
        resumed = evolve.Evolver(late, torch.optim.SGD(late.parameters(), lr=0.0), evolve.SET(), schedule)
    resumed.load_state_dict(state)
    for each, evolver in ((model, evolvers[0]), (late, resumed)):
        assert train(each, evolver, 3)[-1].layers["0"].in_degree.tolist() == [1] * 100
    assert late[0].topology.digest == model[0].topology.digest


@pytest.mark.parametrize("density", [0.0, DENSITY])
def test_a_budget_for_all_layers_leaves_each_an_edge(density: float) -> None:
    model = network()
    with torch.no_grad():
        model[2].values.mul_(1e-9)
    largest = model[2].values.detach().abs().max()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    schedule = evolve.Linear(interval=1, stop=1, final_density=density)
    evolver = evolve.Evolver(model, optimizer, evolve.GlobalMagnitude(floor=0), schedule)
    with pytest.warns(UserWarning, match=re.escape("of its")) as warned:
        change = evolver.step()
    assert "leaves layer '2' one of its 250, the largest" in str(warned[-1].message)
    assert change is not None
    assert change.edges == max(2, round(DENSITY * 4000) + 10 if density else 0)
    assert model[2].values.detach().abs().tolist() == [float(largest)]


@pytest.mark.parametrize("name", RULES)
def test_a_layer_whose_edges_all_go_gets_others(name: str) -> None:
    if name == "gmp":
        pytest.skip("it replaces nothing")
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    evolver = evolve.Evolver(model, optimizer, RULES[name](), evolve.Constant(interval=1, prune_fraction=1.0))
    for change in train(model, evolver, 3):
        assert change.edges == 2250
        assert all(layer.edges for layer in change.layers.values())


def test_a_layer_that_gets_no_share_of_what_went_keeps_an_edge() -> None:
    """Its mean momentum over the edges that stay would be that of none."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    schedule, rates = evolve.Constant(interval=1, prune_fraction=1.0), {"0": 0.5, "2": 1.0}
    evolver = evolve.Evolver(model, optimizer, evolve.SNFS(batches=1), schedule, layers=rates)
    for change in train(model, evolver, 3):
        assert change.edges == 2250
        assert all(layer.edges for layer in change.layers.values())
