"""Zeros dropped from a model in training: what goes on is a fresh, smaller model with the same state, to the bit."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import OPTIMIZERS, adam, identical, network, snapshot, train
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sparsetrain as st
from sparsetrain.convert import drop_zeros
from sparsetrain.nn import SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


CASES: dict[str, Callable[..., Any]] = OPTIMIZERS | {
    "ours SGD": lambda p: st.optim.SGD(p, lr=0.1, momentum=0.9),
    "ours RMSprop by rows": lambda p: st.optim.RMSprop(p, lr=0.01, bias_correction="row", momentum=0.5),
    "ours Adagrad": lambda p: st.optim.Adagrad(p, lr=0.1, rowwise=True),
    "ours Adam": lambda p: st.optim.Adam(p, lr=0.01, amsgrad=True),
    "ours AdamW dense": lambda p: st.optim.AdamW(p, lr=0.01, weight_decay=0.1, unused="dense"),
    "ours SGD dense": lambda p: st.optim.SGD(p, lr=0.1, momentum=0.9, unused="dense"),
    "ours RMSprop dense": lambda p: st.optim.RMSprop(p, lr=0.01, momentum=0.9, unused="dense"),
}


def codes(step: int) -> Tensor:
    """A batch that uses some of five columns."""
    x = torch.zeros(4, 5)
    x[torch.arange(4), torch.randint(0, 4, (4,), generator=torch.Generator().manual_seed(step))] = 1.5
    return x


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        optimizer.zero_grad()
        model(codes(step)).sum(0).square().mean().backward()
        optimizer.step()


def small_twin(layer: SparseLinear, optimizer: Any, make: Callable[..., Any]) -> tuple[SparseLinear, Any]:
    """A layer that never had the zero edges, by a dense mask, with an optimizer in the state of the other."""
    if isinstance(optimizer, st.optim.SGD | st.optim.RMSprop | st.optim.Adagrad | st.optim.Adam):
        optimizer.flush()
    keep = layer.values.detach() != 0
    mask = torch.zeros(layer.topology.shape)
    mask[layer.topology.row[keep].long(), layer.topology.col[keep].long()] = 1
    t = st.Topology.from_mask(mask)
    twin = SparseLinear(layer.in_features, layer.out_features, topology=t, sparse_grad=layer.sparse_grad)
    with torch.no_grad():
        twin.values.copy_(layer.values[keep])
        twin.bias.copy_(layer.bias)
    state = copy.deepcopy(optimizer.state_dict())
    for kept, value in state["state"][0].items():
        if isinstance(value, Tensor) and value.ndim:
            state["state"][0][kept] = value[keep]
    other = make(twin.parameters())
    other.load_state_dict(state)
    return twin, other


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_training_goes_on_as_that_of_the_smaller_layer(name: str, sparse_grad: bool) -> None:
    if sparse_grad and not name.startswith("ours"):
        pytest.skip("torch's optimizers take dense gradients")
    layer = SparseLinear(5, 6, density=0.6, sparse_grad=sparse_grad)
    optimizer = CASES[name](layer.parameters())
    steps(layer, optimizer, 0, 4)
    if name.startswith("ours"):
        optimizer.flush()
    with torch.no_grad():
        layer.values[::3] = 0.0
        layer.values[1] = -0.0
    twin, other = small_twin(layer, optimizer, CASES[name])
    values = layer.values
    assert drop_zeros(layer, optimizer) == {"": 7}
    assert layer.values is values
    assert values.shape == (11,)
    assert values.grad is None
    assert layer.topology.digest == twin.topology.digest
    for _ in range(2):
        assert identical(dict(layer.state_dict()), dict(twin.state_dict()))
        assert identical(optimizer.state_dict()["state"], other.state_dict()["state"])
        steps(layer, optimizer, 4, 9)
        steps(twin, other, 4, 9)


def test_proximal_steps_then_pruning_then_training() -> None:
    """Lasso by the optimizer, zeros dropped with the l1 of each value, and lasso goes on with the same numbers."""
    layer = SparseLinear(5, 4, density=1.0, bias=False)
    l1 = torch.rand(20) * (torch.arange(20) % 2)  # every second edge is free of it
    optimizer = st.optim.Adam([{"params": [layer.values], "l1": l1}], lr=0.05)
    steps(layer, optimizer, 0, 30)
    zeros = layer.values.detach() == 0
    assert 0 < zeros.sum() < 20
    before, dense = layer.values.detach()[~zeros], layer.to_dense()
    x = torch.randn(3, 5)
    assert drop_zeros(layer, optimizer) == {"": int(zeros.sum())}
    assert layer.values.equal(before)
    assert optimizer.param_groups[0]["l1"].equal(l1[~zeros])
    torch.testing.assert_close(layer(x), dense(x))
    steps(layer, optimizer, 30, 60)
    assert layer.values.isfinite().all()


def test_whole_models_by_name() -> None:
    model = nn.ModuleDict({"a": network(), "b": SparseLinear(3, 2, density=1.0)})
    with torch.no_grad():
        model["a"][0].values[[1, 3]] = 0.0
        model["b"].values.zero_()
    dense_layer, untouched = model["a"][4].weight, model["a"][3].topology
    assert drop_zeros(model) == {"a.0": 2, "a.3": 0, "b": 6}
    assert model["a"][4].weight is dense_layer
    assert model["a"][3].topology is untouched
    assert model["b"](torch.ones(1, 3)).equal(model["b"].bias[None])
    assert drop_zeros(model) == {"a.0": 0, "a.3": 0, "b": 0}
    assert drop_zeros(nn.Linear(2, 2)) == {}


def test_names_stay() -> None:
    t = st.Topology.from_edges([("a", "y"), ("b", "y"), ("b", "z")])
    layer = SparseLinear(2, 2, topology=t)
    with torch.no_grad():
        layer.values[0] = 0.0
    drop_zeros(layer)
    assert (layer.topology.inputs, layer.topology.outputs) == (t.inputs, t.outputs)


def test_nan_is_not_zero() -> None:
    layer = SparseLinear(2, 2, density=1.0)
    with torch.no_grad():
        layer.values[:2] = torch.tensor([torch.nan, 0.0])
    assert drop_zeros(layer) == {"": 1}


@pytest.mark.parametrize("kind", [torch.optim.Adam, st.optim.Adam], ids=["torch", "ours"])
def test_one_value_array_in_several_places(kind: Any) -> None:
    """A tied decoder, and one layer in two places: all go on over the same, smaller array."""
    encoder = SparseLinear(5, 5, density=0.6)
    model = nn.Sequential(encoder, nn.Tanh(), encoder, encoder.transposed())
    optimizer = kind(model.parameters(), lr=0.01)
    train(model, optimizer)
    with torch.no_grad():
        encoder.values[:4] = 0.0
    x = torch.randn(3, 5)
    expected = model(x)
    assert drop_zeros(model, optimizer) == {"0": 4, "3": 4}
    assert model[3].values is encoder.values
    assert model[3].topology.digest == encoder.topology.digest
    torch.testing.assert_close(model(x), expected)
    train(model, optimizer)


def tied_elsewhere() -> nn.Module:
    model = nn.Sequential(SparseLinear(5, 5, density=0.6), nn.Module())
    model[1].register_parameter("copy", model[0].values)
    return model


def transposed_alone() -> nn.Module:
    return nn.Sequential(SparseLinear(5, 5, density=0.6).transposed())


def parametrized() -> nn.Module:
    model = nn.Sequential(SparseLinear(5, 5, density=0.6))
    parametrize.register_parametrization(model[0], "values", nn.ReLU())
    return model


def with_two_parameters_of_one_l1(model: nn.Module) -> Any:
    values = [model[k].values for k in (0, 1)]
    return st.optim.SGD([{"params": values, "l1": torch.ones(15)}], lr=0.1)


def with_a_foreign_state(model: Any, value: Any) -> Any:
    optimizer = adam(model)
    optimizer.state[model[0].values]["foreign"] = value
    return optimizer


def plain() -> nn.Module:
    return nn.Sequential(SparseLinear(5, 5, density=0.6), SparseLinear(5, 5, density=0.6))


@pytest.mark.parametrize(
    ("make", "optimizer", "error", "message"),
    [
        (parametrized, None, TypeError, "expected values that are a Parameter, those of '0' are computed from others"),
        (tied_elsewhere, None, ValueError, "1.copy is the value array of '0' too, and is no layer over edges"),
        (transposed_alone, None, ValueError, "the values of '0' belong to a layer outside of the model"),
        (plain, lambda m: torch.optim.LBFGS(m.parameters()), ValueError, "the state of LBFGS is of all parameters"),
        (plain, with_two_parameters_of_one_l1, ValueError, "an l1 for each value is shared by 2 parameters of a group"),
        (
            plain,
            lambda m: with_a_foreign_state(m, torch.ones(3)),
            ValueError,
            "tensors of the values' shape (15,) of which it is known what newborn edges start with, got 'foreign' of shape (3,)",
        ),
        (
            plain,
            lambda m: with_a_foreign_state(m, torch.ones(15).to_sparse()),
            ValueError,
            "torch.sparse_coo. Delete it",
        ),
        (plain, lambda m: with_a_foreign_state(m, [1]), ValueError, "got 'foreign' of list. Delete it"),
        (lambda: SparseLinear(2, 2, density=1.0, device="meta"), None, ValueError, "'' has none yet (meta device)"),
        (plain, lambda m: "adam", TypeError, "expected a torch optimizer or None, got str."),
        (lambda: "model", None, TypeError, "convert.drop_zeros: expected a module, got str."),
    ],
)
def test_messages(
    make: Callable[[], Any], optimizer: Callable[[Any], Any] | None, error: type[Exception], message: str
) -> None:
    model = make()
    trainer = None if optimizer is None else optimizer(model)
    if isinstance(model, nn.Sequential) and make is not parametrized:
        if isinstance(trainer, torch.optim.Optimizer) and not isinstance(trainer, torch.optim.LBFGS):
            foreign = copy.copy(trainer.state[model[0].values])
            trainer.state.clear()
            train(model, trainer)
            trainer.state[model[0].values].update(foreign)
        with torch.no_grad():
            model[0].values[0] = 0.0
    before = snapshot(model) if isinstance(model, nn.Sequential) else []
    states = (
        {}
        if not isinstance(trainer, torch.optim.Optimizer)
        else {id(p): dict(state) for p, state in trainer.state.items()}
    )
    with pytest.raises(error, match=re.escape(message)):
        drop_zeros(model, trainer)
    assert identical(before, snapshot(model) if isinstance(model, nn.Sequential) else [])
    if states:
        assert all(state[key] is states[id(p)][key] for p, state in trainer.state.items() for key in state)
