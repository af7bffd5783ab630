"""What else belongs to a training: schedules of learning rates, scalers, samplers, and data of the user's."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import Evolver, adam, identical, network, train
from torch.optim import Optimizer, lr_scheduler

import sparsetrain as st
from sparsetrain.edges import packed_edges, stored_edges
from sparsetrain.io import archive, load, save

SCHEDULES = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 2, 5]),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False, mode="exp_range"),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return tmp_path / "model.safetensors"


def rates(optimizer: Optimizer, schedule: Any, steps: int = 5) -> list[float]:
    """The learning rates of the next steps."""
    found = []
    for _ in range(steps):
        optimizer.step()
        schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_goes_on(path: Path, kind: str) -> None:
    model, other = network(), network()
    optimizer, resumed = adam(model), adam(other)
    schedule = SCHEDULES[kind](optimizer)
    train(model, optimizer)
    rates(optimizer, schedule)
    save(path, model, optimizer, scheduler=schedule)
    again = SCHEDULES[kind](resumed)
    load(path, other, resumed, scheduler=again)
    assert rates(resumed, again) == rates(optimizer, schedule)
    assert type(getattr(again, "milestones", None)) is type(getattr(schedule, "milestones", None))


@pytest.mark.parametrize("form", [list, tuple, lambda two: dict(zip("ab", two, strict=True))])
def test_several_schedules(path: Path, form: Any) -> None:
    model = network()
    optimizer = adam(model)
    two = [SCHEDULES[kind](optimizer) for kind in ("LambdaLR", "ReduceLROnPlateau")]
    for schedule in two:
        rates(optimizer, schedule, 3)
    save(path, model, optimizer, scheduler=form(two))
    other = adam(model)
    again = [SCHEDULES[kind](other) for kind in ("LambdaLR", "ReduceLROnPlateau")]
    load(path, model, other, scheduler=form(again))
    assert [s.state_dict() for s in again] == [s.state_dict() for s in two]


def test_schedules_that_do_not_fit_change_nothing(path: Path) -> None:
    model = network()
    optimizer = adam(model)
    save(path, model, optimizer)
    step, cycle = SCHEDULES["StepLR"](optimizer), SCHEDULES["OneCycleLR"](optimizer)
    state, before = copy.deepcopy(step.state_dict()), copy.deepcopy(optimizer.state_dict())

    def refused(error: type[Exception], message: str, scheduler: Any) -> None:
        with pytest.raises(error, match=r"^io\.load: " + message):
            load(path, model, optimizer, scheduler=scheduler)
        assert step.state_dict() == state
        assert identical(optimizer.state_dict(), before)

    refused(ValueError, "expected a checkpoint with a scheduler, it was saved without", step)
    save(path, model, optimizer, scheduler=step)
    refused(ValueError, "expected a scheduler of class OneCycleLR, the checkpoint has StepLR", cycle)
    two = r"expected the same schedulers as were saved, got 2 named \['0', '1'\], the checkpoint has one alone"
    refused(ValueError, two, [step, cycle])
    refused(TypeError, "expected scheduler to be an object with state_dict", [step, 3])
    refused(TypeError, "expected scheduler to be an object with state_dict", [])


def test_a_schedule_of_another_optimizer_is_refused(path: Path) -> None:
    model = network()
    optimizer, stranger = adam(model), adam(network())
    save(
        path,
        model,
        optimizer,
        scheduler={"a": lr_scheduler.StepLR(optimizer, 2), "b": lr_scheduler.StepLR(stranger, 2)},
    )
    ours, other = (lr_scheduler.StepLR(each, 2) for each in (optimizer, stranger))
    load(path, model, optimizer, scheduler={"a": ours, "b": other})  # one for each of two optimizers
    save(path, model, optimizer, scheduler=ours)
    with pytest.raises(ValueError, match=r"^io\.load: expected a scheduler made of this Adam, got one of another"):
        load(path, model, optimizer, scheduler=other)


@pytest.mark.parametrize("call", [save, load])
def test_parts_that_are_none(path: Path, call: Any) -> None:
    model = network()
    save(path, model)
    where = rf"^io\.{call.__name__}: expected"
    with pytest.raises(TypeError, match=rf"{where} model to be a torch\.nn\.Module, got str"):
        call(path, "model")
    with pytest.raises(TypeError, match=rf"{where} a torch optimizer or None, got str"):
        call(path, model, "optimizer")
    with pytest.raises(TypeError, match=rf"{where} evolver to have state_dict and load_state_dict, got str"):
        call(path, model, None, "evolver")


def test_a_schedule_that_would_start_anew_is_named(path: Path) -> None:
    model = network()
    optimizer = adam(model)
    schedule = SCHEDULES["StepLR"](optimizer)
    with pytest.warns(UserWarning, match=r"^io\.save: the optimizer has a schedule of learning rates"):
        save(path, model, optimizer)
    save(path, model)
    save(path, model, optimizer, scheduler=schedule)
    with pytest.warns(UserWarning, match=r"^io\.load: the checkpoint has a schedule of learning rates"):
        load(path, model, optimizer)
    load(path, model)


# ---- extra -------------------------------------------------------------------------------------------------------------


def test_extra_data_and_states_come_back(path: Path) -> None:
    model = network()
    average = torch.optim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    generator = torch.random.get_rng_state()
    save(path, model, extra={"epoch": 3, "random": generator, "best": (0.5, "b"), "average": average})
    fresh = torch.optim.swa_utils.AveragedModel(network(0))
    extra: dict[str, Any] = {"epoch": 0, "average": fresh}
    load(path, model, extra=extra)
    assert list(extra) == ["epoch", "average", "random", "best"]
    assert (extra["epoch"], extra["best"], extra["average"]) == (3, (0.5, "b"), fresh)
    assert extra["random"].equal(generator)
    assert identical(fresh.state_dict(), average.state_dict())
    bare: dict[str, Any] = {}
    load(path, model, extra=bare)
    assert list(bare) == ["epoch", "random", "best"]


def test_extra_that_does_not_fit_changes_nothing(path: Path) -> None:
    model = network()
    save(path, model, extra={"epoch": 3, "evolver": Evolver()})

    def refused(error: type[Exception], message: str, extra: Any) -> None:
        before = dict(extra) if isinstance(extra, dict) else extra
        with pytest.raises(error, match=r"^io\.load: " + message):
            load(path, model, extra=extra)
        assert extra == before

    refused(ValueError, r"expected a checkpoint with 'epohc' in extra, it has \['epoch', 'evolver'\]", {"epohc": 0})
    refused(
        ValueError, r"expected extra\['evolver'\] to have the class Evolver, whose state is stored", {"evolver": None}
    )
    refused(ValueError, r"expected extra\['epoch'\] to be data, which is stored, got <", {"epoch": Evolver()})
    refused(TypeError, "expected extra to be a dict with names as keys", [1])
    refused(TypeError, "expected extra to be a dict with names as keys", {1: 2})
    with pytest.raises(TypeError, match=r"^io\.save: expected tensors, numbers.*got int64 at extra/data/epoch"):
        save(path, model, extra={"epoch": np.int64(3)})


class Refusing(Evolver):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("never")


def test_an_error_of_the_last_part_undoes_the_parts_before(path: Path) -> None:
    model = network()
    optimizer = adam(model)
    schedule, evolver = SCHEDULES["StepLR"](optimizer), Evolver()
    save(path, model, optimizer, evolver, scheduler=schedule, extra={"last": Refusing()})
    train(model, optimizer)
    rates(optimizer, schedule)
    evolver.step(model)
    parts = (model, optimizer, schedule, evolver)
    before = copy.deepcopy([dict(part.state_dict()) for part in parts])
    with pytest.raises(KeyError, match="never"):
        load(path, model, optimizer, evolver, scheduler=schedule, extra={"last": Refusing()})
    assert identical([dict(part.state_dict()) for part in parts], before)


# ---- forms that no one writes ------------------------------------------------------------------------------------------

FORMS: list[Any] = [
    {"versions": None}, {"versions": {"": 1}}, {"versions": {"": {"version": "2"}}}, {"model": [1]}, {"model": {1: 2}},
    {"optimizer": 3}, {"optimizer": {"class": "Adam", "state": {}}}, {"optimizer": {"class": ["Adam"]}}, {"evolver": {}},
    {"scheduler": {"": {"class": "StepLR"}}}, {"scheduler": {"class": "StepLR", "state": {}}}, {"extra": {"epoch": 3}},
]  # fmt: skip


@pytest.mark.parametrize("part", FORMS, ids=str)
def test_parts_of_another_form_are_damaged(path: Path, part: dict[str, Any]) -> None:
    save(path, network())
    content = archive.read("test", path)
    name = next(iter(part))
    optimizer = {"parameters": [], "state": {"state": {}, "param_groups": []}}
    change = {**optimizer, **part[name]} if name == "optimizer" and isinstance(part[name], dict) else part[name]
    archive.write("test", path, {**content, name: change})
    with pytest.raises(
        ValueError, match=rf"^io\.load: the contents of .* damaged \(the part '{name}' has another form"
    ):
        load(path, network())


def test_a_state_of_another_shape_than_its_parameter(path: Path) -> None:
    model = network()
    optimizer = adam(model)
    train(model, optimizer)
    for key, value in (("exp_avg", torch.ones(3)), ("exp_avg_sq", 0.5), ("step", torch.ones(2))):
        wrong = adam(model)
        wrong.load_state_dict(optimizer.state_dict())
        wrong.state[model[0].values][key] = value
        save(path, model, wrong)
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(
            ValueError, match=rf"^io\.load: expected {key} in the optimizer's state of 0\.values to have"
        ):
            load(path, model, optimizer)
        assert identical(optimizer.state_dict(), before)


NAMES = [b"[", b"{}", b"3", b"[1]", b"\xff", b'["a"]', b"[" * 10**5]


def digits(data: bytes) -> list[int]:
    return [digit for byte in data for digit in (byte % 16, byte // 16)]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: repr(names[:5]))
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("topology", ["strict", "adopt"])
def test_damaged_names_of_nodes(path: Path, names: bytes, legacy: bool, topology: Any) -> None:
    edges = [("a", "y"), ("b", "z")]
    layer = st.nn.SparseLinear.from_edges(edges)
    save(path, layer)
    content, t = archive.read("test", path), layer.topology
    bare = packed_edges.packed(st.Topology(t.crow, t.col, t.shape))
    if legacy:
        del content["model"][stored_edges.KEY]
        text = torch.frombuffer(bytearray(names), dtype=torch.uint8)
        content["model"] |= {"crow": t.crow, "col": t.col, "shape": torch.tensor(t.shape), "inputs": text}
    else:
        size = 1 + 3 * 16  # of the names of inputs, in hexadecimal digits
        bare[size : size + 16] = torch.tensor(digits((len(names) + 1).to_bytes(8, "little")))
        content["model"][stored_edges.KEY] = torch.cat([bare, torch.tensor(digits(names))])
    archive.write("test", path, content)
    for target in (layer, st.nn.SparseLinear.from_edges([("a", "z"), ("b", "z")])):
        before = copy.deepcopy(dict(target.state_dict()))
        with pytest.raises(ValueError, match=r"^io\.load: SparseLinear \(the model itself\): "):
            load(path, target, topology=topology)
        assert identical(dict(target.state_dict()), before)
