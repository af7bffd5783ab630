"""State dicts in other hands: averaged, cast, of version 0.1, of other edges, renamed by hooks."""

import copy
import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import adam, edges, identical, network, snapshot, train
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


def quantized(numbers: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a future release of torch will not have them
        return torch.quantize_per_tensor(numbers, 0.1, 0, torch.qint8)


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


# ---- other edges -------------------------------------------------------------------------------------------------------


def test_other_edges_are_adopted_from_a_file_of_torch_save() -> None:
    model, other, file = network(0), network(3, density=0.7), io.BytesIO()
    optimizer, resumed = adam(model), adam(other)
    train(model, optimizer)
    train(other, resumed, 1)
    parameters = list(other.parameters())
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    with pytest.raises(RuntimeError, match=re.escape("sparsetrain.io.adopt(model, state_dict)")):
        other.load_state_dict(checkpoint["model"])
    st.io.adopt(other, checkpoint["model"], resumed)
    resumed.load_state_dict(checkpoint["optimizer"])
    assert all(map(lambda a, b: a is b, other.parameters(), parameters))
    assert identical(other.state_dict(), model.state_dict())
    train(model, optimizer)
    train(other, resumed)
    assert identical(other.state_dict(), model.state_dict())


def test_what_an_optimizer_holds_for_edges_that_stay_goes_along() -> None:
    old, new = edges(1, density=0.5), edges(0)
    other = nn.Sequential(SparseLinear(5, 6, topology=old), nn.Linear(6, 2))
    optimizer = st.optim.AdamW(other.parameters(), lr=0.1, unused="dense")
    other(torch.randn(2, 5)).sum().backward()
    optimizer.step()
    kept, moments = optimizer.state[other[1].weight], optimizer.state[other[0].values]["exp_avg"].clone()
    st.io.adopt(other, nn.Sequential(SparseLinear(5, 6, topology=new), nn.Linear(6, 2)).state_dict(), optimizer)
    assert optimizer.state[other[1].weight] is kept
    now = optimizer.state[other[0].values]["exp_avg"]
    whole = torch.zeros(6, 5)
    whole[old.row.long(), old.col.long()] = moments
    assert torch.equal(now, whole[new.row.long(), new.col.long()])
    assert 0 < int((now != 0).sum()) < 12
    other(torch.ones(2, 5)).sum().backward()
    optimizer.step()


def test_what_can_not_be_adopted_changes_nothing() -> None:
    other, model = network(3), network(0)
    state = model.state_dict()
    optimizer = st.optim.SGD([{"params": [other[0].values], "l1": torch.ones(12)}], lr=0.1)
    before = snapshot(other)
    for given, with_optimizer, error, message in (
        ({**state, "more": torch.ones(1)}, None, ValueError, "it has also more"),
        ({**state, "0.values": torch.ones(11)}, None, ValueError, "with 11 values"),
        ({**state, "4.weight": torch.ones(3, 6)}, None, ValueError, r"expected 4\.weight of shape \(2, 6\)"),
        (state, optimizer, ValueError, "an l1 for each value does not say what holds for newborn edges"),
        (state, model, TypeError, "expected a torch optimizer or None, got Sequential"),
        ([], None, TypeError, "expected a state dict, got list"),
    ):
        with pytest.raises(error, match=f"io.adopt: .*{message}"):
            st.io.adopt(other, given, with_optimizer)  # type: ignore[arg-type]
        assert identical(snapshot(other), before)


# ---- hooks, meta -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])  # with the same edges, and with others
@pytest.mark.parametrize("key", ["0.values", "4.weight"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (Tensor.tolist, (TypeError, ValueError), "to be a (Tensor|Parameter), got list"),
        (lambda numbers: numbers.to(torch.complex64), TypeError, "to hold real numbers, got torch.complex64"),
        (lambda numbers: numbers.to("meta"), TypeError, "to be a strided tensor, got a meta one"),
        (Tensor.to_sparse, TypeError, "to be a strided tensor, got a sparse_coo one"),
        (quantized, TypeError, "to be a strided tensor, got a quantized one"),
    ],
)
def test_what_is_no_tensor_of_real_numbers_is_not_adopted(
    seed: int, key: str, change: Any, error: Any, message: str
) -> None:
    model, state = network(0), network(seed).state_dict()
    before = snapshot(model)
    with pytest.raises(error, match=rf"^io\.adopt: .*{message}"):
        st.io.adopt(model, {**state, key: change(state[key])})
    assert identical(snapshot(model), before)


def test_edges_and_dense_weights_are_told_apart(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(8, 4))
    sparse = st.convert.sparsify(nn.Sequential(nn.Linear(8, 4)), {"0": 0.5})
    for saved, model, said in (
        (sparse, dense, "make the model sparse before"),
        (dense, sparse, "into the dense model before"),
    ):
        st.io.save(tmp_path / "model.st", saved)
        before = snapshot(model)
        with pytest.raises(ValueError, match=said):
            st.io.load(tmp_path / "model.st", model)
        assert identical(snapshot(model), before)


def test_adopting_into_something_else() -> None:
    model, other = network(0), network(3)
    state, before = other.state_dict(), snapshot(model)
    with pytest.raises(TypeError, match=r"^io\.adopt: expected model to be a torch\.nn\.Module, got str\."):
        st.io.adopt("model", state)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^io\.adopt: expected an optimizer of this Sequential, got one that has none"
    ):
        st.io.adopt(model, state, adam(other))
    with pytest.raises(ValueError, match=r"^io\.adopt: expected a checkpoint of this Sequential, it has also 1\."):
        st.io.adopt(model, {**state, 1: torch.ones(1)})  # type: ignore[dict-item]
    assert identical(snapshot(model), before)


def test_load_pre_hooks_run_before_the_edges_are_compared() -> None:
    layer = SparseLinear(5, 6, topology=edges(0))
    state = {f"old_{key}": tensor for key, tensor in layer.state_dict().items()}
    calls = []

    def rename(module: Any, given: State, prefix: str, *_: Any) -> None:
        calls.append(prefix)
        for key in [key for key in given if key.startswith(prefix + "old_")]:
            given[prefix + key.removeprefix(prefix + "old_")] = given.pop(key)

    for target, refused in ((edges(0), False), (edges(1), True)):
        other = nn.Sequential(SparseLinear(5, 6, topology=target))
        other[0].register_load_state_dict_pre_hook(rename)
        given = {f"0.{key}": tensor for key, tensor in state.items()}
        if refused:
            with pytest.raises(RuntimeError, match="expected the same 12 edges"):
                other.load_state_dict(given)
        else:
            other.load_state_dict(given)
            assert other[0].values.equal(layer.values)
    assert calls == ["0.", "0."]


@pytest.mark.parametrize("density", [0.4, 0.7])
def test_edges_drawn_on_the_meta_device_wait_for_those_of_a_state(density: float) -> None:
    model = network(0)
    state = model.state_dict()
    with torch.device("meta"):
        other = nn.Sequential(
            SparseLinear(5, 6, density=density), nn.BatchNorm1d(6), nn.Tanh(), SparseLinear(6, 6, density=density),
            nn.Linear(6, 2),
        )  # fmt: skip
    other.load_state_dict(state, assign=True)
    assert identical(other.state_dict(), state)
    with pytest.raises(RuntimeError, match="expected the same 12 edges"):
        other.load_state_dict(network(3).state_dict())
    given = SparseLinear(5, 6, topology=edges(1), device="meta")  # chosen, not drawn
    with pytest.raises(RuntimeError, match="expected the same 12 edges"):
        given.load_state_dict(model[0].state_dict(), assign=True)


def test_models_are_sparsified_on_the_meta_device() -> None:
    def dense() -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))

    model = st.convert.sparsify(dense(), 0.4)
    with torch.device("meta"):
        other, delta = st.convert.sparsify(dense(), 0.4), st.convert.train_edges(dense(), density=0.4)
        masked = st.convert.sparsify(dense(), masks={"0": model[0].topology, "2": model[2].topology})
    random = st.convert.sparsify(dense().to("meta"), 0.4, select="random")
    for each in (other, masked, random):
        assert each[0].values.is_meta
        assert each[0].topology.device.type == "cpu"
        each.load_state_dict(model.state_dict(), assign=True)
        assert identical(each.state_dict(), model.state_dict())
    trained = st.convert.train_edges(dense(), density=0.4)
    delta.load_state_dict(trained.state_dict(), assign=True)
    assert identical(delta.state_dict(), trained.state_dict())
    drawn = SparseLinear(5, 6, density=0.4, device="meta").to_empty(device="cpu")
    drawn.reset_parameters()
    assert drawn(torch.ones(2, 5)).isfinite().all()
    with pytest.raises(RuntimeError, match="expected the same 12 edges"):
        drawn.load_state_dict(SparseLinear(5, 6, topology=edges(0)).state_dict())


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
