"""What a device shows beyond numbers: the same bits in each run, nothing that waits, graphs, and no stray access."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsetrain as st

from .machine import Machine, Result
from .ways import ACTIVATION, backends

REPEATS = 20
TOOLS, SANITIZER_SECONDS = ("memcheck", "racecheck"), 40
BENCH = Path(__file__).parent.parent
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
    yield from sanitized(machine)


def outcome(check: Callable[..., str], *operands: Any) -> str:
    """What a check says, or how it failed."""
    try:
        return check(*operands)
    except RuntimeError as error:
        return f"failed: {error}"[:300]


def under_sanitizer(device: str) -> None:
    """What compute-sanitizer looks at: each of our kernels for products once, in tiny shapes."""
    machine = Machine(torch.device(device), tiny=True)
    for precision in ("fp32", "bf16"):
        for backend in backends(machine.device):
            a_step(machine, backend, precision)


def sanitized(machine: Machine) -> Iterator[Result]:
    """The last line of compute-sanitizer's tools, which run at the same time."""
    needed = "compute-sanitizer" if machine.on_cuda else "CUDA"
    there = machine.on_cuda and shutil.which("compute-sanitizer") is not None
    code = "from gpu_parts.without_numba import make_importable; make_importable(); "
    code += f"from gpu_parts.checks import under_sanitizer; under_sanitizer({str(machine.device)!r})"
    # stray accesses would fall into the memory that torch keeps
    paths = os.pathsep.join((str(BENCH), os.environ.get("PYTHONPATH", "")))
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": paths}
    running = {
        tool: subprocess.Popen(
            ["compute-sanitizer", "--tool", tool, sys.executable, "-c", code],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        for tool in TOOLS if there
    }  # fmt: skip
    end = time.monotonic() + SANITIZER_SECONDS
    for tool in TOOLS:
        found = f"left out: needs {needed}" if tool not in running else last_line(running[tool], end)
        yield {"sanitizer": tool, "found": found}


def last_line(process: "subprocess.Popen[str]", end: float) -> str:
    """What a process said last, which is ended where it takes too long."""
    try:
        said, _ = process.communicate(timeout=max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool and what it looks at
        process.communicate()
        return "out of time"
    return f"exit {process.returncode}: {said.strip().splitlines()[-1:]}"
