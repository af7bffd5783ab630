"""Copies and states of optimizers: training goes on from them as if it had not stopped, in a new process to the bit."""

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import identical
from tables import (  # fmt: skip
    DENSE,
    KINDS,
    Mixed,
    apart,
    name_of,
    ours,
    parameter,
    rows_gradient,
    torchs,
    train,
    twin,
)
from torch import nn

import sparsetrain as st
from sparsetrain.nn import LookupTable

ROOT = Path(__file__).parent.parent
ROUNDING = 1e-12  # of float64, after some steps


# ---- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_model_and_optimizer_goes_on_alone(how: Callable[[Any], Any], kind: str, unused: str) -> None:
    options = {"lr": 0.1, "unused": unused, **({"weight_decay": 0} if kind != "AdamW" else {})}
    model = Sparse()
    optimizer = ours(kind, model.parameters(), **options)
    model.train_on(optimizer, range(4))
    other, resumed = how((model, optimizer))
    assert resumed.param_groups[0]["params"][0] is next(other.parameters())
    model.train_on(optimizer, range(4, 8))
    snapshot = copy.deepcopy(optimizer.state_dict())
    other.train_on(resumed, range(4, 8))
    assert identical(dict(other.state_dict()), dict(model.state_dict()))
    assert identical(resumed.state_dict(), optimizer.state_dict())
    assert identical(optimizer.state_dict(), snapshot)
    resumed.add_param_group({"params": [parameter(2)]})
    assert resumed.param_groups[1]["unused"] == unused


@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_the_optimizer_alone_has_parameters_of_its_own(kind: str, unused: str) -> None:
    p = parameter(4, 2)
    optimizer = ours(kind, [p], lr=0.1, unused=unused)
    p.grad = rows_gradient(p, [1, 1, 2])
    optimizer.step()
    other = copy.deepcopy(optimizer)
    (q,) = other.param_groups[0]["params"]
    assert q is not p
    before = p.detach().clone()
    q.grad = rows_gradient(q, [1, 2], seed=1)
    other.step()
    assert p.equal(before)
    p.grad = rows_gradient(p, [1, 2], seed=1)
    optimizer.step()
    assert q.equal(p)


class Sparse(nn.Module):
    """Tables of which each step uses some rows, beside a dense layer; float32."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.table, self.columns, self.dense = LookupTable(12, 3), LookupTable(12, 3, columns=True), nn.Linear(3, 2)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator)

    def train_on(self, optimizer: Any, steps: range) -> None:
        for step in steps:
            ids = torch.randint(12, (4,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            self.dense(self.table(ids) * self.columns(ids).t()).tanh().sum().backward()
            optimizer.step()


# ---- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize(("kind", "options"), DENSE, ids=name_of)
def test_a_state_of_torchs_is_loaded_and_goes_on(kind: str, options: dict[str, Any], unused: str) -> None:
    model = Mixed()
    theirs = torchs(kind, model.parameters(), **options)
    train(model, theirs, range(4), dense=True)
    other = copy.deepcopy(model)
    mine = ours(kind, other.parameters(), lr=0.7, unused=unused)
    mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert mine.param_groups[0]["unused"] == unused
    assert mine.param_groups[0]["lr"] == options["lr"]
    train(model, theirs, range(4, 8), dense=True)
    train(other, mine, range(4, 8))
    assert apart(model, other) < ROUNDING


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_a_state_of_sparse_adam_is_loaded_and_goes_on(kind: str) -> None:
    p, q = parameter(4, 2), parameter(4, 2)
    theirs = torchs("SparseAdam", [q], lr=0.1, eps=1e-20)  # which adds eps before the correction
    mine = ours(kind, [p], lr=0.7, eps=1e-3, weight_decay=0.1)
    for step, ids in enumerate(([0], [0, 1], [2, 2], [3], [0, 3], [1, 1])):
        p.grad, q.grad = rows_gradient(p, ids, seed=step), rows_gradient(q, ids, seed=step)
        theirs.step()
        if step == 2:
            p.data.copy_(q.data)
            mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
        elif step > 2:
            mine.step()
    group = mine.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["bias_correction"]) == (0.1, 0.0, "global")
    assert apart([p], [q]) < 1e-14
    p.grad = torch.ones_like(p)  # torch's own step takes the state as well
    mine.step()
    assert int(mine.state[p]["step"]) == 7
    with pytest.raises(ValueError, match="the state of another optimizer"):
        ours("SGD", [p], lr=0.1).load_state_dict(theirs.state_dict())
    for other in ("NAdam", "RAdam", "Adamax"):  # these have betas, too
        with pytest.raises(ValueError, match=r"expected the state of Adam|of another optimizer"):
            ours("Adam", [p]).load_state_dict(torchs(other, [q]).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_from_before_the_first_step_is_loaded(kind: str) -> None:
    model, other = Mixed(), Mixed()
    mine = ours(kind, other.parameters())
    mine.load_state_dict(torchs(kind, model.parameters()).state_dict())
    train(other, mine, range(2))
    train(model, torchs(kind, model.parameters()), range(2), dense=True)
    assert apart(model, other) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_ours_without_tables_is_loaded_by_torchs(kind: str) -> None:
    p, q = parameter(3, 2), parameter(3, 2)
    mine, theirs = ours(kind, [p]), torchs(kind, [q])
    for step in range(4):
        p.grad = parameter(3, 2, seed=step).detach()
        mine.step()
        if step == 1:
            q.data = p.detach().clone()
            theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
        elif step > 1:
            q.grad = p.grad
            theirs.step()
    assert q.equal(p)


@pytest.mark.parametrize("kind", ["RMSprop", "Adam", "AdamW"])
def test_the_steps_of_rows_survive_as_integers(kind: str) -> None:
    p, q = parameter(3, 2, dtype=torch.float32), parameter(3, 2, dtype=torch.float32)
    mine, resumed = (ours(kind, [each], bias_correction="row") for each in (p, q))
    p.grad = rows_gradient(p, [1])
    mine.step()
    mine.state[p]["row_steps"][1] = 2**24 + 1  # what float32 can't count
    state = mine.state_dict()
    resumed.load_state_dict(state)
    assert resumed.state[q]["row_steps"].tolist() == [0, 2**24 + 1, 0]
    assert resumed.state[q]["row_steps"].dtype is torch.int32
    resumed.state[q]["row_steps"].zero_()
    assert state["state"][0]["row_steps"][1] == 2**24 + 1  # nothing is shared with what was loaded


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
def test_a_loaded_state_of_another_memory_layout_is_stepped(name: str) -> None:
    p = parameter(3, 2)
    mine = ours("Adam", [p])
    p.grad = rows_gradient(p, [0, 1, 2])
    mine.step()
    state = copy.deepcopy(mine.state_dict())
    state["state"][0][name] = state["state"][0][name].t().contiguous().t()
    q = twin(p)
    resumed = ours("Adam", [q])
    resumed.load_state_dict(state)
    for each, optimizer in ((p, mine), (q, resumed)):
        each.grad = rows_gradient(each, [0, 1, 2], seed=1)
        optimizer.step()
    assert q.equal(p)
    assert resumed.state[q][name].equal(mine.state[p][name])


SCRIPT = """
import sys, torch, sparsetrain
sys.path.insert(0, "tests")
import test_optim_state
torch.manual_seed(99)  # nothing may depend on how this process starts
test_optim_state.resume(sys.argv[1])
"""


def trained(kind: str, unused: str) -> tuple[Sparse, Any]:
    model = Sparse()
    options = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    return model, ours(kind, model.parameters(), lr=0.05, unused=unused, **options)


def resume(folder: str) -> None:
    for kind in KINDS:
        for unused in ("frozen", "dense"):
            for how in ("st", "torch"):
                path = f"{folder}/{kind}-{unused}-{how}"
                model, optimizer = trained(kind, unused)
                if how == "st":
                    st.io.load(path, model, optimizer)
                else:
                    content = torch.load(path)
                    model.load_state_dict(content["model"])
                    optimizer.load_state_dict(content["optimizer"])
                model.train_on(optimizer, range(5, 10))
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{path}-resumed")


def test_training_goes_on_bitwise_in_a_new_process(tmp_path: Path) -> None:
    uninterrupted = {}
    for kind in KINDS:
        for unused in ("frozen", "dense"):
            model, optimizer = trained(kind, unused)
            model.train_on(optimizer, range(5))
            st.io.save(tmp_path / f"{kind}-{unused}-st", model, optimizer)
            content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(content, tmp_path / f"{kind}-{unused}-torch")
            model.train_on(optimizer, range(5, 10))
            uninterrupted[f"{kind}-{unused}"] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], check=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    for name, content in uninterrupted.items():
        for how in ("st", "torch"):
            resumed = torch.load(tmp_path / f"{name}-{how}-resumed")
            assert identical(dict(resumed["model"]), dict(content["model"])), (name, how)
            assert identical(resumed["optimizer"], content["optimizer"]), (name, how)


def test_looking_at_the_state_changes_nothing_later() -> None:
    """A state is saved every few steps, or never: the same training, to rounding."""
    models = [Sparse(), Sparse()]
    for model, every in zip(models, (1, 100), strict=True):
        optimizer = ours("Adam", model.parameters(), lr=0.01, unused="dense")
        for step in range(20):
            model.train_on(optimizer, range(step, step + 1))
            if step % every == 0:
                torch.save(optimizer.state_dict(), io.BytesIO())
    assert apart(*(list(dict(m.state_dict()).values()) for m in models)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_a_user_travel(kind: str) -> None:
    p = parameter(4, 3)
    mine = ours(kind, [p], lr=0.1)
    p.grad = rows_gradient(p, [0, 2])
    mine.step()
    mine.state[p]["age of rows"] = torch.arange(4)
    mine.state[p]["note"] = 7
    mine.step()
    other = ours(kind, [parameter(4, 3)], lr=0.1)
    other.load_state_dict(mine.state_dict())
    (q,) = other.param_groups[0]["params"]
    copies = (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)))
    for state in (other.state[q], *(next(iter(each.state.values())) for each in copies)):
        assert state["age of rows"].tolist() == [0, 1, 2, 3]
        assert state["note"] == 7


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_an_optimizer_of_torchs_of_the_same_name(kind: str) -> None:
    mine = ours(kind, [parameter(4, 3)], lr=0.1)
    assert isinstance(mine, getattr(torch.optim, kind))
    assert isinstance(mine, torch.optim.AdamW) == (kind == "AdamW")
    assert mine.defaults.get("decoupled_weight_decay", False) == (kind == "AdamW")
