"""Which backend computes an operation."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from sparsetrain_kernels.jit import COMPILES

from .blocks import products as block_products
from .dtypes import FLOATS
from .numba import products as numba_products
from .protocol import Backend
from .torch import products as torch_products

BACKENDS: dict[str, Backend] = {"numba": numba_products, "torch": torch_products, "blocks": block_products}


class _Forced(threading.local):
    """What use_backend asks for, in this thread."""

    name: str | None = None


_forced = _Forced()


def backend_for(device: torch.device | str, dtype: torch.dtype) -> str:
    """The backend that computes on this device: the one forced by use_backend, else "numba" on a CPU, else "torch".

    With NUMBA_DISABLE_JIT set it is always "torch".

    Args:
        device: where the operands are.
        dtype: float32 or float64, the types that are computed in.

    Returns:
        ``"numba"`` or ``"torch"``.

    Raises:
        TypeError: another dtype.

    Example:
        >>> backend_for("cpu", torch.float32)
        'numba'
    """
    if dtype not in FLOATS:
        raise TypeError(
            f"backend_for: expected float32 or float64, got {dtype}. Convert with .float(), or use torch.autocast."
        )
    if _forced.name is not None:
        return _forced.name
    if not COMPILES:
        _say_what_computes()
        return "torch"
    return "numba" if torch.device(device).type == "cpu" else "torch"


@cache
def _say_what_computes() -> None:
    """Once."""
    logging.getLogger("sparsetrain").warning(
        "sparsetrain: numba's compiler is switched off (NUMBA_DISABLE_JIT). The torch backend computes, which is "
        "slower."
    )


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with one backend inside the block; a backward pass keeps the choice of its forward pass.

    Args:
        name: ``"numba"`` (CPU only) or ``"torch"``.

    Raises:
        ValueError: an unknown name. RuntimeError: ``"numba"`` while NUMBA_DISABLE_JIT is set.

    Example:
        >>> with use_backend("torch"):
        ...     backend_for("cpu", torch.float32)
        'torch'
    """
    if name not in BACKENDS:
        raise ValueError(f"use_backend: expected one of {sorted(BACKENDS)}, got {name!r}.")
    if name == "numba" and not COMPILES:
        raise RuntimeError("use_backend: numba's compiler is switched off. Start Python without NUMBA_DISABLE_JIT.")
    before, _forced.name = _forced.name, name
    try:
        yield
    finally:
        _forced.name = before
