"""Loading keeps nothing of the file, and makes no copy of what it only copies into the model."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.io import archive


class Remembering(nn.Module):
    """A module of somebody else, which keeps the tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = torch.arange(4.0)

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


class Setting(nn.Module):
    """Another, which sets what it finds in a state, as observers of torch.ao.quantization do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))
        self.linear = nn.Linear(2, 2)

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        self.seen = state[prefix + "seen"]
        super()._load_from_state_dict(state, prefix, *rest)


class Assigning(nn.Linear):
    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        return super().load_state_dict(state, strict, assign=True)


def hooked() -> nn.Module:
    def keep(module: Any, state: Any, prefix: str, *_: Any) -> None:
        module[0].weight.data = state[prefix + "0.weight"]

    model = nn.Sequential(nn.Linear(2, 3))
    model.register_load_state_dict_pre_hook(keep)
    return model


def overwrite(path: Path) -> None:
    """Zeros, in the place of the file's own bytes: what is still mapped sees them."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.write(bytes(size))
        file.flush()
        os.fsync(file.fileno())


@pytest.mark.parametrize("topology", ["strict", "adopt"])
def test_nothing_of_the_file_is_kept(tmp_path: Path, topology: Any) -> None:
    path = tmp_path / "model.safetensors"

    def made() -> Any:
        model = nn.Sequential(st.nn.SparseLinear(30, 20, density=0.2), nn.BatchNorm1d(20), Remembering())
        return model, torch.optim.Adam(model[:2].parameters())

    torch.manual_seed(0)
    model, optimizer = made()
    model[:2](torch.randn(5, 30)).square().sum().backward()
    optimizer.step()
    extra: dict[str, Any] = {"weights": model[0].values, "nested": [torch.ones(3)]}
    st.io.save(path, model, optimizer, extra=extra)
    other, its_optimizer = made()
    if topology == "strict":
        other[0].replace_edges(model[0].topology, torch.zeros_like(model[0].values))
    loaded: dict[str, Any] = {}
    st.io.load(path, other, its_optimizer, topology=topology, extra=loaded)
    overwrite(path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key
    assert other[0].topology.digest == model[0].topology.digest
    assert torch.equal(other[0].topology.col, model[0].topology.col)
    assert torch.equal(loaded["weights"], model[0].values)
    assert torch.equal(loaded["nested"][0], torch.ones(3))
    for ours, theirs in zip(optimizer.state.values(), its_optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_part_that_is_copied_elsewhere_is_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "parts.safetensors"
    archive.write("test", path, {"model": {"a": torch.ones(5), "b": [torch.ones(2)]}, "extra": [torch.ones(7)]})
    content = archive.read("test", path, in_file="model")
    overwrite(path)
    tensors: list[Tensor] = [content["model"]["a"], content["model"]["b"][0], content["extra"][0]]
    assert [tensor.tolist() for tensor in tensors] == [[0.0] * 5, [1.0] * 2, [1.0] * 7]


@pytest.mark.parametrize("made", [Setting, lambda: Assigning(3, 4), hooked], ids=["sets", "assigns", "hooked"])
def test_modules_of_others_may_keep_what_they_are_given(tmp_path: Path, made: Any) -> None:
    path = tmp_path / "model.safetensors"
    model, other = made(), made()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(2.0)
    st.io.save(path, model)
    st.io.load(path, other)
    overwrite(path)
    assert all(bool((tensor == 2).all()) for tensor in other.state_dict().values())
