"""The machine: how busy it is, how much memory it has, and what a record says about it."""

import os
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sparsetrain.cli.environment import cpu, surroundings

PEER_PACKAGES = ("sparseprop", "sparselab", "torch-scatter", "torch-sparse", "fbgemm-gpu-cpu", "pytest-benchmark")
MOST_LOAD = 0.5  # per core: past it somebody else's work is measured as well

IMPORT = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


def environment(command: str) -> dict[str, Any]:
    """Where and how everything is measured from now on, and how busy the machine was before."""
    found = surroundings()
    found["versions"] |= {package: _version(package) for package in PEER_PACKAGES}
    return {**found, "command": command}


def too_busy() -> str:
    """Why nothing should be timed now; empty where it may be."""
    load, cores = os.getloadavg()[0], cpu()["cores"]
    if load <= MOST_LOAD * cores:
        return ""
    return (
        f"The load average is {load:.2f} on {cores} cores, expected at most {MOST_LOAD * cores:.2f}: other programs "
        "would be measured as well. Wait until they are done, or pass --busy and read the ratios alone."
    )


def memory_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@cache
def import_seconds(module: str) -> float:
    """Seconds of importing a module in a fresh interpreter, with all that it imports."""
    script = [sys.executable, "-W", "ignore", "-c", IMPORT.format(module=module)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else 0.0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
