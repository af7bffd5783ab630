"""Values that a layer outside of the model holds too: a change that would not reach it is refused."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from evolving_models import EVERY, masks, network
from torch import nn

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import SparseLinear


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def sharing(layer: SparseLinear) -> SparseLinear:
    """Another layer with the same values."""
    other = SparseLinear(layer.in_features, layer.out_features, topology=layer.topology)
    other.values = layer.values
    return other


HELD: dict[str, Any] = {
    "set": sharing,
    "copied": copy.copy,
    "restored": lambda layer: _with_values_of(layer, pickle.loads(pickle.dumps(layer))),
}


def _with_values_of(layer: SparseLinear, other: SparseLinear) -> SparseLinear:
    other.values = layer.values
    return other


@pytest.mark.parametrize("held", HELD)
def test_a_layer_outside_of_the_model(held: str) -> None:
    model = network()
    outside = HELD[held](model[0])
    with pytest.raises(ValueError, match=re.escape("Evolver: the values of layer '0' are those of SparseLinear(")):
        evolve.Evolver(model, sgd(model), evolve.SET(), EVERY)
    with pytest.raises(ValueError, match=re.escape("optim.carry: the values of SparseLinear(")):
        st.optim.carry(None, {model[0]: st.Edit(model[0].topology, range(5))})
    if held == "copied":
        del outside  # torch's copies share what holds the values
    else:
        outside.values = nn.Parameter(outside.values.detach().clone())
    assert evolve.Evolver(model, sgd(model), evolve.SET(), EVERY).step() is not None


def test_a_layer_that_begins_to_hold_them_while_the_model_trains() -> None:
    model = network()
    evolver = evolve.Evolver(model, sgd(model), evolve.SET(), EVERY)
    assert evolver.step() is not None
    outside = sharing(model[2])
    before, values = masks(model), model[2].values.detach().clone()
    with pytest.raises(ValueError, match="are those of SparseLinear"):
        evolver.step()
    assert all(map(torch.equal, before, masks(model)))
    assert torch.equal(model[2].values, values)
    outside.__dict__["itself"] = outside  # it is not gone before cycles are collected
    del outside
    assert evolver.step() is not None


def test_two_layers_over_one_value_array_change_together() -> None:
    layer = network()[0]
    other = sharing(layer)
    edit = st.Edit(layer.topology, range(5))
    st.optim.carry(None, {layer: edit, other: edit})
    assert other.values is layer.values
    assert other.topology is layer.topology


def test_what_follows_is_no_other_layer() -> None:
    """A transpose outside of the model, deep copies, and a model that was there before."""
    model = network()
    decoder = model[0].transposed()
    rest = [copy.deepcopy(model), copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))]
    assert evolve.Evolver(model, sgd(model), evolve.SET(), EVERY).step() is not None
    assert decoder.topology is model[0].topology
    assert rest[0][0].topology.digest != model[0].topology.digest
    st.optim.carry(None, {decoder: st.Edit(decoder.topology, range(5))})
    assert model[0].topology.nnz == 5
