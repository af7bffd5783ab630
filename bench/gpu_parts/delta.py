"""A frozen linear layer with a few trainable edges, beside the frozen layer alone and beside training all of it."""

from collections.abc import Iterator

import torch
from torch import nn

import sparsetrain as st

from .machine import Machine, Result

SIZE, EDGES, TOKENS = 4096, 131_072, 2048


def delta(machine: Machine) -> Iterator[Result]:
    """Milliseconds of forward with backward to the input and to what trains."""
    n, edges, tokens = machine.sizes((SIZE, EDGES, TOKENS), (64, 256, 16))
    places = torch.randperm(n * n, device=machine.device)[:edges]
    t = st.Topology.from_coo(places // n, places % n, shape=(n, n))
    for dtype in (torch.float32, torch.bfloat16):
        x, dy = machine.turns(tokens, n, dtype=dtype), machine.turns(tokens, n, dtype=dtype)
        for way in ("frozen", "edges", "all"):
            linear = nn.Linear(n, n, device=machine.device, dtype=dtype)
            linear.requires_grad_(way == "all")
            layer = st.nn.SparseDeltaLinear(linear, t) if way == "edges" else linear
            wanted = [parameter for parameter in layer.parameters() if parameter.requires_grad]

            def step(k: int, layer: nn.Module = layer, wanted: list[nn.Parameter] = wanted) -> object:
                given = x[k % len(x)].requires_grad_()  # noqa: B023
                return torch.autograd.grad(layer(given), [given, *wanted], dy[k % len(dy)])  # noqa: B023

            what: Result = {"size": n, "edges": edges, "tokens": tokens, "dtype": str(dtype), "trains": way}
            yield what | {
                "device_ms": machine.milliseconds(step),
                "from_step_to_step_ms": machine.wall_milliseconds(step),
            }
