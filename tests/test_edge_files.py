"""What fine-tuning changed, in a file: its size, loading it, and files that do not fit."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from tuned_models import mlp, trained

import sparsetrain as st
from sparsetrain.convert import train_edges


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edges_alone_take_eight_bytes_each(tmp_path: Path, dtype: torch.dtype) -> None:
    pretrained = nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 200)).to(dtype)
    model = train_edges(copy.deepcopy(pretrained), 0.1)
    for layer in model:
        nn.init.normal_(layer.values)  # type: ignore[arg-type]
    st.io.save_edges(tmp_path / "edges", model)
    edges = sum(layer.topology.nnz for layer in model)  # type: ignore[union-attr,misc]
    assert edges == 20_000
    assert os.path.getsize(tmp_path / "edges") <= 8 * edges + 1024
    x = torch.randn(4, 300).to(dtype)
    fresh = st.io.load_edges(tmp_path / "edges", pretrained)
    assert torch.equal(fresh(x), model(x))
    assert [name for name, p in fresh.named_parameters() if p.requires_grad] == ["0.values", "1.values"]


def test_edges_load_into_layers_that_have_others(tmp_path: Path) -> None:
    dense = mlp()
    model = trained(train_edges(copy.deepcopy(dense), 0.1))
    st.io.save_edges(tmp_path / "edges", model)
    other = train_edges(dense, 0.2)
    values = other[0].values
    st.io.load_edges(tmp_path / "edges", other)
    assert other[0].values is values
    x = torch.randn(4, 20)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("as_delta", [False, True])
def test_edges_are_refused_beside_other_weights(tmp_path: Path, as_delta: bool) -> None:
    dense = mlp()
    model = trained(train_edges(copy.deepcopy(dense), 0.1))
    st.io.save_edges(tmp_path / "edges", model)
    other = copy.deepcopy(dense)
    with torch.no_grad():
        other[2].weight[3, 4] += 1e-6
    if as_delta:
        other = train_edges(other, 0.2)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(
        ValueError, match=r"^io\.load_edges: expected the weight of '2' that .* got other numbers\. Load"
    ):
        st.io.load_edges(tmp_path / "edges", other)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), before.values(), strict=True))
    other = st.io.load_edges(tmp_path / "edges", other, check_base=False)
    assert other[2].values.equal(model[2].values)
    half = copy.deepcopy(dense).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"'0' .* got bfloat16, the edges were trained beside float32"):
        st.io.load_edges(tmp_path / "edges", half)


@pytest.mark.parametrize("check_base", [False, True])
def test_a_model_without_memory_takes_no_edges(tmp_path: Path, check_base: bool) -> None:
    st.io.save_edges(tmp_path / "edges", train_edges(mlp(), 0.1))
    with pytest.raises(ValueError, match="'0' is on the meta device, where nothing can be loaded"):
        st.io.load_edges(tmp_path / "edges", mlp().to("meta"), check_base=check_base)


def test_files_of_before_load_without_a_checksum(tmp_path: Path) -> None:
    entry = {"shape": [30, 20], "position": torch.tensor([2, 3]), "values": torch.ones(2)}
    st.io.archive.write("test", tmp_path / "edges", {"edges": {"": entry}})
    assert st.io.load_edges(tmp_path / "edges", nn.Linear(20, 30)).topology.nnz == 2


def test_what_trains_beside_the_edges_is_named_when_they_are_saved(tmp_path: Path) -> None:
    model = train_edges(mlp(), 0.1, skip="2")
    with pytest.warns(UserWarning, match=r"'2.weight', '2.bias' train too and are not in the file"):
        st.io.save_edges(tmp_path / "edges", model)


def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    model = train_edges(mlp(), 0.1)
    st.io.save(tmp_path / "checkpoint", model)
    st.io.save_edges(tmp_path / "edges", model)
    with pytest.raises(ValueError, match=r"io.load_edges: .* is a checkpoint. Use io.load"):
        st.io.load_edges(tmp_path / "checkpoint", model)
    with pytest.raises(ValueError, match=r"io.load: .* has edges alone. Use io.load_edges"):
        st.io.load(tmp_path / "edges", model)
    with pytest.raises(FileNotFoundError, match=r"io.load_edges"):
        st.io.load_edges(tmp_path / "nothing", model)


def test_edges_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    st.io.save_edges(tmp_path / "edges", train_edges(mlp(), 0.1))
    narrower = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 9))
    with pytest.raises(ValueError, match=r"expected edges of shape \(9, 30\) for '2', the file has \(10, 30\)"):
        st.io.load_edges(tmp_path / "edges", narrower)
    assert type(narrower[0]) is nn.Linear
    with pytest.raises(ValueError, match="expected a model with a layer '2', there is none"):
        st.io.load_edges(tmp_path / "edges", nn.Sequential(nn.Linear(20, 30)))
    with pytest.raises(TypeError, match=r"'2': expected an nn.Linear, got ReLU"):
        st.io.load_edges(tmp_path / "edges", nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.ReLU()))
    more = nn.Sequential(*train_edges(mlp(), 0.1), train_edges(nn.Linear(10, 4), 0.5))
    with pytest.raises(ValueError, match="expected edges for '3', the file has none"):
        st.io.load_edges(tmp_path / "edges", more)
    with pytest.raises(ValueError, match=r"io.save_edges: expected a model with SparseDeltaLinear layers"):
        st.io.save_edges(tmp_path / "other", mlp())


@pytest.mark.parametrize("position", [[3, 2], [2, 2], [-1, 2], [2, 600]])
def test_damaged_edges_are_refused(tmp_path: Path, position: list[int]) -> None:
    entry = {"shape": [30, 20], "position": torch.tensor(position), "values": torch.ones(2)}
    st.io.archive.write("test", tmp_path / "edges", {"edges": {"": entry}})
    with pytest.raises(ValueError, match="the edges of '' in the file are damaged"):
        st.io.load_edges(tmp_path / "edges", nn.Linear(20, 30))


GOOD = {"shape": [30, 20], "position": torch.tensor([2, 3]), "values": torch.ones(2)}


@pytest.mark.parametrize(
    "edges",
    [
        {}, [], {"": 3}, {"": {}}, {1: GOOD}, {"": {**GOOD, "more": 1}}, {"": {**GOOD, "base": 7}}, {"": {**GOOD, "shape": 30}},
        {"": {**GOOD, "shape": ["30", 20]}}, {"": {**GOOD, "position": [2, 3]}}, {"": {**GOOD, "values": None}},
        {"": {**GOOD, "position": torch.ones(2)}}, {"": {**GOOD, "position": torch.ones(2, 1).long()}},
        {"": {**GOOD, "values": torch.ones(2, dtype=torch.int64)}}, {"": {**GOOD, "values": torch.ones(2, 1)}},
    ],
    ids=repr,
)  # fmt: skip
def test_files_without_edges_or_of_another_form_are_refused(tmp_path: Path, edges: object) -> None:
    st.io.archive.write("test", tmp_path / "edges", {"edges": edges})
    linear = nn.Linear(20, 30)
    with pytest.raises(ValueError, match=r"^io\.load_edges: .*(damaged|expected a file with edges)"):
        st.io.load_edges(tmp_path / "edges", linear)
    assert linear.weight.requires_grad
