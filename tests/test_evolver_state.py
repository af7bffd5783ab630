"""Training with changing edges that goes on in another process, and states of others."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from evolving_models import network, train
from torch import nn

import sparsetrain as st
from sparsetrain import evolve

RESUME = """
import sys, torch
sys.path.insert(0, {tests!r})
import sparsetrain as st
from evolving_models import train
from test_evolver_state import resumable
model, optimizer, evolver = resumable(seed=7)
st.io.load({path!r}, model, optimizer, evolver, topology="adopt")
train(model, optimizer, evolver, range(11, 24))
torch.save([p.detach() for p in model.parameters()] + [l.topology.col for l in model[::2]], {out!r})
"""


def resumable(seed: int) -> tuple[nn.Sequential, Any, evolve.Evolver]:
    model = network(seed)
    optimizer = st.optim.Adam(model.parameters(), lr=0.02)
    schedule = evolve.Linear(interval=4, start=1, stop=20, prune_fraction=0.3, final_density=0.2)
    return model, optimizer, evolve.Evolver(model, optimizer, evolve.SNFS(batches=3), schedule, warm_up=3)


def test_training_goes_on_bit_for_bit_in_a_new_process(tmp_path: Path) -> None:
    model, optimizer, evolver = resumable(seed=0)
    train(model, optimizer, evolver, range(11))  # within the steps that the rule looks at, and within a warm-up
    path, out = tmp_path / "training.st", tmp_path / "resumed.pt"
    st.io.save(path, model, optimizer, evolver)
    train(model, optimizer, evolver, range(11, 24))
    script = RESUME.format(tests=str(Path(__file__).parent), path=str(path), out=str(out))
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
    ours = [p.detach() for p in model.parameters()] + [layer.topology.col for layer in model[::2]]
    assert all(map(torch.equal, ours, torch.load(out)))


def test_states_of_others_are_refused() -> None:
    model, optimizer, evolver = resumable(seed=0)
    state = evolver.state_dict()
    other = evolve.Evolver(model, optimizer, evolve.SET(), evolver.schedule)
    with pytest.raises(ValueError, match=re.escape("expected the rule SET(start='draw'), the state has SNFS")):
        other.load_state_dict(state)
    other = evolve.Evolver(model, optimizer, evolver.rule, evolver.schedule, layers="0")
    with pytest.raises(ValueError, match="of another model"):
        other.load_state_dict(state)
    _, optimizer, other = resumable(seed=1)
    before = other.generator.get_state()
    with pytest.raises(ValueError, match="the state was saved with others"):
        other.load_state_dict(state)
    assert torch.equal(other.generator.get_state(), before)


@pytest.mark.parametrize(
    ("options", "theirs", "ours"),
    [
        ({"layers": {"0": 0.5, "2": 1.0}}, "rates={'0': 0.5, '2': 1.0}", "{'0': 1.0, '2': 1.0}"),
        ({"distribution": "erk"}, "distribution='erk'", "'uniform'"),
        ({"warm_up": 0}, "warm_up=0", "3"),
    ],
)
def test_states_of_evolvers_that_were_made_otherwise(options: dict[str, Any], theirs: str, ours: str) -> None:
    model, optimizer, evolver = resumable(seed=0)
    train(model, optimizer, evolver, range(2))
    state = evolver.state_dict()
    other = evolve.Evolver(model, optimizer, evolver.rule, evolver.schedule, **{"warm_up": 3} | options)
    before = other.generator.get_state()
    said = f"expected {theirs}, as this Evolver was made, the state has {ours}."
    with pytest.raises(ValueError, match=re.escape(said)):
        other.load_state_dict(state)
    assert (other.steps, other.generator.get_state().tolist()) == (0, before.tolist())
    for name in ("rates", "distribution", "warm_up"):  # as a former version saved it
        del state[name]
    other.load_state_dict(state)
    assert other.steps == 2
