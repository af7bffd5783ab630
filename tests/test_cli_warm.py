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
table, layer = st.nn.LookupTable(50, 8, pool="mean"), st.nn.SparseLinear(8, 70_000, density=0.01)
for options in ({"moments": "bfloat16"}, {"amsgrad": True}):
    optimizer = st.optim.Adam(layer.parameters(), **options)
    evolver = st.evolve.Evolver(layer, optimizer, st.evolve.SET(), st.evolve.Constant(interval=1, prune_fraction=0.3))
    of_rows = st.optim.AdamW(table.parameters(), unused="dense")
    of_rows.clip_norm = 1.0
    for _ in range(2):
        layer(table(torch.randint(50, (64, 3)))).sum().backward()
        for each in (optimizer, of_rows, evolver):
            each.step()
    of_rows.flush()
table = st.nn.LookupTable(50, 8)
of_rows = st.optim.SGD(table.parameters(), lr=0.1, momentum=0.9, unused="dense")
for row in (1, 2):
    of_rows.zero_grad()
    table(torch.tensor([row])).sum().backward()
    of_rows.step()
of_rows.flush()
narrow = [name for name, types in before if "H" in types]
assert {"spmm_kernel", "narrow_spmm_kernel", "backward_kernel", "expand_kernel", "merge_kernel"} <= set(narrow), narrow
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
    assert [line.split()[0] for line in runs] == [f"{k}/9" for k in range(1, 10)]
    assert all("float32" in line for line in runs)
    assert last.startswith("kernels in ")


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[warm.callback.__module__], "COMPILES", False)
    done = CliRunner().invoke(main, ["warm"])
    assert done.exit_code == 2
    assert "NUMBA_DISABLE_JIT is set" in done.output
