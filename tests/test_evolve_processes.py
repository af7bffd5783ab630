"""Edges that change in two processes of DistributedDataParallel: the same ones in both, and as in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from evolving_models import data, network
from processes import RANKS, equal_everywhere, in_each
from torch.nn.parallel import DistributedDataParallel

from sparsetrain import evolve

STEPS = 8


def test_ranks_end_with_the_same_edges(tmp_path: Path) -> None:
    in_each(check_ranks, tmp_path)


def check_ranks(rank: int, _: Path) -> None:
    alone = [dist.new_group([each]) for each in range(RANKS)][rank]
    schedule = evolve.Cosine(interval=2, start=1, stop=20, prune_fraction=0.3)
    for rule in (evolve.RigL(batches=2), evolve.SET()):
        grows_as_one_process(rank, alone, rule, schedule)
    grows_as_one_process(rank, alone, evolve.SNFS(batches=2), schedule, wrap_again=True)
    falling = evolve.Linear(interval=2, start=1, stop=8, final_density=0.1)
    grows_as_one_process(rank, alone, evolve.GMP(), falling, wrap_again=True)
    a_wrapper_of_former_edges_is_refused()
    different_values_are_refused(rank)
    a_generator_of_each_rank(rank)


def grows_as_one_process(
    rank: int, group: Any, rule: evolve.Rule, schedule: evolve.Schedule, wrap_again: bool = False
) -> None:
    """Each rank sees half of each batch. Where the number of edges changes, the wrapper is made anew."""
    torch.manual_seed(3)  # the same draws in the process that trains alone; ranks draw from the first one's
    alone, shared = network(0, torch.float64), network(rank, torch.float64)
    model = DistributedDataParallel(shared)
    trainings = []
    for inner, of in ((alone, group), (shared, None)):
        optimizer = torch.optim.SGD(inner.parameters(), lr=0.1, momentum=0.9)
        generator = torch.Generator().manual_seed(5)
        evolver = evolve.Evolver(inner, optimizer, rule, schedule, generator=generator, group=of)
        trainings.append((optimizer, evolver))
    for step in range(STEPS):
        x, y = data(step, torch.float64)
        parts = (slice(None), slice(rank, None, RANKS))
        for each, part, (optimizer, evolver) in zip((alone, model), parts, trainings, strict=True):
            optimizer.zero_grad()
            (each(x[part]) - y[part]).square().mean().backward()
            optimizer.step()
            change = evolver.step()
        if change and wrap_again:
            model = DistributedDataParallel(shared)
        equal_everywhere([layer.topology.digest for layer in shared[::2]])
        for one, other in zip(alone[::2], shared[::2], strict=True):
            assert one.topology.digest == other.topology.digest, (rule, step)
            torch.testing.assert_close(one.values, other.values)


def a_wrapper_of_former_edges_is_refused() -> None:
    model = network(0)
    wrapped = DistributedDataParallel(model)
    wrapped(data(0)[0])
    evolver = evolve.Evolver(
        wrapped, torch.optim.SGD(model.parameters(), lr=0.1), evolve.GMP(),
        evolve.Linear(interval=1, start=1, stop=2, final_density=0.2),
    )  # fmt: skip
    evolver.step()
    wrapped(data(0)[0])
    evolver.step()
    with pytest.raises(RuntimeError, match="Wrap the model again after its number of edges changes"):
        wrapped(data(0)[0])
    wrapped = DistributedDataParallel(model)
    wrapped(data(0)[0])
    model[0].replace_edges(model[0].topology, torch.ones(model[0].topology.nnz))  # as many, and still another node
    with pytest.raises(RuntimeError, match="Wrap the model again"):
        wrapped(data(0)[0])


def different_values_are_refused(rank: int) -> None:
    model = network(0)
    with torch.no_grad():
        model[0].values += rank * torch.randn(72)
    before = [layer.topology for layer in model[::2]]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.SET(), evolve.Constant(interval=1, prune_fraction=0.3))
    with pytest.raises(RuntimeError, match="process 1 would have others than process 0 in layer '0'"):
        evolver.step()
    assert all(a is b.topology for a, b in zip(before, model[::2], strict=True))


def a_generator_of_each_rank(rank: int) -> None:
    """Seeds that differ do no harm: the first rank's counts."""
    model = network(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(
        model, optimizer, evolve.SET(), evolve.Constant(interval=1, prune_fraction=0.3),
        generator=torch.Generator().manual_seed(rank),
    )  # fmt: skip
    evolver.step()
    equal_everywhere([(layer.topology.digest, layer.values.tolist()) for layer in model[::2]])
