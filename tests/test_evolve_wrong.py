"""Damaged states and rules of one's own that answer wrongly: said in words, and nothing has changed."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparsetrain import evolve
from sparsetrain.nn import SparseLinear

EVERY = evolve.Constant(interval=1, prune_fraction=0.3)


def trained(rule: evolve.Rule, schedule: evolve.Schedule = EVERY) -> tuple[SparseLinear, evolve.Evolver]:
    layer = SparseLinear(12, 9, density=0.4)
    optimizer = torch.optim.Adam(layer.parameters())
    evolver = evolve.Evolver(layer, optimizer, rule, schedule)
    layer(torch.randn(4, 12)).square().mean().backward()
    optimizer.step()
    return layer, evolver


def all_of(evolver: evolve.Evolver) -> list[Any]:
    state = copy.deepcopy(evolver.state_dict())
    aside = [tensor for each in state["kept"].get("aside", {}).values() for tensor in each]
    return [state["generator"], state["histories"][""]["born"], torch.tensor([state["steps"], state["late"]]), *aside]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda s: s.pop("factors"), ValueError, "the state lacks ['factors']"),
        (lambda s: s.update(edges={}), ValueError, "edges of layers [''], the state has those of []"),
        (lambda s: s.update(histories={"x": {}}), ValueError, "histories of layers [''], the state has those of ['x']"),
        (lambda s: s.update(factors={}), ValueError, "factors of layers ['']"),
        (lambda s: s["histories"][""].pop("born"), ValueError, "the state was saved with others"),
        (lambda s: s["histories"][""].update(initial=-1), ValueError, "expected initial >= 0"),
        (lambda s: s.update(steps=-1), ValueError, "expected steps >= 0, got -1"),
        (lambda s: s.update(steps="x"), TypeError, "expected steps to be an integer"),
        (lambda s: s.update(generator=torch.zeros(3)), RuntimeError, "Generator"),
        (lambda s: s.update(kept={}), ValueError, "expected values that are aside for"),
        (lambda s: s["kept"]["aside"][""].reverse() or s["kept"]["aside"][""].pop(), ValueError, "that are aside"),
    ],
)
def test_damaged_states(damage: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    _, evolver = trained(evolve.TopKAST(), evolve.Constant(interval=9, prune_fraction=0.3))
    evolver.step()
    state = copy.deepcopy(evolver.state_dict())
    evolver.step()
    before = all_of(evolver)
    damage(state)
    with pytest.raises(error, match=re.escape(message)):
        evolver.load_state_dict(state)
    assert all(map(torch.equal, before, all_of(evolver)))


def test_what_is_no_state() -> None:
    with pytest.raises(TypeError, match="expected a dict as state_dict"):
        trained(evolve.SET())[1].load_state_dict(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"grow": lambda rule, layer, kept, count: None},
            "Own.grow: expected 12 positions, (rows, columns), as the sche",
        ),
        (
            {"grow": lambda rule, layer, kept, count: layer.random_vacant(kept, count - 2)},
            "Own.grow: expected 12 positions, (rows, columns), as the schedule has it, got 10",
        ),
        (
            {"keep": lambda rule, layer, count: layer.largest(layer.values, 99)},
            "a count from 0 to 43, the edges, got 99",
        ),
        (
            {"keep": lambda rule, layer, count: layer.largest(layer.values, -1)},
            "a count from 0 to 43, the edges, got -1",
        ),
        ({"keep": lambda rule, layer, count: layer.largest(layer.values + 0j, count)}, "got torch.complex64"),
    ],
)
def test_rules_that_answer_wrongly(methods: dict[str, Any], message: str) -> None:
    layer, evolver = trained(type("Own", (evolve.Rule,), methods)())
    topology, generator = layer.topology, evolver.generator.get_state()
    with pytest.raises(ValueError, match=re.escape(message)):
        evolver.step()
    assert layer.topology is topology
    assert torch.equal(evolver.generator.get_state(), generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32, torch.bool])
def test_scores_of_any_real_type(dtype: torch.dtype) -> None:
    class Own(evolve.Rule):
        def keep(self, layer: evolve.Layer, count: int) -> torch.Tensor:
            return layer.largest((100 * layer.values.abs()).to(dtype), count)

    change = trained(Own())[1].step()
    assert change is not None
    assert change.edges == 43


def test_an_unknown_distribution() -> None:
    layer = SparseLinear(12, 9, density=0.4)
    with pytest.raises(ValueError, match="expected distribution to be one of"):
        evolve.Evolver(layer, torch.optim.SGD(layer.parameters()), evolve.SET(), EVERY, distribution="even")


def test_one_overflow_among_many_steps_is_waited_for() -> None:
    layer = SparseLinear(12, 9, density=0.4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    schedule = evolve.Constant(interval=30, prune_fraction=0.3)
    evolver = evolve.Evolver(layer, optimizer, evolve.RigL(batches=20), schedule)
    due = []
    for step in range(1, 61):
        optimizer.zero_grad()
        overflows = step == 29
        (layer(torch.randn(4, 12)).square().mean() * (torch.inf if overflows else 1.0)).backward()
        if not overflows:
            optimizer.step()
        if change := evolver.step():
            due.append(change.step)
    assert due == [49, 60]
