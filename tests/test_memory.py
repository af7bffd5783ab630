"""Nothing of size rows x columns is made: the whole training step of a layer that could not exist densely."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STEP = """
import torch
import sparsetrain as st

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20

generator = torch.Generator().manual_seed(0)
small = st.nn.SparseLinear(8, 8, density=0.5)
small(torch.ones(32, 8)).sum().backward()  # loads the kernels
start = high_water()
t = st.patterns.uniform((200_000, 200_000), 1_000_000 / 200_000**2, generator)
layer = st.nn.SparseLinear(200_000, 200_000, topology=t)
optimizer = torch.optim.Adam(layer.parameters())
x = torch.randn(32, 200_000, requires_grad=True)
layer(x).pow(2).mean().backward()
optimizer.step()
print(t.nnz, x.grad.abs().sum() > 0, high_water() - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the high-water mark of memory from /proc")
def test_a_step_of_a_layer_of_200_000_by_200_000() -> None:
    # in a process of its own: the high-water mark is the process's
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": "/usr/bin:/bin"})  # fmt: skip
    nnz, moved, grown = done.stdout.split()
    assert (nnz, moved) == ("1000000", "tensor(True)")
    assert float(grown) < 1.0, f"{grown} GiB above the start"
