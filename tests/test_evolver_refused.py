"""What the loop around the rules refuses, and that nothing has changed then."""

import re
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from evolving_models import EVERY, data, masks, network
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import SparseLinear


def test_what_makes_no_evolver() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    foreign = torch.optim.SGD(network().parameters(), lr=0.1)
    cases: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (TypeError, "Pass rule=SET(...), an object", (model, optimizer, evolve.SET, EVERY), {}),
        (TypeError, "expected schedule to be a Schedule", (model, optimizer, evolve.SET(), 100), {}),
        (TypeError, "expected optimizer to be an Optimizer", (model, None, evolve.SET(), EVERY), {}),
        (TypeError, "expected a module", (None, optimizer, evolve.SET(), EVERY), {}),
        (ValueError, "optimizer of the values of layer '0'", (model, foreign, evolve.SET(), EVERY), {}),
        (
            ValueError,
            "match ['nothing'], the model has '0', '2'",
            (model, optimizer, evolve.SET(), EVERY),
            {"layers": "nothing"},
        ),
        (ValueError, "the rate 0 for all", (model, optimizer, evolve.SET(), EVERY), {"layers": {"*": 0.0}}),
        (ValueError, "rate of '*' from 0 to 1", (model, optimizer, evolve.SET(), EVERY), {"layers": {"*": 2.0}}),
        (ValueError, "with a final_density", (model, optimizer, evolve.GMP(), EVERY), {}),
        (
            ValueError,
            "with a prune_fraction",
            (model, optimizer, evolve.SET(), evolve.Linear(stop=9, final_density=0.1)),
            {},
        ),
        (
            ValueError,
            "and the rule only drops edges",
            (model, optimizer, evolve.GMP(), evolve.Linear(stop=9, final_density=0.9)),
            {},
        ),
        (ValueError, "make some with convert.sparsify", (nn.Linear(3, 2), optimizer, evolve.SET(), EVERY), {}),
        (TypeError, "generator to be a torch.Generator", (model, optimizer, evolve.SET(), EVERY), {"generator": 3}),
    ]
    for kind, message, arguments, options in cases:
        with pytest.raises(kind, match=re.escape(message)):
            evolve.Evolver(*arguments, **options)


def test_densities_below_one_edge_a_neuron_keep_one_with_a_warning() -> None:
    layer = SparseLinear(100, 50, density=0.5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="leaves layer '' 25 edges for 50 neurons. It keeps 50"):
        evolver = evolve.Evolver(layer, optimizer, evolve.GMP(), evolve.Linear(interval=1, stop=3, final_density=0.005))
    for _ in range(3):
        evolver.step()
    assert layer.topology.nnz == 50


def test_values_that_something_else_holds() -> None:
    model = network()
    holder = nn.Module()
    holder.register_parameter("weight", model[0].values)
    model.append(holder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the values of layer '0' are a parameter of '3' too"):
        evolve.Evolver(model, optimizer, evolve.SET(), EVERY)


def test_nan_values_and_missing_gradients() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.RigL(), EVERY)
    before = masks(model)
    with pytest.raises(ValueError, match="expected a gradient of layer '0' since the last step, got none"):
        evolver.step()
    with torch.no_grad():
        model[2].values[3] = torch.nan
    with pytest.raises(ValueError, match="expected finite values in layer '2'"):
        evolver.step()
    assert all(map(torch.equal, before, masks(model)))


def test_inputs_that_were_changed_in_place() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.RigL(), EVERY)
    x, y = data(0)
    (model(x) - y).square().mean().backward()
    x.zero_()
    with pytest.raises(RuntimeError, match="was changed in place after the backward pass"):
        evolver.step()


def test_a_rule_that_fails_changes_nothing() -> None:
    class Fails(evolve.Rule):
        def start(self, layer: evolve.Layer, edit: st.Edit) -> Tensor | None:
            if layer.name == "2":
                raise KeyError("of the user")
            return None

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, Fails(), EVERY)
    before, state = masks(model), evolver.generator.get_state()
    with pytest.raises(KeyError):
        evolver.step()
    assert all(map(torch.equal, before, masks(model)))
    assert torch.equal(evolver.generator.get_state(), state)
