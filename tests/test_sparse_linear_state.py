"""SparseLinear in transit: copies, pickles, devices, dtypes, state_dict, parametrization."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sparsetrain as st
from sparsetrain.edges.stored_edges import KEY, unpacked
from sparsetrain.nn import SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def layer() -> SparseLinear:
    """3 inputs, 2 outputs: y0 = x0 + 2 x2 + 10, y1 = 3 x1 + 20."""
    layer = SparseLinear(3, 2, topology=st.Topology.from_mask([[1, 0, 1], [0, 1, 0]]))
    with torch.no_grad():
        layer.values.copy_(torch.tensor([1.0, 2.0, 3.0]))
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
    return layer


# ---- copies, moves, dtypes ---------------------------------------------------------------------------------------------


def test_deepcopy_shares_the_topology_and_nothing_else(layer: SparseLinear) -> None:
    other = copy.deepcopy(layer)
    assert other.topology is layer.topology
    with torch.no_grad():
        other.values.zero_()
    assert layer.values.tolist() == [1.0, 2.0, 3.0]


def test_layers_share_one_topology_after_deepcopy_and_to() -> None:
    t = st.patterns.uniform((4, 4), 0.5)
    model = nn.Sequential(SparseLinear(4, 4, topology=t), SparseLinear(4, 4, topology=t))
    moved = copy.deepcopy(model).to(torch.float64).to("cpu")
    assert model[0].topology is model[1].topology is moved[0].topology is moved[1].topology


def test_pickle(layer: SparseLinear) -> None:
    model = nn.Sequential(layer, SparseLinear(2, 2, density=0.5), SparseLinear(3, 2, topology=layer.topology))
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(5, 3)
    assert again[:2](x).equal(model[:2](x))
    assert again[0].topology.digest == layer.topology.digest
    assert again[0].topology is again[2].topology


def test_double(layer: SparseLinear) -> None:
    layer.double()
    assert layer(torch.ones(3, dtype=torch.float64)).tolist() == [13.0, 23.0]
    assert layer.topology.col.dtype is torch.int32
    assert layer.float()(torch.ones(3)).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_stay_float32_when_a_model_becomes_half(layer: SparseLinear, dtype: torch.dtype) -> None:
    layer.to(dtype)
    x = torch.ones(3, dtype=dtype, requires_grad=True)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            y = layer(x)
        assert y.dtype is dtype
        assert y.tolist() == [13.0, 23.0]
    y.sum().backward()
    assert (layer.values.grad.dtype, x.grad.dtype) == (torch.float32, dtype)


def test_meta_layers_become_real() -> None:
    t = st.patterns.uniform((4, 6), 0.5)
    layer = SparseLinear(6, 4, topology=t, device="meta")
    assert layer.values.is_meta
    assert layer.topology is t
    layer.to_empty(device="cpu").reset_parameters()
    assert layer.topology is t
    assert layer(torch.ones(6)).isfinite().all()
    assert SparseLinear(6, 4, density=0.5).to("meta").topology.device.type == "cpu"
    with torch.device("meta"):
        assert SparseLinear(6, 4, topology=t).values.is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_topology_moves_along_and_comes_home(layer: SparseLinear) -> None:
    home = layer.topology
    assert layer.cuda()(torch.ones(3, device="cuda")).tolist() == [13.0, 23.0]
    assert layer.topology.device.type == "cuda"
    assert layer.cpu().topology is home


# ---- states ------------------------------------------------------------------------------------------------------------


def test_state_dict_holds_values_bias_and_edges(layer: SparseLinear) -> None:
    state = nn.Sequential(layer).state_dict()
    assert list(state) == ["0.values", "0.bias", "0._extra_state"]
    stored = unpacked(state["0._extra_state"])
    assert (stored.shape, stored.nnz, stored.digest) == ((2, 3), 3, layer.topology.digest)
    assert stored.fan_in.tolist() == [2, 1]
    assert stored.col.tolist() == [0, 2, 1]
    assert stored.topology().digest == layer.topology.digest
    named = SparseLinear(2, 1, topology=st.Topology.from_edges([("a", "y"), ("b", "y")])).state_dict()
    assert unpacked(named["_extra_state"]).inputs == ["a", "b"]


def test_parameters_are_named_and_leaf(layer: SparseLinear) -> None:
    assert [name for name, _ in layer.named_parameters()] == ["values", "bias"]
    assert list(layer.buffers()) == []
    assert layer.values.is_leaf
    assert layer.values.grad is None


@pytest.mark.parametrize("weights_only", [True, False])
def test_torch_save_and_load(layer: SparseLinear, weights_only: bool) -> None:
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = SparseLinear(3, 2, topology=layer.topology)
    other.load_state_dict(torch.load(file, weights_only=weights_only))
    assert other.values.tolist() == [1.0, 2.0, 3.0]
    assert other.bias.tolist() == [10.0, 20.0]
    assert other.topology is layer.topology


def test_another_topology_is_refused_by_layer_name(layer: SparseLinear) -> None:
    state = nn.Sequential(nn.ReLU(), layer).state_dict()
    other = nn.Sequential(nn.ReLU(), SparseLinear(3, 2, topology=st.Topology.from_mask([[0, 1, 1], [0, 1, 0]])))
    before = other[1].values.clone()
    with pytest.raises(
        RuntimeError, match=r"SparseLinear 1: expected the same 3 edges, the checkpoint has other edges"
    ):
        other.load_state_dict(state)
    wider = nn.Sequential(nn.ReLU(), SparseLinear(4, 2, density=0.5))
    with pytest.raises(RuntimeError, match=r"expected edges of shape \(2, 4\), the checkpoint has \(2, 3\)"):
        wider.load_state_dict(state)
    assert other[1].values.equal(before)


def test_missing_and_unexpected_keys(layer: SparseLinear) -> None:
    state = layer.state_dict()
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "foreign"'):
        layer.load_state_dict({**state, "foreign": torch.ones(1)})
    del state["_extra_state"], state["values"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "values", "_extra_state"'):
        layer.load_state_dict(state)
    assert layer.load_state_dict(state, strict=False).missing_keys == ["values", "_extra_state"]


def test_load_with_assign_takes_the_tensors(layer: SparseLinear) -> None:
    other = SparseLinear(3, 2, topology=layer.topology, device="meta")
    other.load_state_dict(layer.state_dict(), assign=True)
    assert other(torch.ones(3)).tolist() == [13.0, 23.0]


def test_replace_edges_keeps_the_parameter(layer: SparseLinear) -> None:
    parameter = layer.values
    layer(torch.ones(3)).sum().backward()
    layer.replace_edges(st.Topology.from_mask([[1, 0, 0], [0, 0, 1]]), torch.tensor([5.0, 7.0], dtype=torch.float64))
    assert layer.values is parameter
    assert layer.values.grad is None
    assert layer.values.dtype is torch.float32
    assert layer(torch.ones(3)).tolist() == [15.0, 27.0]


def test_training_goes_on_while_an_old_loss_is_kept(layer: SparseLinear) -> None:
    """As in most loops: the name of the last loss, and with it its graph, outlives the change of edges."""
    loss = layer(torch.ones(3)).sum()
    loss.backward()
    layer.replace_edges(st.Topology.from_mask([[1, 0, 0], [0, 0, 1]]), torch.tensor([5.0, 7.0]))
    layer(torch.ones(3)).sum().backward()
    assert layer.values.grad.tolist() == [1.0, 1.0]
    assert loss.item() == 36.0


class Softplus(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return nn.functional.softplus(raw)

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.expm1().log()


def test_parametrized_values(layer: SparseLinear) -> None:
    parametrize.register_parametrization(layer, "values", Softplus())
    torch.testing.assert_close(layer(torch.ones(3)), torch.tensor([13.0, 23.0]))
    layer(torch.ones(3)).sum().backward()
    raw = layer.parametrizations.values.original
    torch.testing.assert_close(raw.grad, raw.detach().sigmoid())
    assert layer.double().values.dtype is torch.float64
    state = layer.state_dict()
    assert {"parametrizations.values.original", "_extra_state"} <= state.keys()
    layer.load_state_dict(state)
    parametrize.remove_parametrizations(layer, "values")
    torch.testing.assert_close(layer.values.detach(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


# ---- functional calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sparse", "transposed", "delta", "model"])
def test_functional_calls_take_whole_state_dicts(kind: str) -> None:
    layer: Any = SparseLinear(5, 5, density=0.4)
    if kind == "transposed":
        layer = layer.transposed()
    elif kind == "delta":
        layer = st.nn.SparseDeltaLinear(nn.Linear(5, 5), layer.topology)
    elif kind == "model":
        layer = nn.Sequential(layer, nn.ReLU(), SparseLinear(5, 2, density=0.5))
    x, call = torch.randn(3, 5), torch.func.functional_call
    state = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    edges = [key for key in state if key.endswith(KEY)]
    given = {key: state[key] for key in edges}
    torch.testing.assert_close(call(layer, state, (x,)), layer(x), rtol=0, atol=0)
    assert all(state[key] is given[key] for key in edges)  # torch writes back what the call left
    other = {key: tensor if key in edges else torch.zeros_like(tensor) for key, tensor in state.items()}
    assert not call(layer, other, (x,)).any()
    gradients = torch.func.grad(lambda entries: call(layer, entries, (x,)).square().sum())(state)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad)
    stacked = {key: torch.stack([state[key], other[key]]) for key in state}
    both = torch.vmap(lambda entries: call(layer, entries, (x,)))(stacked)
    torch.testing.assert_close(both[0], layer(x))
    assert not both[1].any()
    compiled = torch.compile(lambda entries: call(layer, entries, (x,)), backend="aot_eager")
    torch.testing.assert_close(compiled(state), layer(x))


def test_a_functional_call_over_other_edges_is_refused_and_leaves_the_layer() -> None:
    layer, other = SparseLinear(50, 20, density=0.1), SparseLinear(50, 20, density=0.1)
    x = torch.randn(3, 50)
    y, state = layer(x), layer.state_dict()
    with pytest.raises(ValueError, match="SparseLinear: expected the same 100 edges"):
        torch.func.functional_call(layer, other.state_dict(), (x,))
    assert torch.equal(layer(x), y)
    torch.func.functional_call(layer, state, (x,))
    layer.replace_edges(other.topology, other.values)
    assert torch.equal(layer.state_dict()[KEY], other.state_dict()[KEY])  # nothing of the call is kept
    assert torch.equal(layer._buffers[KEY], other.state_dict()[KEY])
