"""Where a figure was measured: versions, processor, threads."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numba
import torch
from llvmlite import binding
from sparsetrain_kernels.width import VECTOR_BYTES, host_bytes

PACKAGES = ("sparsetrain", "torch", "numba", "numpy", "scipy")
FEATURES = ("avx512f", "avx2", "fma", "neon")
CPUINFO = Path("/proc/cpuinfo")


def version_of(package: str) -> str:
    """The installed version; ``unknown`` for sources that run without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def surroundings() -> dict[str, Any]:
    """What a figure measured from now on depends on: software, processor, date, and how busy the machine is."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"versions": versions(), "cpu": cpu(), "date": date, "load_average": os.getloadavg()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in PACKAGES}}


def cpu() -> dict[str, Any]:
    """Model, instruction sets and vector width of the processor."""
    present = binding.get_host_cpu_features()
    return {
        "model": _model(),
        "cores": cores(),
        "features": [name for name in FEATURES if present.get(name)],
        "vector_bytes": VECTOR_BYTES,
        "widest_vector_bytes": host_bytes(),
    }


def cores() -> int:
    """Hardware threads that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> dict[str, Any]:
    """Threads of torch and numba, and what numba's run on."""
    number = numba.get_num_threads()  # starts the threads, without which the layer is not known
    layer = numba.threading_layer()
    return {"torch": torch.get_num_threads(), "numba": number, "numba_layer": layer}


def _model() -> str:
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
