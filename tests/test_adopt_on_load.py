"""io.adopt_on_load and evolve.attach: what trainers of others do to models and optimizers by themselves."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain.nn import SparseLinear


def network(seed: int, density: float = 0.3) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(SparseLinear(12, 20, density=density), nn.ReLU(), SparseLinear(20, 3, density=0.4))


def identical(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.randn(4, 12)).square().sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("density", [0.3, 0.2])
def test_a_model_goes_on_with_the_edges_of_each_state(density: float) -> None:
    model = network(0)
    parameters = list(model.parameters())
    with st.io.adopt_on_load(model):
        for seed in (1, 2):
            state = network(seed, density).state_dict()
            model.load_state_dict(state)
            assert identical(model.state_dict(), state)
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="other edges"):
        model.load_state_dict(network(3).state_dict())


def test_wrappers_and_parts_of_a_state() -> None:
    model, other = network(0), network(1, 0.2)
    st.io.adopt_on_load(model)
    wrapped = AveragedModel(model, use_buffers=True)
    wrapped.module = model
    wrapped.load_state_dict(AveragedModel(other, use_buffers=True).state_dict())
    assert identical(model.state_dict(), other.state_dict())

    parallel, third = nn.DataParallel(network(3)), network(2).state_dict()
    st.io.adopt_on_load(parallel)
    parallel.module.load_state_dict(third)
    assert identical(parallel.module.state_dict(), third)

    part = {key: tensor for key, tensor in third.items() if key.startswith("0.")}
    model.load_state_dict(part, strict=False)
    assert identical(model[0].state_dict(), {key[2:]: tensor for key, tensor in part.items()})
    assert identical(model[2].state_dict(), other[2].state_dict())


def test_what_an_optimizer_holds_goes_along() -> None:
    model = network(0)
    optimizer = trained(model)
    moments = optimizer.state[model[0].values]["exp_avg"].clone()
    edit = st.Edit(model[0].topology, kept=range(10, 72))
    smaller = copy.deepcopy(model)
    st.optim.carry(None, {smaller[0]: edit})
    with st.io.adopt_on_load(model, optimizer):
        model.load_state_dict(smaller.state_dict())
    assert torch.equal(optimizer.state[model[0].values]["exp_avg"], moments[10:])


def test_copies_of_a_model_adopt_too_and_leave_the_optimizer_alone() -> None:
    model = network(0)
    optimizer = trained(model)
    before = {key: tensor.clone() for key, tensor in optimizer.state[model[0].values].items()}
    st.io.adopt_on_load(model, optimizer)
    state = network(1, 0.2).state_dict()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(state)
        assert identical(twin.state_dict(), state)
    assert identical(dict(optimizer.state[model[0].values]), before)


def test_nothing_is_changed_by_a_state_that_is_refused() -> None:
    model = network(0)
    before = copy.deepcopy(model.state_dict())
    st.io.adopt_on_load(model)
    damaged = network(1).state_dict()
    damaged["2._extra_state"] = damaged["2._extra_state"] + 0.4
    with pytest.raises(ValueError, match=r"io.adopt_on_load: SparseLinear 2: the stored edges were changed"):
        model.load_state_dict(damaged)
    assert identical(model.state_dict(), before)
    with pytest.raises(ValueError, match=r"expected edges of shape \(20, 12\), the checkpoint has \(20, 13\)"):
        model.load_state_dict(
            {**damaged, **{f"0.{k}": v for k, v in SparseLinear(13, 20, density=0.1).state_dict().items()}}
        )
    with pytest.raises(ValueError, match="expected an optimizer of this Sequential"):
        st.io.adopt_on_load(model, trained(network(1)))
    with pytest.raises(TypeError, match=r"io.adopt_on_load: expected model to be a torch.nn.Module, got OrderedDict"):
        st.io.adopt_on_load(before)  # type: ignore[arg-type]


def test_layers_on_the_meta_device_take_theirs_as_before() -> None:
    with torch.device("meta"):
        model = nn.Sequential(SparseLinear(12, 20, density=0.3))
    state = nn.Sequential(SparseLinear(12, 20, density=0.3)).state_dict()
    with st.io.adopt_on_load(model):
        model.load_state_dict(state, assign=True)
    assert identical(model.state_dict(), state)


# ---- attach ----------------------------------------------------------------------------------------------------------


def evolver_of(model: nn.Module) -> Any:
    optimizer = st.optim.SGD(model.parameters(), lr=0.1)
    return st.evolve.Evolver(model, optimizer, st.evolve.SET(), st.evolve.Constant(interval=2, prune_fraction=0.3))


def test_an_attached_evolver_steps_with_its_optimizer() -> None:
    model, changes = network(0), []
    evolver = evolver_of(model)
    handle = st.evolve.attach(evolver, changes.append)
    for _ in range(5):
        model(torch.randn(4, 12)).square().sum().backward()
        evolver.optimizer.step()
    assert [change.step for change in changes] == [2, 4]
    handle.remove()
    evolver.optimizer.step()
    assert evolver.steps == 5
    with pytest.raises(TypeError, match="expected evolver to be an Evolver, got Sequential"):
        st.evolve.attach(model)  # type: ignore[arg-type]


def test_steps_that_a_scaler_skips_do_not_count() -> None:
    model = network(0)
    evolver = evolver_of(model)
    scaler = torch.amp.GradScaler("cpu")
    with st.evolve.attach(evolver):
        for factor in (1.0, float("inf"), 1.0):
            loss = model(torch.randn(4, 12)).square().sum() * factor
            evolver.optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(evolver.optimizer)
            scaler.update()
    assert evolver.steps == 2


def test_a_closure_that_the_optimizer_calls() -> None:
    model = network(0)
    evolver = evolver_of(model)
    first = model[0].topology.digest

    def closure() -> torch.Tensor:
        evolver.optimizer.zero_grad()
        loss = model(torch.ones(4, 12)).square().sum()
        loss.backward()
        return loss

    with st.evolve.attach(evolver):
        for _ in range(2):
            evolver.optimizer.step(closure)
    assert evolver.steps == 2
    assert model[0].topology.digest != first
