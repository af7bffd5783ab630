"""Ctrl-C at any line of a step or of a reading: it is whole, or has not begun."""

import signal
from typing import Any

import pytest
import torch
from checkpoints import identical
from interrupts import PressedAt
from tables import everything, ours, parameter, rows_gradient

from sparsetrain.optim import row_optimizer

FOLDER = row_optimizer.__file__.removesuffix("row_optimizer.py")


def standing(optimizer: Any) -> list[Any]:
    """Weights, gradients and state, whosever they are."""
    return [parameters for _, parameters in everything(optimizer)]


def trained(kind: str, unused: str) -> tuple[Any, torch.Tensor]:
    p = parameter(6, 2)
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = ours(kind, [p], lr=0.1, unused=unused, **options)
    for step in range(3):
        optimizer.flush()
        p.grad = rows_gradient(p, [step, 5], seed=step)
        optimizer.step()
    optimizer.flush()
    p.grad = rows_gradient(p, [1, 4], seed=9)
    return optimizer, p


@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "Adam"])
def test_a_step_is_whole_or_has_not_begun(kind: str, unused: str) -> None:
    before = standing(trained(kind, unused)[0])
    optimizer, _ = trained(kind, unused)
    optimizer.step()
    optimizer.flush()
    after = standing(optimizer)
    outcomes = set()
    for line in range(1, 1000):
        optimizer, _ = trained(kind, unused)
        if not PressedAt(line, FOLDER).during(optimizer.step):
            break
        optimizer.flush()
        found = standing(optimizer)
        assert identical(found, before) or identical(found, after), line
        outcomes.add(identical(found, after))
    else:
        pytest.fail("no step has a thousand lines")
    assert outcomes == {False, True}


def test_a_reading_is_whole_or_has_not_begun() -> None:
    optimizer, _ = trained("Adam", "dense")
    optimizer.step()
    optimizer.flush()
    expected = standing(optimizer)
    for line in range(1, 1000):
        optimizer, _ = trained("Adam", "dense")
        optimizer.step()
        came = PressedAt(line, FOLDER).during(optimizer.flush)
        optimizer.flush()
        assert identical(standing(optimizer), expected), line
        if not came:
            break
    assert line > 5


def test_the_handler_is_that_of_before() -> None:
    optimizer, _ = trained("Adam", "dense")
    before = signal.getsignal(signal.SIGINT)
    optimizer.step()
    optimizer.flush()
    assert signal.getsignal(signal.SIGINT) is before
