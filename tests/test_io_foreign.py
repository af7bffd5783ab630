"""Code of others that raises while a checkpoint is loaded, or looks at a state while it is saved."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import torch
from checkpoints import identical
from torch import Tensor, nn
from torch.optim import lr_scheduler

import sparsetrain as st


class BrokenError(Exception):
    pass


def broken(*_: Any) -> None:
    raise BrokenError


class Breaking(nn.Module):
    """A module that raises when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(self, *_: Any) -> None:
        raise BrokenError


class BreakingSGD(torch.optim.SGD):
    def load_state_dict(self, state: Any) -> None:
        raise BrokenError


class BreakingEdges(st.nn.SparseLinear):
    def set_extra_state(self, state: Any) -> None:
        raise BrokenError


class Part:
    def state_dict(self) -> dict[str, Any]:
        return {"steps": 3}

    def load_state_dict(self, state: Any) -> None:
        raise BrokenError


Made = tuple[nn.Module, torch.optim.Optimizer, Any]


def made(last: nn.Module | None = None, kind: type[torch.optim.SGD] = torch.optim.SGD, part: Any = None) -> Made:
    model = nn.Sequential(st.nn.SparseLinear(6, 4, density=0.5), nn.BatchNorm1d(4), *([] if last is None else [last]))
    optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
    model[:2](torch.randn(5, 6)).square().sum().backward()
    torch.optim.SGD.step(optimizer)
    return model, optimizer, part


def with_hook(add: Callable[[Any, Any], None]) -> Made:
    model, optimizer, _ = made()
    add(model, optimizer)
    return model, optimizer, None


KINDS: dict[str, Callable[[], Made]] = {
    "module": lambda: made(Breaking()),
    "edges": lambda: made(BreakingEdges(4, 4, density=0.5)),
    "hook before": lambda: with_hook(lambda model, _: model[1].register_load_state_dict_pre_hook(broken)),
    "hook after": lambda: with_hook(lambda model, _: model.register_load_state_dict_post_hook(broken)),
    "optimizer": lambda: made(kind=BreakingSGD),
    "hook before the optimizer": lambda: with_hook(lambda _, it: it.register_load_state_dict_pre_hook(broken)),
    "hook after the optimizer": lambda: with_hook(lambda _, it: it.register_load_state_dict_post_hook(broken)),
    "evolver": lambda: made(part=Part()),
}


@pytest.mark.parametrize("topology", ["strict", "adopt"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_raises_leaves_everything_as_it_was(kind: str, topology: Any, tmp_path: Path) -> None:
    model, optimizer, part = KINDS[kind]()
    st.io.save(tmp_path / "model.st", model, optimizer, part)
    other, its_optimizer, its_part = KINDS[kind]()
    for ours, its in zip(model.modules(), other.modules(), strict=True):
        if isinstance(ours, st.nn.EdgeModule) and (topology == "strict" or isinstance(ours, BreakingEdges)):
            its.topology = ours.topology
    edges = other[0].topology  # type: ignore[index]
    before = [each.clone() for each in numbers(other, its_optimizer)]
    with pytest.raises(BrokenError):
        st.io.load(tmp_path / "model.st", other, its_optimizer, its_part, topology)
    assert other[0].topology is edges  # type: ignore[index]
    assert all(map(torch.equal, before, numbers(other, its_optimizer)))


def numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    states = [each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor)]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*model.parameters(), *model.buffers(), *states, *gradients]


class Counting(nn.Module):
    """A module that takes the state dict of what it wraps into its hands."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = st.nn.SparseLinear(6, 4, density=0.5)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "numbers"] = torch.tensor(sum(each.numel() for each in self.inner.state_dict().values()))


def test_code_of_others_in_an_optimizer_finds_the_model_loaded(tmp_path: Path) -> None:
    """As an Evolver does that is kept in the optimizer's state."""
    model, optimizer, _ = made()
    st.io.save(tmp_path / "model.st", model, optimizer)
    other, its_optimizer, _ = made()
    seen: list[Tensor] = []

    def look(*_: Any) -> None:
        seen.extend(each.detach().clone() for each in other.parameters())

    its_optimizer.register_load_state_dict_pre_hook(look)
    st.io.load(tmp_path / "model.st", other, its_optimizer, topology="adopt")
    assert all(map(torch.equal, seen, model.parameters()))
    assert len(seen) == 4


@pytest.mark.parametrize("density", [0.5, 0.3])  # as many edges as in the file, or fewer
@pytest.mark.parametrize("rule", [st.evolve.SET, st.evolve.SNFS])
def test_a_training_goes_on_after_a_schedule_that_raises(rule: Any, density: float, tmp_path: Path) -> None:
    """In the middle, after model, optimizer and Evolver were loaded onto other edges."""

    def training(schedules: int, density: float) -> Any:
        model = nn.Sequential(st.nn.SparseLinear(16, 12, density=density))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        evolver = st.evolve.Evolver(model, optimizer, rule(), st.evolve.Constant(interval=2, prune_fraction=0.3))
        parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 3) for _ in range(schedules)]
        schedule = lr_scheduler.SequentialLR(optimizer, parts, [3 * k for k in range(1, schedules)])
        go_on(model, optimizer, evolver, schedule)
        return model, optimizer, evolver, schedule

    def go_on(model: Any, optimizer: Any, evolver: Any, schedule: Any) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            model(torch.randn(5, 16)).square().mean().backward()
            optimizer.step()
            evolver.step()
            schedule.step()

    *parts, schedule = training(3, 0.5)
    st.io.save(tmp_path / "model.st", *parts, scheduler=schedule)
    *others, its_schedule = training(2, density)
    before = [copy.deepcopy(each.state_dict()) for each in (*others, its_schedule)]
    with pytest.raises(IndexError):
        st.io.load(tmp_path / "model.st", *others, "adopt", scheduler=its_schedule)
    after = [each.state_dict() for each in (*others, its_schedule)]
    assert identical(after, before)
    go_on(*others, its_schedule)


class Reading(st.nn.SparseLinear):
    """Layers that keep more than edges there."""

    def get_extra_state(self) -> Tensor:
        return torch.cat([super().get_extra_state(), torch.zeros(0)])


class Summing(nn.Module):
    """A module that is no layer over edges, and reads the state of one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = st.nn.SparseLinear(6, 4, density=0.5)

    def get_extra_state(self) -> float:
        return float(sum(each.double().sum() for each in self.inner.state_dict().values()))

    def set_extra_state(self, state: float) -> None:
        pass


@pytest.mark.parametrize("kind", [lambda: Reading(6, 4, density=0.5), Summing], ids=["layer", "another module"])
def test_extra_states_of_others_see_tensors(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    model, other = nn.Sequential(kind()), nn.Sequential(kind())
    st.io.save(tmp_path / "model.st", model)
    st.io.load(tmp_path / "model.st", other, topology="adopt")
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize("hooked", [True, False])
def test_who_looks_at_a_state_sees_tensors(hooked: bool, tmp_path: Path) -> None:
    model = nn.Sequential(st.nn.SparseLinear(6, 4, density=0.5)) if hooked else nn.Sequential(Counting())
    seen: list[Any] = []
    if hooked:
        model.register_state_dict_post_hook(lambda _, state, *__: seen.extend(state.values()))  # type: ignore[no-untyped-call]
    st.io.save(tmp_path / "model.st", model)
    assert all(isinstance(each, Tensor) for each in seen)
    assert "model/0._extra_state" in safetensors.numpy.load_file(tmp_path / "model.st") or not hooked


def test_edges_in_pieces_are_the_tensor_of_a_state_dict(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": st.nn.SparseLinear.from_edges([("x", "y"), ("z", "y")])})
    model["b"] = model["a"].transposed()
    model["c"] = st.nn.SparseLinear(6, 4, density=0.5)
    st.io.save(tmp_path / "model.st", model)
    stored = safetensors.numpy.load_file(tmp_path / "model.st")
    for name in "ac":
        key = f"{name}._extra_state"
        assert stored[f"model/{key}"].tolist() == model.state_dict()[key].tolist()
    assert "model/b._extra_state" not in stored, "a shared topology is stored once"
