"""``sparsetrain warm``: what it runs is what first steps need."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from sparsetrain.cli import main
from sparsetrain.cli.warm import warm

# kernels by the types that they were compiled for, whatever the number of threads
LAUNCHED = """
import torch
from sparsetrain_kernels import launch
import sparsetrain as st
from sparsetrain.cli.first_runs import RUNS

def launched():
    return {(kernel.__name__, str(types)) for kernel, types, _ in launch._process.ready}

for run in RUNS.values():
    run(torch.float32)
before = launched()
convolutions = torch.nn.Sequential(
    st.nn.SparseConv2d(1, 8, 3, density=0.2), torch.nn.ReLU(), torch.nn.Flatten(), st.nn.SparseLinear(5408, 10, density=0.1)
)
linear = torch.nn.Sequential(torch.nn.Linear(784, 300), torch.nn.ReLU(), torch.nn.Linear(300, 10))
linear = st.convert.sparsify(linear, density={"0": 0.1, "2": 0.4})
for model, x in ((convolutions, torch.rand(128, 1, 28, 28)), (linear, torch.rand(128, 784))):
    optimizer = st.optim.AdamW(model.parameters(), lr=0.001)
    evolver = st.evolve.Evolver(model, optimizer, st.evolve.RigL(), st.evolve.Constant(interval=1, prune_fraction=0.3))
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.randint(10, (128,))).backward()
        optimizer.step()
        evolver.step()
print(len(before), sorted(launched() - before))
"""


def test_first_steps_need_what_it_runs() -> None:
    done = subprocess.run([sys.executable, "-c", LAUNCHED], capture_output=True, text=True, check=True)
    number, _, missing = done.stdout.partition(" ")
    assert int(number) > 15
    assert missing.strip() == "[]"


def test_it_says_what_it_has_done() -> None:
    done = CliRunner().invoke(main, ["warm", "--jobs", "1", "--dtype", "float32", "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    *runs, last = done.output.strip().splitlines()
    assert [line.split()[0] for line in runs] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("float32" in line for line in runs)
    assert last.startswith("kernels in ")


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[warm.callback.__module__], "COMPILES", False)
    done = CliRunner().invoke(main, ["warm"])
    assert done.exit_code == 2
    assert "NUMBA_DISABLE_JIT is set" in done.output
