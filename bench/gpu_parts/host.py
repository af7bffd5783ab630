"""A small layer, whose steps take the host longer than the device: eager, as a CUDA graph, compiled."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

import sparsetrain as st

from .machine import Machine, Result
from .ways import layer_of

BATCH, DENSITIES = 128, (0.1, 0.001)


def host(machine: Machine) -> Iterator[Result]:
    """Milliseconds from step to step, forward and backward, in float32 by torch's own setting."""
    n = machine.sizes(1024, 64)
    for density in machine.sizes(DENSITIES, (0.1,)):
        t = st.Topology.from_mask(torch.rand(n, n, device=machine.device) < density)
        for way in ("dense", "ours"):
            layer, x = layer_of(way, t), machine.normal(BATCH, n)
            for form, make in FORMS.items():
                what: Result = {"size": n, "batch": BATCH, "density": density, "way": way, "form": form}
                if not machine.on_cuda and form != "eager":
                    yield what | {"left out": "needs CUDA"}
                    continue
                try:
                    yield what | {"ms": round(machine.wall_milliseconds(make(layer, x)), 5)}
                except Exception as error:  # compilers fail in many ways
                    yield what | {"failed": f"{type(error).__name__}: {error}"[:500]}


def eager(layer: nn.Module, x: Tensor) -> Callable[[int], object]:
    """Forward and backward as they come."""
    parameters = list(layer.parameters())
    return lambda _: torch.autograd.grad(layer(x).square().sum(), parameters)


def captured(layer: nn.Module, x: Tensor) -> Callable[[int], object]:
    """One CUDA graph of both."""
    step = eager(layer, x)
    cuda: Any = torch.cuda  # untyped
    beside = cuda.Stream()
    beside.wait_stream(cuda.current_stream())
    with cuda.stream(beside):
        for k in range(3):
            step(k)
    cuda.current_stream().wait_stream(beside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        kept = step(0)
    return lambda _: (graph.replay(), kept)


def compiled(mode: str | None) -> Callable[[nn.Module, Tensor], Callable[[int], object]]:
    """By torch.compile; what a graph returns is used before the next call overwrites it."""

    def make(layer: nn.Module, x: Tensor) -> Callable[[int], object]:
        torch._dynamo.reset()
        loss: Any = torch.compile(lambda x: layer(x).square().sum(), mode=mode)
        parameters, begin = list(layer.parameters()), cast(Any, torch.compiler.cudagraph_mark_step_begin)

        def step(_: int) -> object:
            begin()
            return torch.autograd.grad(loss(x), parameters)

        return step

    return make


FORMS = {
    "eager": eager,
    "CUDA graph": captured,
    "compiled": compiled(None),
    "reduce-overhead": compiled("reduce-overhead"),
}
