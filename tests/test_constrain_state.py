"""Constrained and tied layers in transit: states, checkpoints, copies, dtypes, training resumed, transposes."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import identical
from torch import Tensor, nn
from torch.nn.utils.parametrize import remove_parametrizations

import sparsetrain as st
from sparsetrain import constrain
from sparsetrain.nn import SparseLinear

T = st.Topology.from_mask([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]])
EVERYTHING = [0.5, -0.5, 2.0, 0.25, 0.7, -1.0]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def free_layer() -> SparseLinear:
    layer = SparseLinear(4, 3, topology=T)
    with torch.no_grad():
        layer.values.copy_(torch.tensor(EVERYTHING))
    return layer


def constrained(layer: SparseLinear) -> SparseLinear:
    """Every kind of constraint."""
    constrain.signed(layer, [1, -1, 1], edges=[0, 1, 2])
    constrain.shared(layer, [0, 0], edges=[0, 1])
    constrain.bounded(layer, -1.0, 1.0, edges=[3, 4])
    return constrain.frozen(layer, [4, 5])


def model_of(when: str) -> nn.Sequential:
    """A tied autoencoder, its encoder constrained before or after the decoder was made, or not at all."""
    encoder = free_layer()
    if when == "before":
        constrained(encoder)
    model = nn.Sequential(encoder, nn.Tanh(), encoder.transposed())
    if when == "after":
        constrained(encoder)
    return model


def train(model: nn.Module, optimizer: Any, steps: int = 5, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(6, 4, generator=generator)
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()


def raw_of(layer: Any) -> nn.Parameter:
    parameter: nn.Parameter = layer.parametrizations["values"].original
    return parameter


WHEN = ["never", "before", "after"]


# ---- states ------------------------------------------------------------------------------------------------------------


def test_state_dict_holds_raw_numbers_and_constraints() -> None:
    layer = constrained(free_layer())
    state = layer.state_dict()
    kept = [key.removeprefix("parametrizations.values.") for key in state if key.startswith("parametrizations")]
    assert kept == ["original", "0.types", "0.signs", "0.bounded", "0.low", "0.high", "0.frozen", "0.held"]
    assert {"bias", "_extra_state"} <= state.keys()
    other = constrained(free_layer())
    train_alone(layer)
    other.load_state_dict(layer.state_dict())
    assert other.values.equal(layer.values)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"values\""):
        free_layer().load_state_dict(layer.state_dict())


def train_alone(layer: SparseLinear) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 4)).square().sum().backward()
        optimizer.step()


def test_a_loaded_state_brings_its_frozen_values() -> None:
    layer, other = constrained(free_layer()), free_layer()
    with torch.no_grad():
        other.values[4:] = torch.tensor([0.1, 9.0])
    constrained(other).load_state_dict(layer.state_dict())
    assert other.values.equal(layer.values)


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("kind", ["torch", "ours"])
def test_training_resumes_bitwise_from_a_checkpoint(tmp_path: Path, when: str, kind: str) -> None:
    make = {"torch": torch.optim.AdamW, "ours": st.optim.AdamW}[kind]
    model = model_of(when)
    optimizer = make(model.parameters(), lr=0.05)
    train(model, optimizer)
    st.io.save(tmp_path / "c", model, optimizer)
    other = model_of("before" if when == "after" else when)  # the order leaves no trace
    resumed = make(other.parameters(), lr=0.5)
    st.io.load(tmp_path / "c", other, resumed)
    for each, trainer in ((model, optimizer), (other, resumed)):
        train(each, trainer, seed=1)
    assert identical(dict(model.state_dict()), dict(other.state_dict()))
    assert model[0].values.equal(other[0].values)
    assert identical(optimizer.state_dict()["state"], resumed.state_dict()["state"])


def test_checkpoints_of_other_constraints_are_refused(tmp_path: Path) -> None:
    st.io.save(tmp_path / "c", constrained(free_layer()))
    for layer, message in (
        (free_layer(), "it lacks values and has also"),
        (constrain.frozen(free_layer(), [4, 5]), "has also parametrizations.values.0.types"),
        (constrain.frozen(constrained(free_layer()), [0]), "expected parametrizations.values.0.frozen of shape (3,)"),
    ):
        before = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match=re.escape(message) + ".*Constrain the same edges as when it was saved"):
            st.io.load(tmp_path / "c", layer)
        assert identical(dict(before), dict(layer.state_dict()))


@pytest.mark.parametrize("when", WHEN)
def test_deepcopy(when: str) -> None:
    model = model_of(when)
    other = copy.deepcopy(model)
    assert other[0].topology is model[0].topology
    x = torch.randn(3, 4)
    assert other(x).equal(model(x))
    train(other, torch.optim.SGD(other.parameters(), lr=0.1))
    assert not other[0].values.equal(model[0].values)
    assert other[2].values.equal(other[0].values)
    assert (other[2].values is other[0].values) == (when == "never")
    assert model[0].values.tolist() == pytest.approx(EVERYTHING)


@pytest.mark.parametrize("when", WHEN)
def test_double(when: str) -> None:
    model = model_of(when)
    before = model[0].values.detach().double()
    model.double()
    torch.testing.assert_close(model[0].values.detach(), before, rtol=1e-6, atol=0)
    assert model[0].values[4:].equal(before[4:])
    assert model[2].values.dtype is torch.float64
    assert model(torch.ones(2, 4, dtype=torch.float64)).dtype is torch.float64
    assert model[0].values.equal(model[2].values)


@pytest.mark.parametrize("when", WHEN)
def test_compiled(when: str) -> None:
    model = model_of(when)
    x = torch.randn(5, 4)
    expected = model(x)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), expected)


def test_edges_of_constrained_values_can_not_be_replaced() -> None:
    layer = constrained(free_layer())
    with pytest.raises(TypeError, match=r"replace_edges: expected values that are a Parameter, got values computed f"):
        layer.replace_edges(st.Topology.from_mask([[1, 0, 0, 0]] * 3), torch.ones(3))
    assert layer.topology is T


# ---- tied layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", WHEN)
def test_a_tied_decoder_is_the_dense_twin(when: str) -> None:
    model = model_of(when).double()
    encoder, _, decoder = model
    raw = encoder.values if when == "never" else raw_of(encoder)
    given = raw.detach().clone().requires_grad_()
    values = given if when == "never" else encoder.parametrizations["values"][0](given)
    weight = torch.zeros(3, 4, dtype=torch.float64).index_put((T.row.long(), T.col.long()), values)
    x = torch.randn(7, 4, dtype=torch.float64)
    expected = torch.tanh(x @ weight.t() + encoder.bias.detach()) @ weight + decoder.bias.detach()
    y = model(x)
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-14)
    y.square().sum().backward()
    (gradient,) = torch.autograd.grad(expected.square().sum(), given)  # the sum over both uses
    torch.testing.assert_close(raw.grad, gradient, rtol=1e-12, atol=1e-13)


def test_parameters_of_a_tied_pair() -> None:
    model = model_of("never")
    assert [name for name, _ in model.named_parameters()] == ["0.values", "0.bias", "2.bias"]
    assert [name for name, _ in model[2].named_parameters()] == ["values", "bias"]
    assert model[2].values is model[0].values
    keys = {when: list(model_of(when).state_dict()) for when in ("before", "after")}
    assert keys["before"] == keys["after"]
    constrained(model[0])
    remove_parametrizations(model[0], "values")
    assert model[2].values is model[0].values
    assert list(model[2].state_dict())[:2] == ["values", "bias"]
    assert {"2.values", "0.values"} <= model.state_dict().keys()


def test_what_is_set_on_a_decoder_is_set_on_its_encoder() -> None:
    model = model_of("never")
    new = nn.Parameter(torch.ones(6))
    model[2].values = new
    assert model[0].values is new
    assert model[2].values is new
    positive = constrain.positive(model[0])
    model[2].values = torch.arange(6.0)
    assert positive.values.tolist() == [0, 1, 2, 3, 4, 5]
    other = model_of("never")
    other.load_state_dict(model_of("never").state_dict(), assign=True)
    assert other[2].values is other[0].values


def test_functional_calls_of_a_tied_pair() -> None:
    model, x, zeros = model_of("never"), torch.randn(2, 4), torch.zeros(6)
    call = torch.func.functional_call
    assert call(model[2], {"values": zeros}, (torch.ones(1, 3),)).equal(model[2].bias[None])
    assert call(model, {"0.values": zeros}, (x,)).equal(model[2].bias.expand(2, 4))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    gradients = torch.func.grad(lambda given: call(model, given, (x,)).square().sum())(parameters)
    model(x).square().sum().backward()
    torch.testing.assert_close(gradients["0.values"], model[0].values.grad)
    assert model[2].values is model[0].values


def test_a_parametrization_of_the_decoder_alone_comes_and_goes() -> None:
    model = model_of("never")
    nn.utils.parametrize.register_parametrization(model[2], "values", nn.Tanh(), unsafe=True)
    assert model[2].values.equal(model[0].values.tanh())
    model.state_dict()
    remove_parametrizations(model[2], "values", leave_parametrized=False)
    assert model[2].values is model[0].values
    assert [name for name, _ in model.named_parameters()] == ["0.values", "0.bias", "2.bias"]


def test_one_layer_used_twice(tmp_path: Path) -> None:
    layer = constrain.positive(SparseLinear(4, 4, density=0.5, dtype=torch.float64), project=True)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = torch.randn(3, 4, dtype=torch.float64)
    model(x).sum().backward()
    total = raw_of(layer).grad.clone()
    parts = []
    for used in (0, 2):  # the other use without a gradient
        layer.zero_grad()
        with torch.no_grad():
            fixed = layer.values.clone()
        twin = SparseLinear(4, 4, topology=layer.topology, dtype=torch.float64)
        with torch.no_grad():
            twin.values.copy_(fixed)
            twin.bias.copy_(layer.bias)
        twin.requires_grad_(False)
        nn.Sequential(*(layer if k == used else twin if k != 1 else nn.Tanh() for k in range(3)))(x).sum().backward()
        parts.append(raw_of(layer).grad.clone())
    torch.testing.assert_close(total, parts[0] + parts[1], rtol=1e-13, atol=1e-15)
    st.io.save(tmp_path / "c", model)
    other = constrain.positive(SparseLinear(4, 4, topology=layer.topology, dtype=torch.float64), project=True)
    st.io.load(tmp_path / "c", nn.Sequential(other, nn.Tanh(), other))
    assert other.values.equal(layer.values)


# ---- sparse gradients, memory ------------------------------------------------------------------------------------------


def test_sparse_grad_set_afterwards_is_refused_or_right() -> None:
    layer, twin = constrained(free_layer()), constrained(free_layer())
    twin.load_state_dict(layer.state_dict())
    layer.sparse_grad = True
    x = torch.zeros(3, 4)
    x[:, 1] = 2.0
    with pytest.raises(ValueError, match="SparseLinear: sparse_grad=True needs values that are a Parameter"):
        layer(x)
    layer.sparse_grad = False
    for each in (layer, twin):
        each(x).square().sum().backward()
    assert raw_of(layer).grad.equal(raw_of(twin).grad)


def test_memory_is_a_few_vectors() -> None:
    """No dense tensor: this layer's would have 10^10 numbers."""
    t = st.patterns.uniform((100_000, 100_000), 1e-6)
    layer = SparseLinear(100_000, 100_000, topology=t, bias=False)
    constrain.signed(layer, layer.values.detach().sign().where(layer.values != 0, 1.0))
    constrain.bounded(layer, -9, 9, edges=range(100))
    constrain.frozen(layer, t)
    held = sum(buffer.nbytes for buffer in layer.buffers())
    assert held <= 14 * t.nnz + 2000


def test_buffers_follow_the_values() -> None:
    layer = constrained(free_layer()).double()
    kinds: dict[str, Tensor] = dict(layer.parametrizations["values"][0].named_buffers())
    assert {name for name, buffer in kinds.items() if buffer.dtype is torch.float64} == {"low", "high", "held"}
