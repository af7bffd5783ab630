"""What the machine is, what it can do at best, and the constants of the cost model that follow."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from statistics import median

import torch

import sparsetrain as st
from sparsetrain.backends import cost
from sparsetrain.backends.triton.available import usable

from .machine import Machine, Result
from .ways import Steps, tensor_cores

PACKAGES = ("torch", "triton", "numba", "llvmlite", "numpy", "scipy", "safetensors", "pytest", "hypothesis")


def surroundings(machine: Machine, numba: str) -> Result:
    """Versions and the device; ``numba`` says whether it works."""
    found: Result = {"python": platform.python_version(), "numba works": numba, "cores": os.cpu_count()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    found["device"] = platform.processor() or platform.machine()
    if machine.on_cuda:
        properties = torch.cuda.get_device_properties(machine.device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "l2_mib": round(getattr(properties, "L2_cache_size", 0) / 2**20, 1),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return found


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi"
    command = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() or done.stderr.strip()


def copied(machine: Machine) -> float:
    """Bytes that are read and written in a second."""
    source = machine.normal(machine.sizes(2**28, 2**12))
    target = torch.empty_like(source)
    return 2000 * source.nbytes / machine.milliseconds(lambda _: target.copy_(source))


def ceilings(machine: Machine) -> Iterator[Result]:
    """Bytes a second of a copy, and operations a second of dense products."""
    yield {"ceiling": "copy", "constant": "MEMORY", "a second": copied(machine)}
    for precision, dtype, n in (
        ("fp32", torch.float32, 8192), ("tf32", torch.float32, 8192), ("bf16", torch.bfloat16, 8192),
        ("fp16", torch.float16, 8192), ("fp64", torch.float64, 4096),
    ):  # fmt: skip
        size = machine.sizes(n, 64)
        a, b = machine.normal(size, size, dtype=dtype), machine.normal(size, size, dtype=dtype)
        with tensor_cores(precision == "tf32"):
            ms = machine.milliseconds(lambda _, a=a, b=b: a @ b)  # type: ignore[misc]
        constant = "TF32" if precision == "tf32" else f"THROUGHPUT[{dtype}]"
        yield {"ceiling": f"{size}³ {precision}", "constant": constant, "a second": 2 * size**3 / ms * 1000}


def csr_rates(machine: Machine) -> Iterator[Result]:
    """Edges times samples a second of products over the edges, by cuSPARSE and by our kernels, and the bytes a second
    that the latter read."""
    n, batch = machine.sizes((4096, 1024), (48, 16))
    ways = [("torch", "fp32")] + ([("triton", "fp32"), ("triton", "bf16")] if usable(machine.device) else [])
    for density in machine.sizes((0.05, 0.01, 0.001), (0.1,)):
        t = st.Topology.from_mask(torch.rand(n, n, device=machine.device) < density)
        for way, precision in ways:
            ms = machine.milliseconds(Steps(machine, way, precision, t, batch).forward)
            size = 2 if precision == "bf16" else 4
            constant, unit = ("CUSPARSE", 1) if way == "torch" else ("CACHE", size)
            yield {
                "ceiling": f"{way} {precision}, {n}², density {density}, batch {batch}", "constant": constant,
                "a second": t.nnz * batch * unit / ms * 1000,
            }  # fmt: skip


def probe(machine: Machine) -> Iterator[Result]:
    """Ceilings, then what the constants of the cost model would be on this device, beside what they are."""
    found: dict[str, list[float]] = {}
    for result in (*ceilings(machine), *csr_rates(machine)):
        found.setdefault(result["constant"], []).append(result["a second"])
        yield result
    for constant, rates in found.items():
        yield {
            "suggestion for sparsetrain/backends/cost.py": constant,
            "a second": median(rates),
            "now": _now(constant),
        }


def _now(constant: str) -> float:
    name, _, key = constant.rstrip("]").partition("[torch.")
    value = getattr(cost, name)
    return float(value[getattr(torch, key)] if key else value)
