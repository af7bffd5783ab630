"""What a frozen layer with trainable edges refuses: bases, topologies, inputs, and values that constraints forbid."""

import pytest
import torch
from delta_layers import small
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

import sparsetrain as st
from sparsetrain.nn import SparseDeltaLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_another_base_layer_is_refused() -> None:
    t = st.patterns.uniform((7, 5), 0.3)
    with pytest.raises(TypeError, match=r"expected an nn.Linear, got Conv1d. Supported are nn.Linear layers"):
        SparseDeltaLinear(nn.Conv1d(5, 7, 1), t)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expected an nn.Linear, got SparseLinear"):
        SparseDeltaLinear(st.nn.SparseLinear(5, 7, density=1), t)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the LazyLinear has none yet"):
        SparseDeltaLinear(nn.LazyLinear(7), t)
    with pytest.raises(ValueError, match="of which weight is computed"):
        SparseDeltaLinear(weight_norm(nn.Linear(5, 7)), t)
    linear = nn.Linear(5, 7)
    linear.weight = nn.Parameter(linear.weight.detach().to(torch.float8_e4m3fn), False)
    with pytest.raises(TypeError, match=r"expected a floating-point weight, got torch.float8_e4m3fn"):
        SparseDeltaLinear(linear, t)


def test_a_weight_that_a_hook_computes_is_refused() -> None:
    linear = nn.Linear(5, 7)
    prune.random_unstructured(linear, "weight", 0.5)
    with pytest.raises(ValueError, match="got one that a hook computes"):
        SparseDeltaLinear(linear, st.patterns.uniform((7, 5), 0.3))
    model = nn.Sequential(linear)
    with pytest.raises(ValueError, match="0: expected a weight that is a Parameter"):
        st.convert.train_edges(model, 0.5)
    assert model[0] is linear


def test_backward_hooks_of_the_linear_layer_are_called() -> None:
    layer = small()
    calls: list[int] = []
    layer.linear.register_full_backward_hook(lambda *_: calls.append(1))
    layer(torch.randn(4, 5, requires_grad=True)).sum().backward()
    assert calls == [1]


def test_a_topology_that_does_not_fit_is_refused_and_nothing_is_frozen() -> None:
    linear = nn.Linear(5, 7)
    with pytest.raises(ValueError, match=r"expected a topology of shape \(out, in\) = \(7, 5\), got \(5, 7\)"):
        SparseDeltaLinear(linear, st.patterns.uniform((5, 7), 0.3))
    with pytest.raises(TypeError, match="expected a Topology, got Tensor"):
        SparseDeltaLinear(linear, torch.ones(7, 5))  # type: ignore[arg-type]
    assert linear.weight.requires_grad
    assert linear.bias.requires_grad


def test_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SparseDeltaLinear: expected 5 input features, got 6"):
        small()(torch.ones(2, 6))
    with pytest.raises(TypeError, match=r"SparseDeltaLinear: expected one dtype"):
        small()(torch.ones(2, 5, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"SparseDeltaLinear: expected x to be a torch.Tensor, got list"):
        small()([1.0] * 5)


def test_values_that_are_computed_from_others() -> None:
    class Half(nn.Module):
        def forward(self, raw: Tensor) -> Tensor:
            return raw / 2

    layer = small()
    parametrize.register_parametrization(layer, "values", Half(), unsafe=True)
    layer.to(torch.bfloat16)
    assert layer.parametrizations["values"].original.dtype is torch.float32
    assert layer(torch.ones(2, 5, dtype=torch.bfloat16)).dtype is torch.bfloat16


def test_constrained_values_merge_and_reset() -> None:
    layer = st.constrain.bounded(small(density=1.0, dtype=torch.float64), -1.0, 1.0)
    layer.values = torch.full((35,), 0.5, dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64)
    expected = layer(x)
    torch.testing.assert_close(layer.merge()(x), expected)
    torch.testing.assert_close(layer(x), expected)
    assert layer.values.abs().max() < 1e-12


def test_what_constraints_forbid_is_not_merged() -> None:
    layer = small(density=1.0)
    nn.init.ones_(layer.values)
    st.constrain.frozen(layer, [3])
    weight = layer.linear.weight.clone()
    with pytest.raises(ValueError, match=r"expected edge 3 to keep 1.0, at which it is frozen"):
        layer.merge()
    assert torch.equal(layer.linear.weight, weight)
    assert layer.values.eq(1).all()
