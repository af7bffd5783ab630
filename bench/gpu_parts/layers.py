"""One layer: forward, backward and Adam apart, by every way."""

from collections.abc import Iterator

import torch

import sparsetrain as st

from .machine import Machine, Result
from .ways import Steps, backends, optimizer_step

# the most telling first, should time run out
SIZES, BATCHES, DENSITIES = (4096, 1024, 8192), (1024, 8192, 128), (0.1, 0.01, 0.001, 0.5, 0.05)
DENSE = [(way, precision) for way in ("dense", "masked") for precision in ("fp32", "tf32", "bf16")]


def sparse_ways(machine: Machine) -> list[tuple[str, str]]:
    """Ours by each backend that computes there, by choice, and torch's own CSR."""
    ways = [("blocks", "fp32"), ("blocks", "tf32"), ("blocks", "bf16"), ("torch", "fp32"), ("torch CSR", "fp32")]
    if "triton" in backends(machine.device):
        ways += [("triton", "fp32"), ("triton", "bf16")]
    return [*ways, ("ours", "tf32"), ("ours", "bf16")]


def layers(machine: Machine) -> Iterator[Result]:
    """Milliseconds of each part of a step."""
    for n in machine.sizes(SIZES, (64,)):
        for batch in machine.sizes(BATCHES, (16,)):
            whole = st.Topology.from_mask(torch.rand(n, n, device=machine.device) < 0.1)
            for way, precision in DENSE:
                yield timed(machine, way, precision, whole, batch) | {"density": 1.0}
            del whole
            for density in machine.sizes(DENSITIES, (0.1,)):
                t = st.Topology.from_mask(torch.rand(n, n, device=machine.device) < density)
                for way, precision in sparse_ways(machine):
                    yield timed(machine, way, precision, t, batch) | {"density": density}
                del t


def timed(machine: Machine, way: str, precision: str, t: st.Topology, batch: int) -> Result:
    """One layer by one way, or why it can't be."""
    what: Result = {"size": t.shape[0], "batch": batch, "way": way, "precision": precision}
    try:
        steps = Steps(machine, way, precision, t, batch)
        forward, whole = machine.milliseconds(steps.forward), machine.milliseconds(steps.train)
        parameters = list(steps.layer.parameters())
        del steps
        adam = machine.milliseconds(optimizer_step(parameters))
    except (RuntimeError, NotImplementedError) as error:
        return what | {"failed": f"{type(error).__name__}: {error}"[:300]}
    times = {"forward_ms": forward, "backward_ms": whole - forward, "adam_ms": adam, "step_ms": whole + adam}
    if way == "ours":
        what["chosen"] = st.ops.choice(t, batch, torch.bfloat16 if precision == "bf16" else torch.float32).backend
    return what | {name: round(ms, 5) for name, ms in times.items()}
