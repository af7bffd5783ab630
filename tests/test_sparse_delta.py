"""A frozen dense layer with trainable edges: the numbers of a dense twin, nothing dense beside them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from delta_layers import delta_layer, delta_of, small
from hypothesis import given, settings
from hypothesis import strategies as hyp
from structures import Structure, structures
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import SparseDeltaLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- numbers -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(structure=structures(most=12), batch=hyp.integers(0, 9), bias=hyp.booleans())
def test_outputs_and_gradients_are_those_of_a_dense_twin(structure: Structure, batch: int, bias: bool) -> None:
    layer = delta_layer(structure, bias)
    x = torch.randn(batch, structure.columns, dtype=torch.float64, requires_grad=True)
    twin_x = x.detach().clone().requires_grad_()
    delta = delta_of(layer).requires_grad_()
    y = layer(x)
    expected = nn.functional.linear(twin_x, layer.linear.weight + delta, layer.linear.bias)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    dy = torch.randn_like(y)
    y.backward(dy)
    expected.backward(dy)
    assert layer.values.grad is not None
    assert delta.grad is not None
    t = layer.topology
    torch.testing.assert_close(layer.values.grad, delta.grad[t.row.long(), t.col.long()], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x.grad, twin_x.grad, rtol=1e-12, atol=1e-12)


def test_derivatives_of_every_order() -> None:
    layer = small(dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    values = torch.randn(layer.topology.nnz, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor, values: Tensor) -> Any:
        return torch.func.functional_call(layer, {"values": values}, (x,))

    assert torch.autograd.gradcheck(f, (x, values), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (x, values))


def test_more_dimensions_and_layouts() -> None:
    layer = small(dtype=torch.float64)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    expected = nn.functional.linear(x, layer.linear.weight + delta_of(layer), layer.linear.bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(st.ops.feature_major(x)), expected)


@pytest.mark.parametrize("needs_dx", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_samples_in_several_parts(dtype: torch.dtype, needs_dx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsetrain.ops.delta.PART", 1)  # parts of 128 samples
    layer = small(dtype=dtype)
    nn.init.normal_(layer.values)
    x = torch.randn(300, 5, dtype=dtype, requires_grad=needs_dx)
    dy = torch.randn(300, 7, dtype=dtype)
    y = layer(x)
    y.backward(dy)
    total = layer.linear.weight.double() + delta_of(layer)
    tight = {torch.float64: 1e-13, torch.bfloat16: 2**-7}[dtype]
    expected = x.double() @ total.t() + layer.linear.bias.double()
    torch.testing.assert_close(y.double(), expected, rtol=2 * tight, atol=2 * tight)
    assert layer.values.grad is not None
    t = layer.topology
    exact = (dy.double().t() @ x.detach().double())[t.row.long(), t.col.long()]
    torch.testing.assert_close(
        layer.values.grad.double(), exact, rtol=1e-5, atol=1e-4 if dtype.itemsize == 2 else 1e-12
    )
    if needs_dx:
        assert x.grad is not None
        torch.testing.assert_close(x.grad.double(), dy.double() @ total, rtol=4 * tight, atol=8 * tight)


def test_a_subclass_and_its_hooks_are_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    t = st.patterns.uniform((7, 5), 0.3)
    x = torch.randn(4, 5)
    doubled = SparseDeltaLinear(Doubled(5, 7), t)
    nn.init.normal_(doubled.values)
    expected = doubled.linear(x) + x @ delta_of(doubled).float().t()
    torch.testing.assert_close(doubled(x), expected)
    hooked = small()
    seen: list[Tensor] = []
    hooked.linear.register_forward_hook(lambda *call: seen.append(call[-1].clone()))
    nn.init.normal_(hooked.values)
    assert not torch.equal(hooked(x), seen[0])
    assert torch.equal(seen[0], nn.functional.linear(x, hooked.linear.weight, hooked.linear.bias))


def test_compiles_as_one_graph() -> None:
    layer = small()
    nn.init.normal_(layer.values)
    x = torch.randn(6, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


# ---- what is frozen, and what trains ------------------------------------------------------------------------------------


def test_before_training_it_is_the_frozen_layer() -> None:
    linear = nn.Linear(5, 7)
    x = torch.randn(4, 5)
    expected = linear(x)
    layer = SparseDeltaLinear(linear, st.patterns.uniform((7, 5), 0.3))
    assert layer.linear is linear
    assert torch.equal(layer(x), expected)


def test_only_the_values_train() -> None:
    layer = small()
    weight, bias = layer.linear.weight.clone(), layer.linear.bias.clone()
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert len(trained) == 1
    assert trained[0] is layer.values
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
    assert torch.equal(layer.linear.weight, weight)
    assert torch.equal(layer.linear.bias, bias)
    assert layer.linear.weight.grad is None
    assert layer.linear.bias.grad is None
    assert bool((layer.values != 0).all())
    assert list(optimizer.state) == [layer.values]


def test_a_bias_trains_when_asked_to() -> None:
    layer = small()
    layer.linear.bias.requires_grad_()
    layer(torch.ones(4, 5)).sum().backward()
    assert layer.linear.bias.grad is not None
    assert layer.linear.bias.grad.tolist() == [4.0] * 7


def test_a_weight_trains_too_when_asked_to() -> None:
    layer = small()
    layer.linear.weight.requires_grad_()
    layer(torch.ones(4, 5)).sum().backward()
    assert layer.linear.weight.grad is not None
    assert layer.linear.weight.grad.eq(4).all()


def test_the_weight_is_not_copied() -> None:
    linear = nn.Linear(5, 7)
    place = linear.weight.data_ptr()
    layer = SparseDeltaLinear(linear, st.patterns.uniform((7, 5), 0.3))
    layer(torch.ones(2, 5)).sum().backward()
    layer.merge()
    assert layer.linear.weight.data_ptr() == place


def test_merge_then_reset() -> None:
    layer = small(dtype=torch.float64)
    nn.init.normal_(layer.values)
    x = torch.randn(4, 5, dtype=torch.float64)
    expected, total = layer(x), layer.linear.weight + delta_of(layer)
    merged = layer.merge()
    assert merged is layer.linear
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged.weight.detach(), total.detach(), rtol=0, atol=0)
    assert not layer.values.any()
    torch.testing.assert_close(merged(x), expected)
    torch.testing.assert_close(layer(x), expected)
    nn.init.normal_(layer.values)
    layer.reset()
    assert torch.equal(layer(x), merged(x))


def test_merge_tells_autograd() -> None:
    layer = small()
    x = torch.randn(4, 5, requires_grad=True)
    y = layer(x)
    layer.merge()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# ---- halves ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_of_halves_has_float32_values(dtype: torch.dtype) -> None:
    layer = small(dtype=dtype)
    assert layer.values.dtype is torch.float32
    x = torch.randn(4, 5).to(dtype)
    y = layer(x)
    assert y.dtype is dtype
    y.sum().backward()
    assert layer.values.grad is not None
    assert layer.values.grad.dtype is torch.float32
    t = layer.topology  # dy is all ones, so that the gradient is a sum of halves, made in float32
    torch.testing.assert_close(layer.values.grad, x.float().sum(0)[t.col.long()])


def test_small_updates_of_a_half_are_not_lost() -> None:
    layer = small(density=1.0, dtype=torch.bfloat16)
    nn.init.ones_(layer.linear.weight)
    with torch.no_grad():
        for _ in range(64):
            layer.values += 2**-12  # a bfloat16 near 1 has steps of 2**-7: each alone would vanish
    assert layer.merge().weight.eq(1 + 2**-6).all()


def test_values_stay_wide_when_the_model_becomes_one_of_halves() -> None:
    layer = small()
    nn.init.constant_(layer.values, 0.1)
    values = layer.values
    layer(torch.ones(2, 5)).sum().backward()
    layer.to(torch.bfloat16)
    assert layer.linear.weight.dtype is torch.bfloat16
    assert layer.values is values
    assert values.dtype is torch.float32
    assert values.eq(0.1).all()
    assert values.grad is not None
    assert values.grad.dtype is torch.float32
    assert layer(torch.ones(2, 5, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert layer.to(torch.float64).values.dtype is torch.float64


def test_autocast() -> None:
    layer = small()
    nn.init.normal_(layer.values)
    x = torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=2**-6, atol=2**-5)
    y.sum().backward()
    assert layer.values.grad is not None
    assert layer.values.grad.dtype is torch.float32


# ---- state -------------------------------------------------------------------------------------------------------------


def test_state_goes_round(tmp_path: Path) -> None:
    layer, other = small(), small()
    nn.init.normal_(layer.values)
    other.replace_edges(layer.topology, torch.zeros(layer.topology.nnz))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 5)
    assert torch.equal(other(x), layer(x))
    st.io.save(tmp_path / "delta.safetensors", layer)
    fresh = SparseDeltaLinear(nn.Linear(5, 7), layer.topology)
    st.io.load(tmp_path / "delta.safetensors", fresh)
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_other_edges_are_not_loaded() -> None:
    layer, other = small(), small()
    assert layer.topology.digest != other.topology.digest
    with pytest.raises(RuntimeError, match=r"expected the same .* edges, the checkpoint has other edges"):
        other.load_state_dict(layer.state_dict())


def test_training_mode_is_the_linear_layers() -> None:
    assert not SparseDeltaLinear(nn.Linear(5, 7).eval(), st.patterns.uniform((7, 5), 0.3)).training
