"""State dicts in other hands: averaged, cast, of version 0.1, with edges replaced."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import adam, edges, identical, network, quantized, snapshot, train
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.edges.stored_edges import KEY
from sparsetrain.nn import SparseLinear

State = dict[str, Any]


def named(seed: int = 0) -> nn.Sequential:
    """Layers with names, over the same edges for each seed of the values."""
    torch.manual_seed(seed)
    t = st.Topology.from_edges([("a", "y"), ("b", "z"), ("c", "z")])
    return nn.Sequential(SparseLinear(3, 2, topology=t), nn.BatchNorm1d(2), SparseLinear(2, 300, topology=wide()))


def wide() -> st.Topology:
    return st.patterns.uniform((300, 2), 0.9, torch.Generator().manual_seed(0))


def old_form(model: nn.Module) -> State:
    """The state of a model as version 0.1 wrote it: a tensor for each array of the structure."""
    state: State = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, st.nn.EdgeModule):
            t, prefix = module.topology, f"{name}." if name else ""
            del state[prefix + KEY]
            state |= {prefix + "crow": t.crow.clone(), prefix + "col": t.col.clone()}
            state[prefix + "shape"] = torch.tensor(t.shape)
            state[prefix + "digest"] = torch.frombuffer(bytearray.fromhex(t.digest), dtype=torch.uint8)
            if t.inputs is not None:
                state[prefix + "inputs"] = torch.tensor(list(b'["a", "b", "c"]'), dtype=torch.uint8)
                state[prefix + "outputs"] = torch.tensor(list(b'["y", "z"]'), dtype=torch.uint8)
    return state


# ---- arithmetic --------------------------------------------------------------------------------------------------------


def averaged(states: list[State]) -> State:
    """Federated averaging as it is written everywhere."""
    mean = copy.deepcopy(states[0])
    for key in mean:
        for state in states[1:]:
            mean[key] += state[key]
        mean[key] = torch.div(mean[key], len(states))
    return mean


def averaged_in_place(states: list[State]) -> State:
    mean = copy.deepcopy(states[0])
    for key, tensor in mean.items():
        for state in states[1:]:
            tensor += state[key]
        if tensor.is_floating_point():
            tensor /= len(states)
        else:  # of batch normalization
            tensor //= len(states)
    return mean


def weighted(states: list[State]) -> State:
    shares = [0.1 + 0.3 * k for k in range(len(states))]
    return {
        key: sum(share / sum(shares) * state[key] for share, state in zip(shares, states, strict=True))
        for key in states[0]
    }


def moved(states: list[State]) -> State:
    """Exponential moving averages, in place."""
    mean = copy.deepcopy(states[0])
    for state in states[1:]:
        for key, tensor in mean.items():
            if tensor.is_floating_point():
                tensor.mul_(0.9).add_(state[key], alpha=0.1)
    return mean


def in_half_precision(states: list[State]) -> State:
    return {key: torch.stack([state[key].bfloat16() for state in states]).mean(0).float() for key in states[0]}


@pytest.mark.parametrize("mean", [averaged, averaged_in_place, weighted, moved, in_half_precision])
def test_means_of_states_load(mean: Callable[[list[State]], State]) -> None:
    models = [named(seed) for seed in range(7)]
    states = [model.state_dict() for model in models]
    digests = [[layer.topology.digest for layer in (model[0], model[2])] for model in models]
    state, target = mean(states), named(9)
    target.load_state_dict(state)
    assert identical(target[2].values.detach(), state["2.values"])
    for model, before in zip(models, digests, strict=True):
        fresh = [st.Topology(t.crow, t.col, t.shape).digest for t in (model[0].topology, model[2].topology)]
        assert fresh == before  # whatever was written into, it was not the edges of a living layer
    if mean is not in_half_precision:
        st.io.adopt(other := nn.Sequential(*named(9)), state)
        assert other[2].topology.digest == models[0][2].topology.digest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["names", "many inputs", "hierarchy"])
def test_means_in_half_precision_load(dtype: torch.dtype, kind: str) -> None:
    """Sums of three are rounded in the half type, in which 3 * 255 is no number."""
    model: nn.Module
    if kind == "names":
        pairs = [(f"gene {k} \u00ff", f"pathway {k % 3}") for k in range(10)]
        model = SparseLinear.from_edges(pairs)
    elif kind == "many inputs":
        model = SparseLinear(70_000, 3, density=0.001)
    else:
        model = st.convert.from_hierarchy([("a", "m"), ("b", "m"), ("m", "o"), ("a", "o")])
    state = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    mean = {key: (tensor + tensor + tensor).div_(3) for key, tensor in state.items()}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.load_state_dict(mean)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0.02, atol=1e-6)


def packed_in_bytes(t: st.Topology) -> Tensor:
    """The edges as release candidates of version 0.1 stored them: sizes and names in bytes."""
    names = [None if side is None else json.dumps(side).encode() for side in (t.inputs, t.outputs)]
    sizes = (*t.shape, t.nnz, *(0 if text is None else len(text) + 1 for text in names))
    head = [1, *(byte for size in sizes for byte in size.to_bytes(8, "little")), *(int(c, 16) for c in t.digest)]
    tail = [number for text in names for number in text or b""]
    return torch.tensor([*head, *t.fan_in.tolist(), *t.col.tolist(), *tail], dtype=torch.float32)


def test_edges_stored_in_bytes_are_read() -> None:
    layer = SparseLinear.from_edges([("TP53", "apoptosis"), ("MYC", "cycle")])
    state = {**layer.state_dict(), KEY: packed_in_bytes(layer.topology)}
    layer.load_state_dict(state)
    other = SparseLinear(2, 2, topology=st.Topology.from_mask([[0, 1], [1, 0]]))
    st.io.adopt(other, state)
    assert (other.topology.digest, other.topology.inputs) == (layer.topology.digest, layer.topology.inputs)
    with pytest.raises(RuntimeError, match=r"damaged, or of another release"):
        layer.load_state_dict({**state, KEY: packed_in_bytes(layer.topology) + 3})


def test_living_edges_are_out_of_reach_of_a_state() -> None:
    layer = SparseLinear(5, 6, topology=edges(0))
    col = layer.topology.col.clone()
    for keep_vars in (False, True):
        layer.state_dict(keep_vars=keep_vars)[KEY].zero_()
    layer.get_extra_state().fill_(7)
    assert layer.topology.col.equal(col)


def test_a_mean_over_different_edges_says_what_to_leave_out() -> None:
    layers = [SparseLinear(5, 6, topology=edges(seed)) for seed in (0, 1)]
    state = averaged([layer.state_dict() for layer in layers])
    for load in (layers[0].load_state_dict, lambda state: st.io.adopt(layers[0], state)):
        with pytest.raises(
            (RuntimeError, ValueError), match=r"changed by arithmetic.*Leave the keys that end in '_extra"
        ):
            load(state)
    state[KEY] = layers[1].state_dict()[KEY]
    st.io.adopt(layers[0], state)
    assert layers[0].topology.digest == layers[1].topology.digest


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {},
        torch.ones(3),
        torch.full((400,), float("nan")),
        torch.zeros(400),
        torch.ones(400).to_sparse(),
        torch.ones(400, dtype=torch.complex64),
        torch.zeros(0),
        torch.ones(400),
    ],
)
def test_entries_that_are_no_edges_are_refused(entry: Any) -> None:
    layer = SparseLinear(5, 6, topology=edges(0))
    with pytest.raises(RuntimeError, match=r"the stored edges (are damaged|were changed)"):
        layer.load_state_dict({**layer.state_dict(), KEY: entry})
    with pytest.raises(ValueError, match=r"the stored edges (are damaged|were changed)"):
        st.io.adopt(layer, {**layer.state_dict(), KEY: entry})


# ---- version 0.1 -------------------------------------------------------------------------------------------------------


def test_states_of_version_0_1_load(tmp_path: Path) -> None:
    model, other = named(0), named(1)
    other.load_state_dict(old_form(model))
    assert identical(other.state_dict(), model.state_dict())
    different = SparseLinear(5, 6, topology=edges(1))
    with pytest.raises(RuntimeError, match="expected the same 12 edges, the checkpoint has other edges"):
        different.load_state_dict(old_form(SparseLinear(5, 6, topology=edges(0))))
    st.io.adopt(different, old_form(SparseLinear(5, 6, topology=edges(0))))
    assert different.topology.digest == edges(0).digest
    del (mean := averaged([old_form(model) for _ in range(3)]))["0.inputs"], mean["0.outputs"]  # bytes that wrap around
    other.load_state_dict(mean)
    with pytest.raises(RuntimeError, match="Leave crow, col, shape and digest out"):
        other.load_state_dict({**old_form(model), "2.digest": torch.zeros(32, dtype=torch.uint8)})


def test_files_of_version_0_1_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, model = tmp_path / "model.safetensors", network()
    optimizer = adam(model)
    train(model, optimizer)
    with monkeypatch.context() as patched:
        state = old_form(model)
        patched.setattr(model, "state_dict", lambda **_: state)
        st.io.save(path, model, optimizer)
    for seed, topology in ((0, "strict"), (3, "adopt")):
        other = network(seed)
        resumed = adam(other)
        st.io.load(path, other, resumed, topology=topology)
        assert identical(other.state_dict(), model.state_dict())
        assert identical(resumed.state_dict(), optimizer.state_dict())


# ---- replace_edges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topology", "values", "error", "message"),
    [
        (None, torch.ones(12), TypeError, "expected a Topology, got NoneType"),
        (torch.ones(6, 5), torch.ones(12), TypeError, "expected a Topology, got Tensor"),
        (edges(0, (4, 4)), torch.ones(6), ValueError, r"shape \(out, in\) = \(6, 5\), got \(4, 4\)"),
        (edges(1), None, TypeError, "expected values to be a strided tensor of real numbers, got NoneType"),
        (edges(1), torch.ones(12).to_sparse(), TypeError, "got torch.float32, torch.sparse_coo"),
        (edges(1), torch.ones(12, dtype=torch.complex64), TypeError, "got torch.complex64"),
        (edges(1), torch.ones(11), ValueError, r"shape \(12,\), got \(11,\)"),
        (edges(1), torch.ones(12, 1), ValueError, r"shape \(12,\), got \(12, 1\)"),
        (edges(1), torch.ones(12, device="meta"), ValueError, "got a meta tensor"),
        (edges(1), torch.full((12,), -1e300, dtype=torch.float64), ValueError, "torch.float32 can hold.* got -1e"),
        (edges(1), quantized(torch.ones(12)), TypeError, "got torch.qint8"),
    ],
)
def test_replace_edges_takes_what_fits(topology: Any, values: Any, error: type[Exception], message: str) -> None:
    encoder = SparseLinear(5, 6, topology=edges(0))
    delta = st.nn.SparseDeltaLinear(nn.Linear(5, 6), edges(0))
    for layer in (encoder, encoder.transposed(), delta):
        before, old = snapshot(layer), layer.topology
        with pytest.raises(error, match=f"{type(layer).__name__}.replace_edges: .*{message}"):
            layer.replace_edges(topology, values)
        assert identical(snapshot(layer), before)
        assert layer.topology is old


def test_replaced_values_are_copies_and_a_decoder_follows() -> None:
    encoder, values = SparseLinear(5, 6, topology=edges(0)), torch.randn(12)
    decoder = encoder.transposed(bias=False)
    encoder.replace_edges(edges(1), values)
    assert encoder.values.data_ptr() != values.data_ptr()
    x = torch.randn(3, 6)
    torch.testing.assert_close(decoder(x), x @ encoder.to_dense().weight)


def test_a_mean_of_masks_is_a_mask() -> None:
    layers = [st.nn.MaskedLinear(5, 6, topology=edges(0)) for _ in range(3)]
    state = weighted([layer.state_dict() for layer in layers])
    layers[0].load_state_dict(state)
    assert layers[0].topology.digest == edges(0).digest
    mixed = averaged([layers[0].state_dict(), st.nn.MaskedLinear(5, 6, topology=edges(1)).state_dict()])
    with pytest.raises(RuntimeError, match="expected a mask of zeros and ones"):
        layers[0].load_state_dict(mixed)


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def test_a_state_holds_tensors_alone() -> None:
    """As safetensors and averages expect."""
    assert all(map(is_tensor, named().state_dict().values()))
