"""Checkpoints: training resumes bitwise, and a file that does not fit changes nothing."""

import copy
import json
import math
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sparsetrain as st
from sparsetrain.io import archive, load, save
from sparsetrain.nn import MaskedLinear, SparseLinear

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def edges(seed: int, shape: tuple[int, int] = (6, 5), density: float = 0.4) -> st.Topology:
    return st.patterns.uniform(shape, density, torch.Generator().manual_seed(seed))


def network(seed: int = 0, density: float = 0.4) -> nn.Sequential:
    """Two sparse layers, batch norm and a dense layer; the edges follow from the seed."""
    return nn.Sequential(
        SparseLinear(5, 6, topology=edges(seed, (6, 5), density)), nn.BatchNorm1d(6), nn.Tanh(),
        SparseLinear(6, 6, topology=edges(seed + 1, (6, 6), density)), nn.Linear(6, 2),
    )  # fmt: skip


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    generator = torch.Generator().manual_seed(11)
    for _ in range(steps):
        x = torch.randn(8, 5, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


class Evolver:
    """What changes topology, as far as a checkpoint is concerned: steps, a generator, scores of edges."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self.scores: dict[str, Any] = {}

    def step(self, model: nn.Sequential) -> float:
        self.steps += 1
        self.scores = {"0": {"age": torch.rand(model[0].topology.nnz, generator=self.generator)}, 7: [1, (2.5, None)]}
        return float(torch.rand((), generator=self.generator))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "steps": self.steps, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["steps"] == 13:
            raise KeyError("an unlucky number")
        self.generator.set_state(state["generator"])
        self.steps, self.scores = state["steps"], state["scores"]


def identical(one: Any, other: Any) -> bool:
    """Equal in type and to the last bit, all the way down."""
    if type(one) is not type(other) and not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    if isinstance(one, Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.nan_to_num(7.5).equal(other.nan_to_num(7.5))
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other or (one != one and other != other)


def snapshot(*parts: Any) -> list[Any]:
    """Everything that a refused load must leave alone."""
    parts = tuple(part for part in parts if part is not None)
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    return [
        copy.deepcopy([dict(part.state_dict()) for part in parts]),
        [module.topology for module in modules if isinstance(module, SparseLinear)],
        [
            (id(p), p.data_ptr(), None if p.grad is None else p.grad.clone())
            for module in modules
            for p in module.parameters()
        ],
    ]


# ---- what comes back ---------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1 / 3, betas=(0.8, 0.99), amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), weight_decay=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01, etas=(0.4, 1.3), step_sizes=(1e-6, math.inf)),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "ASGD": lambda p: torch.optim.ASGD(p),
}


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
import sys, torch
sys.path.insert(0, "tests")
import test_io
torch.manual_seed(99)  # nothing may depend on how this process starts
for kind in ("Adam", "SGD"):
    path = f"{sys.argv[1]}/{kind}"
    model, evolver = test_io.network(), test_io.Evolver(seed=5)
    optimizer = test_io.OPTIMIZERS[kind](model.parameters())
    test_io.load(path, model, optimizer, evolver)
    test_io.train(model, optimizer)
    evolver.step(model)
    test_io.save(path, model, optimizer, evolver)
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
    once = ["model/0.col", "model/0.crow", "model/0.values"]
    assert sorted(key for key in stored if key.endswith(("values", "crow", "col"))) == once
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

    monkeypatch.setattr(archive, broken, crash)
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


# ---- files that do not fit ---------------------------------------------------------------------------------------------


def check_refused(path: Path, error: type[Exception], message: str, *parts: Any, **options: Any) -> None:
    before = snapshot(*parts)
    with pytest.raises(error, match=re.escape(message)):
        load(path, *parts, **options)
    assert identical(snapshot(*parts), before)


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], Any]) -> None:
    """Change the tensors and the header of a file."""
    with safe_open(path, "pt") as file:
        header = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, header)


def test_missing_file(path: Path) -> None:
    check_refused(path, FileNotFoundError, f"io.load: expected a checkpoint, there is no file '{path}'.", network())
    check_refused(path.parent, FileNotFoundError, "there is no file", network())


@pytest.mark.parametrize("left", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_cut_off_in_the_middle(path: Path, left: float) -> None:
    model = network()
    optimizer = adam(model)
    train(model, optimizer)
    save(path, model, optimizer)
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data))])
    check_refused(path, ValueError, "is no whole safetensors file", model, optimizer)


def test_not_a_checkpoint(path: Path) -> None:
    path.write_bytes(os.urandom(1000))
    check_refused(path, ValueError, "is no whole safetensors file", network())
    torch.save(network().state_dict(), path)
    check_refused(path, ValueError, "is no whole safetensors file", network())
    save_file(network().state_dict(), path)
    check_refused(path, ValueError, "expected a checkpoint written by io.save", network())


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", '{"model": {"tensor": "nowhere"}}', '{"model": {"dict": [[{"dict": []}, 1]]}}', '{"model": {}}',
        '{"model": {"call": "os.system"}}', '{"model": ' + "[" * 10**5 + "]" * 10**5 + "}",
    ],
    ids=lambda content: content[:30],
)  # fmt: skip
def test_damaged_contents(path: Path, content: str) -> None:
    save(path, network())
    rewritten(path, lambda _, header: header.update(content=content))
    check_refused(path, ValueError, "are damaged", network())


def test_another_version(path: Path) -> None:
    save(path, network())
    rewritten(path, lambda _, header: header.update(version="2"))
    check_refused(path, ValueError, "expected a checkpoint of version 1, ", network())


def test_keys_shapes_and_dtypes(path: Path) -> None:
    model = network()
    save(path, model)
    shorter, longer = model[:4], nn.Sequential(*model, nn.Linear(2, 2))
    check_refused(path, ValueError, "of this Sequential, it has also 4.weight, 4.bias.", shorter)
    check_refused(path, ValueError, "of this Sequential, it lacks 5.weight, 5.bias.", longer)
    wider = nn.Sequential(*network()[:4], nn.Linear(6, 3))
    check_refused(path, ValueError, "io.load: expected 4.weight of shape (3, 6), the checkpoint has (2, 6).", wider)
    check_refused(
        path, TypeError, "io.load: expected 0.values in torch.float64, the checkpoint has torch.float32.",
        network().double(),
    )  # fmt: skip
    dense = st.convert.densify(network())
    check_refused(path, ValueError, "it lacks 0.weight, 3.weight and has also 0.values, 0.crow", dense)


def test_another_topology(path: Path) -> None:
    model, other = network(0), network(3)
    save(path, model)
    check_refused(
        path, ValueError,
        "io.load: SparseLinear 0: expected the same 12 edges, the checkpoint has other edges (12).", other,
    )  # fmt: skip
    model, other = SparseLinear(2, 3, density=0.4), SparseLinear(2, 3, density=0.5)
    save(path, model)
    check_refused(path, ValueError, "io.load: SparseLinear (the model itself): expected the same 3 edges", other)
    narrow = SparseLinear(3, 3, density=0.5)
    check_refused(
        path, ValueError, "expected edges of shape (3, 3), the checkpoint has (3, 2).", narrow, topology="adopt"
    )
    check_refused(path, ValueError, "expected topology to be 'strict' or 'adopt', got 'any'.", narrow, topology="any")


def test_damaged_edges_are_not_adopted(path: Path) -> None:
    other = SparseLinear(5, 6, topology=edges(1))

    def stored(**tensors: Tensor) -> None:
        save(path, SparseLinear(5, 6, topology=edges(0)))
        rewritten(path, lambda all_tensors, _: all_tensors.update({f"model/{k}": v for k, v in tensors.items()}))

    col = edges(0).col
    for tensors, fault in (
        ({"col": col + 5}, "edges are damaged. Topology: expected col from 0 to 4"),
        ({"col": col[:-1].clone()}, "edges are damaged. Topology: expected crow to run from 0 to nnz = 11"),
        ({"col": edges(2).col, "crow": edges(2).crow}, "edges are damaged: Topology(shape=(6, 5), nnz=12"),
        ({"values": torch.ones(11)}, "edges are damaged: Topology(shape=(6, 5), nnz=12, density=0.4) with 11 values."),
    ):
        stored(**tensors)
        check_refused(path, ValueError, f"io.load: SparseLinear (the model itself): the stored {fault}", other,
                      topology="adopt")  # fmt: skip


def test_computed_values_do_not_adopt(path: Path) -> None:
    layers = [SparseLinear(5, 6, topology=edges(seed)) for seed in (0, 0, 1)]
    for layer in layers:
        parametrize.register_parametrization(layer, "values", nn.Softplus(), unsafe=True)
    save(path, layers[0])
    load(path, layers[1])
    assert identical(layers[1].state_dict(), layers[0].state_dict())
    check_refused(path, ValueError, "can't adopt edges, as its values are computed from others", layers[2],
                  topology="adopt")  # fmt: skip


def test_optimizers_that_do_not_fit(path: Path) -> None:
    model = network()
    save(path, model)
    check_refused(path, ValueError, "expected a checkpoint with an optimizer, it was saved without", model, adam(model))
    train(model, optimizer := adam(model))
    save(path, model, optimizer)
    check_refused(
        path, ValueError, "expected an optimizer of class SGD, the checkpoint has Adam.",
        model, torch.optim.SGD(model.parameters(), lr=0.1),
    )  # fmt: skip
    check_refused(
        path, ValueError, "expected parameter groups of sizes [2], the checkpoint's optimizer has [8].",
        model, torch.optim.Adam(model[0].parameters()),
    )  # fmt: skip
    groups = [{"params": model[:3].parameters()}, {"params": model[3:].parameters(), "lr": 0.1}]
    check_refused(
        path, ValueError, "expected parameter groups of sizes [4, 4], the checkpoint's", model, torch.optim.Adam(groups)
    )
    check_refused(
        path, ValueError,
        "expected parameter 0 of group 0 to be 4.bias of shape (2,), the checkpoint's optimizer has 0.values of shape (12,)",
        model, torch.optim.Adam(list(model.parameters())[::-1]),
    )  # fmt: skip


class OtherEvolver(Evolver):
    pass


def test_evolvers_that_do_not_fit(path: Path) -> None:
    model = network()
    save(path, model)
    check_refused(path, ValueError, "expected a checkpoint with an evolver", model, None, Evolver())
    save(path, model, None, OtherEvolver())
    check_refused(path, ValueError, "expected an evolver of class Evolver, the checkpoint has OtherEvolver.", model, None,
                  Evolver())  # fmt: skip


@pytest.mark.parametrize("topology", ["strict", "adopt"])
def test_an_error_at_the_very_end_undoes_everything(path: Path, topology: Any) -> None:
    model, evolver = network(0), Evolver()
    optimizer = adam(model)
    train(model, optimizer)
    evolver.steps = 13  # its load_state_dict refuses that
    save(path, model, optimizer, evolver)
    other = network(0) if topology == "strict" else network(3, density=0.7)
    resumed = adam(other)
    train(other, resumed, 1)
    state, groups = resumed.state, resumed.param_groups
    parts = other, resumed, Evolver(seed=3)
    before = [part for part in snapshot(*parts) if part]
    with pytest.raises(KeyError, match="unlucky"):
        load(path, *parts, topology=topology)
    assert identical([part for part in snapshot(*parts) if part], before)
    assert resumed.state is state
    assert resumed.param_groups is groups
    train(other, resumed, 1)


def test_loading_runs_no_code(path: Path) -> None:
    """The header is JSON, and whatever it says, types other than plain ones don't come out of it."""
    save(path, MaskedLinear(3, 2, density=0.5))
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["content"])
    kinds = set(re.findall(r'\{"(\w+)": ', json.dumps(content["model"])))
    assert kinds == {"dict", "tensor"}
    with pytest.raises(ValueError, match="unknown kind"):
        archive.unpacked({"eval": "1"}, {})
