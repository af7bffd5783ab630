"""What a device shows beyond numbers: the same bits in each run, nothing that waits, graphs, and no stray access."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsetrain as st

from .machine import Machine, Result
from .ways import ACTIVATION, backends

REPEATS = 20
SCRIPT = Path(__file__).parent.parent / "gpu.py"
Run = Callable[[], list[Tensor]]


def a_step(machine: Machine, backend: str, precision: str) -> tuple[Run, Tensor]:
    """Forward and backward of one layer, and the input that it reads each time."""
    n, batch = machine.sizes((1000, 500), (31, 16))
    t = st.Topology.from_mask(torch.rand(n, n + 1, device=machine.device) < 0.05)
    layer = st.nn.SparseLinear(n + 1, n, topology=t, device=machine.device)
    x = machine.normal(batch, n + 1, dtype=ACTIVATION[precision]).requires_grad_()
    dy = machine.normal(batch, n, dtype=ACTIVATION[precision])

    def run() -> list[Tensor]:
        with st.ops.use_backend(backend):
            y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy)]

    run()  # compiles, and makes what follows from the structure
    return run, x


def same_bits(run: Run) -> str:
    """Whether each run gives what the first gave."""
    first = run()
    differ = sum(not all(map(torch.equal, run(), first)) for _ in range(REPEATS))
    return f"{differ} of {REPEATS} differ" if differ else "same"


def no_waiting(run: Run) -> str:
    """Whether the host goes on without asking the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def replays(run: Run, x: Tensor) -> str:
    """Whether a graph that was captured gives for another input what a run gives."""
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    got = [each.clone() for each in kept]
    expected = run()
    worst = max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(got, expected, strict=True))
    return f"error {worst:.1e}"


def checks(machine: Machine) -> Iterator[Result]:
    """A result for each backend and type, then those of compute-sanitizer, in processes of their own."""
    for backend in backends(machine.device):
        for precision in ("fp32", "bf16"):
            run, x = a_step(machine, backend, precision)
            result: Result = {"backend": backend, "precision": precision, "repeats": outcome(same_bits, run)}
            if machine.on_cuda:
                result["waits"] = outcome(no_waiting, run)
                result["graph"] = outcome(replays, run, x)
            yield result
    for tool in ("memcheck", "racecheck"):
        yield {"sanitizer": tool, "found": sanitized(machine, tool)}


def outcome(check: Callable[..., str], *operands: Any) -> str:
    """What a check says, or how it failed."""
    try:
        return check(*operands)
    except RuntimeError as error:
        return f"failed: {error}"[:300]


def sanitized(machine: Machine, tool: str) -> str:
    """The last line of compute-sanitizer over the part "correct", in tiny shapes."""
    if not machine.on_cuda or shutil.which("compute-sanitizer") is None:
        return "left out: " + ("needs compute-sanitizer" if machine.on_cuda else "needs CUDA")
    script = [sys.executable, str(SCRIPT), "--tiny", "--device", str(machine.device), "--parts", "correct"]
    command = ["compute-sanitizer", "--tool", tool, "--kernel-name", "kernel_substring=_", *script]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # stray accesses would fall into its cache
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "out of time"
    return f"exit {done.returncode}: {(done.stdout + done.stderr).strip().splitlines()[-1:]}"
