"""Checkpoints: training resumes bitwise, and a crash leaves the old file."""

import math
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import OPTIMIZERS, Evolver, adam, edges, identical, network, snapshot, train
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.io import archive, load, save, whole_file
from sparsetrain.nn import SparseLinear

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# ---- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bitwise(path: Path, name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    save(path, model, optimizer)
    train(model, optimizer)
    other = network()
    resumed = OPTIMIZERS[name](other.parameters())
    load(path, other, resumed)
    train(other, resumed)
    assert identical(other.state_dict(), model.state_dict())
    assert identical(resumed.state_dict(), optimizer.state_dict())


def test_lbfgs(path: Path) -> None:
    def run(model: nn.Module, optimizer: torch.optim.LBFGS) -> None:
        x = torch.ones(8, 5).cumsum(0)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - 1).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)

    model, other = (SparseLinear(5, 6, topology=edges(0)) for _ in range(2))
    optimizer, resumed = (torch.optim.LBFGS(m.parameters(), lr=0.1, max_iter=4) for m in (model, other))
    run(model, optimizer)
    save(path, model, optimizer)
    run(model, optimizer)
    load(path, other, resumed)
    run(other, resumed)
    assert identical(other.state_dict(), model.state_dict())


SCRIPT = """
import sys, torch, sparsetrain
sys.path.insert(0, "tests")
import checkpoints
torch.manual_seed(99)  # nothing may depend on how this process starts
for kind in ("Adam", "SGD"):
    path = f"{sys.argv[1]}/{kind}"
    model, evolver = checkpoints.network(), checkpoints.Evolver(seed=5)
    optimizer = checkpoints.OPTIMIZERS[kind](model.parameters())
    sparsetrain.io.load(path, model, optimizer, evolver)
    checkpoints.train(model, optimizer)
    evolver.step(model)
    sparsetrain.io.save(path, model, optimizer, evolver)
"""


def test_training_goes_on_bitwise_in_a_new_process(tmp_path: Path) -> None:
    uninterrupted = {}
    for kind in ("Adam", "SGD"):
        model, evolver = network(), Evolver()
        optimizer = OPTIMIZERS[kind](model.parameters())
        train(model, optimizer)
        evolver.step(model)
        save(tmp_path / kind, model, optimizer, evolver)
        train(model, optimizer)
        evolver.step(model)
        uninterrupted[kind] = model, optimizer, evolver
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    for kind, (model, optimizer, evolver) in uninterrupted.items():
        other, evolved = network(), Evolver(seed=3)
        resumed = OPTIMIZERS[kind](other.parameters())
        load(tmp_path / kind, other, resumed, evolved)
        assert identical(other.state_dict(), model.state_dict())
        assert identical(resumed.state_dict(), optimizer.state_dict())
        assert identical(evolved.state_dict(), evolver.state_dict())
        assert evolved.step(other) == evolver.step(model)  # the generators agree from here on


def test_everything_a_state_is_made_of(path: Path) -> None:
    shared = torch.arange(6.0)
    content = {
        "part": {
            "tensors": [
                shared,
                torch.tensor(3),
                torch.tensor([True]),
                torch.zeros(0, 3),
                torch.ones(2, dtype=torch.bfloat16),
            ],
            "views": [shared, shared[1:4], shared.view(2, 3).t(), torch.ones(1).expand(4)],
            "numbers": [0, -1, 2**70, 0.1, 1e-320, -0.0, 1e22, math.inf, -math.inf, math.nan, True, False, None],
            "betas": (0.9, 0.999),
            "nested": ([], (), {}, ({"a": (1,)},)),
            "text": ["", "ü", "\ud800", '{"tensor": "x"}'],
            0: {"tensor": "not one"},
            "0": {"dict": []},
            (1, 2): 1.5,
            None: {True: False},
        }
    }
    archive.write("here", path, content)
    back = archive.read("here", path)
    assert identical(back, content)
    assert math.copysign(1, back["part"]["numbers"][5]) == -1
    assert back["part"]["tensors"][0] is back["part"]["views"][0]  # one tensor is still one
    back["part"]["views"][1].zero_()
    assert back["part"]["tensors"][0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]  # two are two


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (object(), "object at model/x"),
        ({1, 2}, "set at model/x"),
        (torch.device("cpu"), "device at model/x"),
        ([0, {"y": print}], "builtin_function_or_method at model/x/1/y"),
        (torch.ones(2, device="meta"), "a meta tensor at model/x"),
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo at model/x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_not_be_saved(path: Path, value: Any, found: str) -> None:
    path.write_text("old")
    with pytest.raises(TypeError, match=f"io.save: expected .*{re.escape(found)}"):
        archive.write("io.save", path, {"model": {"x": value}})
    assert path.read_text() == "old"


class WithState(nn.Module):
    _version = 3

    def __init__(self) -> None:
        super().__init__()
        self.seen: Any = None

    def get_extra_state(self) -> Any:
        return {"seen": self.seen}

    def set_extra_state(self, state: Any) -> None:
        self.seen = state["seen"]

    def _load_from_state_dict(self, state: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        self.loaded_version = local_metadata["version"]
        super()._load_from_state_dict(state, prefix, local_metadata, *rest)


def test_extra_state_and_versions_of_modules(path: Path) -> None:
    model, other = (nn.Sequential(WithState(), nn.BatchNorm1d(3)) for _ in range(2))
    model[0].seen = (1, torch.ones(2))
    model[1](torch.randn(2, 3))
    save(path, model)
    load(path, other)
    assert identical(other[0].seen, (1, torch.ones(2)))
    assert other[1].running_mean.equal(model[1].running_mean)
    assert other[1].num_batches_tracked == 1
    assert other[0].loaded_version == 3


def test_tied_parameters_are_stored_once(path: Path) -> None:
    def tied() -> nn.Sequential:
        encoder = SparseLinear(5, 6, topology=edges(0))
        return nn.Sequential(encoder, encoder.transposed())

    model, other = tied(), tied()
    save(path, model, adam(model))
    stored = load_file(path)
    once = ["model/0._extra_state", "model/0.values"]
    assert sorted(key for key in stored if key.endswith(("values", "_extra_state"))) == once
    load(path, other)
    assert identical(other.state_dict(), model.state_dict())
    assert other[0].values is other[1].values
    st.init.zeros_(other[0])
    assert model[0].values.count_nonzero() == model[0].topology.nnz  # nothing is shared with what was saved
    apart = nn.Sequential(SparseLinear(5, 6, topology=edges(0)), SparseLinear(5, 6, topology=edges(0)).transposed())
    load(path, apart)
    assert apart[0].values.equal(apart[1].values)
    st.init.normal_(apart[0])
    save(path, apart)
    before = snapshot(other)
    with pytest.raises(ValueError, match=r"expected 0\.values and 1\.values to be tied, they differ in the checkpoint"):
        load(path, other)
    assert identical(snapshot(other), before)


def test_a_tied_pair_adopts_edges(path: Path) -> None:
    models = []
    for seed, density in ((0, 0.4), (5, 0.2)):
        encoder = SparseLinear(5, 6, topology=edges(seed, density=density))
        models.append(nn.Sequential(encoder, encoder.transposed()))
    save(path, models[1])
    load(path, models[0], topology="adopt")
    assert models[0][0].values is models[0][1].values
    assert models[0][0].topology is models[0][1].topology
    x = torch.randn(3, 5)
    assert models[0](x).equal(models[1](x))


def test_names_of_nodes_come_along(path: Path) -> None:
    one = st.Topology.from_edges([("a", "y"), ("b", "z")])
    other = st.Topology.from_edges([("c", "y"), ("c", "z"), ("d", "z")])
    model, target = SparseLinear(2, 2, topology=one), SparseLinear(2, 2, topology=other)
    save(path, model)
    load(path, target, topology="adopt")
    assert (target.topology.inputs, target.topology.outputs) == (("a", "b"), ("y", "z"))
    load(path, SparseLinear(2, 2, topology=st.Topology.from_mask(torch.eye(2))))  # names are no edges


def test_edges_drawn_on_the_meta_device_stand_for_those_of_the_file(path: Path) -> None:
    model, evolver = network(0), Evolver()
    evolver.steps = 13  # its load_state_dict refuses that
    save(path, model, None, evolver)
    with torch.device("meta"):
        other = nn.Sequential(
            SparseLinear(5, 6, density=0.4), nn.BatchNorm1d(6), nn.Tanh(), SparseLinear(6, 6, density=0.7),
            nn.Linear(6, 2),
        )  # fmt: skip
    for refused in (load, lambda path, other: st.io.adopt(other, model.state_dict())):
        with pytest.raises(ValueError, match=r"0\.values is on the meta device, where nothing can be loaded\. Call"):
            refused(path, other)
    other.to_empty(device="cpu")
    with pytest.raises(KeyError, match="unlucky"):
        load(path, other, None, Evolver())
    load(path, other)
    assert identical(other.state_dict(), model.state_dict())


def test_adopted_edges_take_optimizer_and_values(path: Path) -> None:
    model, other = network(0), network(3, density=0.7)
    optimizer, resumed = adam(model), adam(other)
    train(model, optimizer)
    train(other, resumed, 1)
    parameters = list(other.parameters())
    save(path, model, optimizer)
    load(path, other, resumed, topology="adopt")
    assert all(map(lambda a, b: a is b, other.parameters(), parameters))
    assert other[0].topology.digest == model[0].topology.digest
    assert identical(other.state_dict(), model.state_dict())
    assert identical(resumed.state_dict(), optimizer.state_dict())
    train(model, optimizer)
    train(other, resumed)
    assert identical(other.state_dict(), model.state_dict())


def test_parts_that_are_not_asked_for(path: Path) -> None:
    model, other = network(), network()
    save(path, model, adam(model), Evolver())
    load(path, other)
    assert identical(other.state_dict(), model.state_dict())


def test_other_tools_read_it(path: Path) -> None:
    model = network()
    save(path, model)
    stored = load_file(path)
    assert {f"model/{key}" for key in model.state_dict()} == stored.keys()
    assert stored["model/0.values"].equal(model[0].values)
    with safe_open(path, "pt") as file:
        assert (file.metadata()["format"], file.metadata()["version"]) == ("sparsetrain", "1")


# ---- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["save_file", "_flush"])
def test_a_crash_while_writing_leaves_the_old_file(path: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    save(path, model)
    before = path.read_bytes()

    def crash(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(archive if broken == "save_file" else whole_file, broken, crash)
    with pytest.raises(OSError, match="no space left"):
        save(path, network(3))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    load(path, model)


def test_the_file_is_on_the_disk_before_it_gets_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    flush, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("flush"), flush(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))[1])
    save(path, network())
    assert events == ["flush", "rename", "flush"]


def test_permissions_and_links(path: Path) -> None:
    link = path.with_name("latest")
    link.symlink_to(path.name)
    mask = os.umask(0o027)
    try:
        save(link, network())
    finally:
        os.umask(mask)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    save(str(link), network())
    with pytest.raises(FileNotFoundError, match=r"io\.save: expected a file in a folder that exists"):
        save(path.parent / "nowhere" / "model.safetensors", network())
