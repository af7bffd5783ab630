"""Where the time of a small step goes: processor time of each way into a layer, on one thread.

    python bench/call_overhead.py [--shape 784x1000x128] [--density 0.01] [--repeats 200] [--rounds 11]

Microseconds a call, medians of rounds that take turns. "kernel" is the compiled form, with arrays and scratch made
before; "backend" makes results, scratch and arrays of tensors as well; "layer" is called without gradients. "autograd"
is a step whose backend does nothing but allocate results, and "step" is a whole forward and backward pass. A step takes
longer than the sum of its parts, since each of those finds its code and its data in the caches when it is called again
and again.
"""

import argparse
import importlib
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # before the first import that reads them

import torch  # noqa: E402
from sparsetrain_bench.rounds import measure  # noqa: E402
from torch import Tensor  # noqa: E402

import sparsetrain as st  # noqa: E402
from sparsetrain.backends.choice import BACKENDS  # noqa: E402
from sparsetrain.backends.layout import empty_like_layout  # noqa: E402
from sparsetrain.backends.numba import products  # noqa: E402

SHAPES = ["64x64x16", "256x256x64", "784x1000x128"]
ORDER = random.Random(0)
Calls = Mapping[str, Callable[[], object]]


class Idle:
    """A backend that allocates results and computes nothing."""

    def spmm(self, t: st.Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
        return empty_like_layout(x, t.shape[0])

    def backward(self, t: st.Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, ...]:
        return values.new_empty(t.nnz), empty_like_layout(x, t.shape[1]), values.new_empty(t.shape[0])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="*", default=SHAPES, help="inputs x outputs x batch")
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=11)
    return parser.parse_args()


def kernels(step: Callable[[], object]) -> list[Callable[[], object]]:
    """The compiled kernels that a step runs, forward and backward, with their arguments."""
    launch = importlib.import_module("sparsetrain_kernels.launch")
    run, calls = launch._run, []

    def recorded(kernel: Any, threads: int, args: tuple[Any, ...]) -> object:
        calls.append(lambda: run(kernel, threads, args))
        return run(kernel, threads, args)

    with patch.object(launch, "_run", recorded):
        step()
    return calls


def ways(inputs: int, outputs: int, batch: int, density: float) -> Calls:
    """What is timed."""
    layer = st.nn.SparseLinear(inputs, outputs, density=density)
    x, dy = torch.randn(batch, inputs, requires_grad=True), torch.randn(batch, outputs)
    t, values, columns = layer.topology, layer.values.detach(), x.detach().t()
    bias = torch.zeros(outputs)
    leaves = (*layer.parameters(), x)

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        layer(x).backward(dy)

    def idle_step() -> None:
        with patch.dict(BACKENDS, idle):
            step()

    def untracked() -> None:
        with torch.no_grad():
            layer(x)

    idle: Any = dict.fromkeys(BACKENDS, Idle())
    step()
    forward, backward = kernels(step)
    return {
        "kernel": forward,
        "backend": lambda: products.spmm(t, values, columns, bias, False),
        "layer": untracked,
        "kernel back": backward,
        "backend back": lambda: products.backward(t, values, columns, dy.t(), True),
        "autograd": idle_step,
        "step": step,
    }


def measured(calls: Calls, repeats: int, rounds: int) -> dict[str, float]:
    """Microseconds of processor time of each call."""
    times = measure(calls, rounds, ORDER, warmup=0, clock=time.thread_time, repeats=repeats)
    return {name: 1e6 * statistics.median(run) for name, run in times.items()}


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, one thread, density {options.density:g}, load {load:.2f}, microseconds")
    for shape in options.shape:
        inputs, outputs, batch = map(int, shape.split("x"))
        calls = ways(inputs, outputs, batch, options.density)
        found = measured(calls, options.repeats, options.rounds)
        print(
            f"{shape}: " + ", ".join(f"{name} {microseconds:.0f}" for name, microseconds in found.items()), flush=True
        )


if __name__ == "__main__":
    main()
