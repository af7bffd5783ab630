"""Where Triton can compute. It comes with torch for CUDA, and nothing imports it before it is used."""

import os
from functools import cache
from importlib.util import find_spec

import torch


def usable(device: torch.device | str) -> bool:
    """Whether Triton's kernels can run on this device: Triton is installed, and the device is CUDA's, or a CPU while
    the interpreter is on.

    Example:
        >>> usable("meta")
        False
    """
    return _installed() and torch.device(device).type == ("cpu" if interpreted() else "cuda")


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU: Triton asks for the variable when they are imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


@cache
def _installed() -> bool:
    return find_spec("triton") is not None
