"""Optimizers under every schedule of torch, and under scalers of gradients, as torch's own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import identical
from tables import (  # fmt: skip
    KINDS,
    Mixed,
    apart,
    every_row,
    everything,
    ours,
    torchs,
    train,
)
from torch import Tensor, nn
from torch.optim import lr_scheduler as lr
from torch.optim.swa_utils import SWALR

ROUNDING = 1e-12  # of float64, after some steps


# ---- schedules ---------------------------------------------------------------------------------------------------------


def cycles(optimizer: Any) -> bool:
    return "momentum" in optimizer.defaults or "betas" in optimizer.defaults


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: lr.MultiplicativeLR(o, lambda step: 1 - step / 20),
    "StepLR": lambda o: lr.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr.MultiStepLR(o, [2, 4], 0.5),
    "ConstantLR": lambda o: lr.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr.LinearLR(o, 0.1, 1, 5),
    "ExponentialLR": lambda o: lr.ExponentialLR(o, 0.7),
    "SequentialLR": lambda o: lr.SequentialLR(o, [lr.ConstantLR(o, 0.1, 2), lr.ExponentialLR(o, 0.9)], [2]),
    "PolynomialLR": lambda o: lr.PolynomialLR(o, 5, 2),
    "CosineAnnealingLR": lambda o: lr.CosineAnnealingLR(o, 4),
    "ChainedScheduler": lambda o: lr.ChainedScheduler([lr.ConstantLR(o, 0.1, 2), lr.ExponentialLR(o, 0.9)], o),
    "ReduceLROnPlateau": lambda o: lr.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr.CyclicLR(o, 0.001, 0.1, 2, cycle_momentum=cycles(o)),
    "OneCycleLR": lambda o: lr.OneCycleLR(o, 0.1, 8, cycle_momentum=cycles(o)),
    "CosineAnnealingWarmRestarts": lambda o: lr.CosineAnnealingWarmRestarts(o, 3),
    "SWALR": lambda o: SWALR(o, 0.001, 4),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_under_every_schedule_of_torch(kind: str, schedule: str) -> None:
    model = Mixed()
    other = copy.deepcopy(model)
    # a first step of RMSprop is lr / sqrt(1 - alpha): a long one saturates the model, whose rounding then matters
    options = {"lr": 0.05, **{"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.5, "alpha": 0.7}}.get(kind, {})}
    mine, theirs = ours(kind, model.parameters(), **options), torchs(kind, other.parameters(), **options)
    schedules = [SCHEDULES[schedule](optimizer) for optimizer in (mine, theirs)]
    train(model, mine, range(7), schedules[0])
    train(other, theirs, range(7), schedules[1], dense=True)
    assert apart(model, other) < ROUNDING
    assert mine.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]


def test_there_is_no_other_schedule() -> None:
    names = {name for name in lr.__all__ if isinstance(getattr(lr, name), type)}
    assert names - {"LRScheduler"} == SCHEDULES.keys() - {"SWALR"}


# ---- gradient scaling --------------------------------------------------------------------------------------------------


def scaled_step(model: nn.Module, optimizer: Any, scaler: Any, ids: Tensor, factor: float = 1.0) -> None:
    optimizer.zero_grad()
    scaler.scale(model(ids) * factor).backward()
    scaler.step(optimizer)
    scaler.update()


SCALED = [(kind, fused) for kind in KINDS for fused in (None, True) if (kind, fused) != ("RMSprop", True)]


@pytest.mark.parametrize(("kind", "fused"), SCALED)
def test_a_scaler_takes_its_scale_back(kind: str, fused: bool | None) -> None:
    how = {"fused": fused} if fused else {}
    model = Mixed()
    other = copy.deepcopy(model)
    mine, theirs = ours(kind, model.parameters(), lr=0.1, **how), torchs(kind, other.parameters(), lr=0.1)
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
    for step in range(4):
        scaled_step(model, mine, scaler, every_row(step))
    train(other, theirs, range(4), dense=True)
    assert apart(model, other) < ROUNDING
    assert scaler.get_scale() == 16


@pytest.mark.parametrize("l1", [0.0, 0.01])
@pytest.mark.parametrize(("kind", "fused"), SCALED)
def test_a_scaler_skips_a_step_that_is_not_finite(kind: str, fused: bool | None, l1: float) -> None:
    how = {"fused": fused} if fused else {}
    model = Mixed()
    optimizer = ours(kind, model.parameters(), lr=0.1, l1=l1, **how)
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(2):
        before = everything(optimizer, gradients=False)
        scaled_step(model, optimizer, scaler, every_row(step), factor=float("inf"))
        now = everything(optimizer, gradients=False)
        assert identical([p[0] for group in now for p in group[1]], [p[0] for group in before for p in group[1]])
        assert all(not p[2] or p[2].get("step", 0) == step for group in now for p in group[1])
        scaled_step(model, optimizer, scaler, every_row(step))
        assert not identical(everything(optimizer, gradients=False), before)
    assert scaler.get_scale() == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())
