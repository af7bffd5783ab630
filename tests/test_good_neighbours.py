"""What a process has set stays as it was, and what it lacks is done without: a compiler, threads."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sparsetrain_kernels import launch

ROOT = Path(__file__).parent.parent

SETTINGS = """
import ctypes, os, signal, sys, threading, warnings
import numba, numpy, torch
import sparsetrain as st
from numba.np.ufunc import omppool

openmp = ctypes.PyDLL(None)
if not hasattr(openmp, "omp_get_max_threads"):
    openmp = ctypes.PyDLL(omppool.__file__)

def settings():
    subnormal = float(torch.tensor([1e-39]).mul(0.5)[0]), float(numpy.float32(1e-39) * numpy.float32(0.5))
    return [torch.get_num_threads(), torch.get_num_interop_threads(), numba.get_num_threads(), subnormal, numpy.geterr(),
            openmp.omp_get_max_threads(), openmp.omp_get_max_active_levels(), list(warnings.filters), dict(os.environ),
            numba.config.THREADING_LAYER, list(numba.config.THREADING_LAYER_PRIORITY), torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(), sys.getswitchinterval(), signal.getsignal(signal.SIGINT)]

def work():
    layer, table = st.nn.SparseLinear(500, 500, density=0.4), st.nn.LookupTable(5000, 16)
    optimizer = st.optim.AdamW([*layer.parameters(), *table.parameters()])
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(64, 500)).square().sum().backward()
        table(torch.randint(5000, (20_000,))).square().sum().backward()
        optimizer.step()

torch.set_num_threads(2)
before = [torch.get_num_threads(), openmp.omp_get_max_threads(), openmp.omp_get_max_active_levels()]
priority = list(numba.config.THREADING_LAYER_PRIORITY)
work()
assert numba.threading_layer() == "omp", numba.threading_layer()  # or nothing was shown
after = [torch.get_num_threads(), openmp.omp_get_max_threads(), openmp.omp_get_max_active_levels()]
assert after == before, (before, after)
assert numba.config.THREADING_LAYER_PRIORITY == priority
numba.set_num_threads(3)
before = settings()
work()
assert settings() == before, [pair for pair in zip(before, settings()) if pair[0] != pair[1]]

def elsewhere():
    torch.set_num_threads(2)
    before = settings()
    work()
    seen.append(settings() == before)

seen = []
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
assert seen == [True]
"""

TRAINED = """
import torch
import sparsetrain as st
torch.manual_seed(0)
layer, table = st.nn.SparseLinear(500, 500, density=0.4), st.nn.LookupTable(20, 8)
x = torch.randn(64, 500, requires_grad=True)
y = layer(x)
y.sum().backward()
optimizer = st.optim.SGD([*layer.parameters(), *table.parameters()], lr=0.1)
before = table.weight.detach().clone()
table(torch.tensor([[3, 7], [7, 7]])).sum().backward()
optimizer.step()
expected = torch.zeros(20, 8)
expected[3], expected[7] = 0.1, 0.3
torch.testing.assert_close(before - table.weight.detach(), expected)
row, col = layer.topology.row.long(), layer.topology.col.long()
weight = torch.zeros(500, 500)
weight[row, col] = layer.values.detach() + 0.1 * layer.values.grad
torch.testing.assert_close(y.detach(), x.detach() @ weight.t() + layer.bias.detach() + 0.1 * layer.bias.grad, atol=1e-3, rtol=1e-4)
torch.testing.assert_close(layer.values.grad, (x.detach().sum(0)[col]), atol=1e-4, rtol=1e-4)
"""

WITHOUT_COMPILER = """
try:
    with st.ops.use_backend("numba"):
        pass
except RuntimeError as error:
    assert "NUMBA_DISABLE_JIT" in str(error)
else:
    raise AssertionError
sparse = st.nn.SparseLinear(500, 500, topology=layer.topology, sparse_grad=True)
sparse(x.detach()).sum().backward()
print(st.ops.backend_for("cpu", torch.float32))
"""


LATER_COUNTER = """
import importlib.util, sys, torch
import sparsetrain as st
assert "torch.utils.flop_counter" not in sys.modules and "triton" not in sys.modules
assert importlib.util.find_spec("torch.utils.flop_counter")  # looked for, and not imported
from torch.utils.flop_counter import FlopCounterMode
layer, x = st.nn.SparseLinear(20, 10, density=0.3), torch.randn(5, 20)
with FlopCounterMode(display=False) as counter:
    layer(x)
assert counter.get_total_flops() == 2 * layer.topology.nnz * 5, counter.get_total_flops()
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, which settings are made for."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", **environment}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_no_call_changes_a_setting() -> None:
    run(SETTINGS, NUMBA_NUM_THREADS="4")


def test_importing_does_not_import_triton_and_floating_point_operations_are_counted() -> None:
    run(LATER_COUNTER)


def test_without_a_compiler_the_torch_backend_computes() -> None:
    done = run(TRAINED + WITHOUT_COMPILER, NUMBA_DISABLE_JIT="1")
    assert done.stdout.strip() == "torch"
    assert done.stderr.count("NUMBA_DISABLE_JIT") == 1


def test_on_workqueue_kernels_run_on_one_thread() -> None:
    said = run(TRAINED, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2").stderr
    assert said.count("kernels run on one thread") == 1
    assert "it was asked for" in said


@pytest.mark.parametrize(
    ("before", "after", "asked", "word"),
    [
        (None, "omp", "default", None),
        ("omp", "omp", "default", None),
        (None, "workqueue", "default", "found neither OpenMP"),
        ("workqueue", "workqueue", "default", "other code in this process"),
        (None, "workqueue", "workqueue", "it was asked for"),
        (None, "nothing of the kind", "nonsense", "No threading layer"),
    ],
)
def test_why_threads_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before: str | None,
    after: str,
    asked: str,
    word: str | None,
) -> None:
    layers = iter([before, after])

    def start() -> None:
        if asked == "nonsense":
            raise ValueError("No threading layer\n could be loaded.")

    monkeypatch.setattr(launch, "_layer", lambda: next(layers))
    monkeypatch.setattr(launch, "_start", start)
    monkeypatch.setattr(launch.numba.config, "THREADING_LAYER", asked)
    with caplog.at_level(logging.WARNING, "sparsetrain"):
        assert launch.start_threads() is (word is None)
    assert [word in message for message in caplog.messages] == ([] if word is None else [True])
