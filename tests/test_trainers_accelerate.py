"""accelerate needs no callback: an attached Evolver, and edges that are adopted as a state is loaded."""

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import sparsetrain as st

accelerate = pytest.importorskip("accelerate", reason="needs the extra test")

X, Y = torch.randn(48, 12, generator=torch.Generator().manual_seed(1)), torch.arange(48) % 3
RIGL = st.evolve.RigL(batches=3), st.evolve.Constant(interval=4, prune_fraction=0.3)
GMP = st.evolve.GMP(), st.evolve.Linear(interval=2, stop=10, final_density=0.1)


@pytest.fixture(autouse=True)
def _warnings_of_theirs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(st.nn.SparseLinear(12, 20, density=0.3), nn.ReLU(), st.nn.SparseLinear(20, 3, density=0.4))


class Prepared:
    """What a user of accelerate writes, with the Evolver made before or after ``prepare``."""

    def __init__(self, net: nn.Module, rule: Any, accumulate: int = 1, early: bool = True) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        optimizer = st.optim.AdamW(net.parameters(), lr=0.05)
        generator = torch.Generator().manual_seed(3)
        given: Any = (net, optimizer)
        if not early:
            given = self.accelerator.prepare(*given)
        self.evolver = st.evolve.Evolver(*given, *rule, generator=generator)
        st.evolve.attach(self.evolver)
        st.io.adopt_on_load(net)
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer) if early else given
        self.accelerator.register_for_checkpointing(self.evolver)

    def train(self, start: int, stop: int) -> None:
        for k in range(start, stop):
            with self.accelerator.accumulate(self.net):
                rows = slice(2 * k, 2 * k + 2)
                self.accelerator.backward(functional.cross_entropy(self.net(X[rows]), Y[rows]))
                self.optimizer.step()
                self.optimizer.zero_grad()


def by_hand(net: nn.Module, rule: Any, accumulate: int, stop: int) -> None:
    optimizer = st.optim.AdamW(net.parameters(), lr=0.05)
    evolver = st.evolve.Evolver(net, optimizer, *rule, generator=torch.Generator().manual_seed(3))
    for k in range(stop):
        (functional.cross_entropy(net(X[2 * k : 2 * k + 2]), Y[2 * k : 2 * k + 2]) / accumulate).backward()
        if (k + 1) % accumulate == 0:
            optimizer.step()
            evolver.step()
            optimizer.zero_grad()


def assert_same(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_trains_as_a_loop_of_ones_own(accumulate: int, early: bool) -> None:
    net = network(0)
    twin = copy.deepcopy(net)
    prepared = Prepared(net, RIGL, accumulate, early)
    prepared.train(0, 24)
    by_hand(twin, RIGL, accumulate, 24)
    assert prepared.evolver.steps == 24 // accumulate
    assert_same(net, twin)


@pytest.mark.parametrize("rule", [RIGL, GMP], ids=repr)
def test_a_training_that_was_interrupted_goes_on(tmp_path: Path, rule: Any) -> None:
    whole, half, resumed = network(0), network(0), network(5)
    Prepared(whole, rule).train(0, 20)
    one = Prepared(half, rule)
    one.train(0, 10)
    one.accelerator.save_state(tmp_path)
    other = Prepared(resumed, rule)
    other.train(0, 3)  # it has a state of its own by then
    other.accelerator.load_state(tmp_path)
    assert_same(resumed, half)
    other.train(10, 20)
    assert other.evolver.steps == 20
    assert_same(resumed, whole)


def test_without_adopting_other_edges_are_refused(tmp_path: Path) -> None:
    one, net = Prepared(network(0), RIGL), network(5)
    one.accelerator.save_state(tmp_path)
    accelerator = accelerate.Accelerator(cpu=True)
    accelerator.prepare(net)
    with pytest.raises(RuntimeError, match="go on with the stored edges"):
        accelerator.load_state(tmp_path)


def test_a_file_of_a_prepared_optimizer_is_one_of_the_optimizer_inside(tmp_path: Path) -> None:
    one, net = Prepared(network(0), RIGL), network(5)
    one.train(0, 10)
    st.io.save(tmp_path / "training.st", one.net, one.optimizer)
    optimizer = st.optim.AdamW(net.parameters())
    st.io.load(tmp_path / "training.st", net, optimizer, topology="adopt")
    assert_same(net, one.net)
    assert torch.equal(optimizer.state[net[0].values]["exp_avg"], one.optimizer.state[one.net[0].values]["exp_avg"])
