"""State dicts of other edges: adopted by a model and its optimizer, renamed by hooks, waited for on the meta device."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import adam, edges, identical, network, quantized, snapshot, train
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import SparseLinear

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

    def rename(module: Any, given: dict[str, Any], prefix: str, *_: Any) -> None:
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
