"""A stack of layers with Adam: what is kept between steps, and the most that a step takes."""

from collections.abc import Iterator

import torch
from torch import nn

import sparsetrain as st

from .machine import Machine, Result
from .ways import layer_of

LAYERS, SIZE, DENSITY, BATCH = 24, 4096, 0.1, 512


def memory(machine: Machine) -> Iterator[Result]:
    """Bytes counted, and on CUDA as its allocator has them; batches in bf16 under autocast."""
    for way in ("ours", "dense", "masked"):
        if machine.on_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(machine.device)
        before = torch.cuda.memory_allocated(machine.device) if machine.on_cuda else 0
        result = trained(machine, way)
        if machine.on_cuda:
            result["peak_gb"] = (torch.cuda.max_memory_allocated(machine.device) - before) / 1e9
        yield result


def trained(machine: Machine, way: str) -> Result:
    """Two steps of a stack, and what is kept after them; gradients count."""
    n, depth, batch = machine.sizes((SIZE, LAYERS, BATCH), (64, 2, 16))
    topologies = [st.Topology.from_mask(torch.rand(n, n, device=machine.device) < DENSITY) for _ in range(depth)]
    model = nn.Sequential(*(layer_of(way, t) for t in topologies))
    if way == "dense":
        topologies = []
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast(machine.device.type, torch.bfloat16):
            loss = model(machine.normal(batch, n, dtype=torch.bfloat16)).float().square().mean()
        loss.backward()
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    tensors = [*model.parameters(), *model.buffers(), *gradients, *states]
    kept = sum(each.nbytes for each in tensors) + (sum(t.nbytes for t in topologies) if way == "ours" else 0)
    result: Result = {"way": way, "layers": depth, "size": n, "density": DENSITY, "batch": batch, "kept_gb": kept / 1e9}
    return result
