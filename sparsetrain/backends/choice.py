"""Which backend computes a product: by request, or by shape, structure, dtype and device; never by timing."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from .. import checks
from ..dtypes import FLOATS, HALVES
from ..structure.topology import Topology
from .blocks import products as block_products
from .cost import blocks_are_faster_on_cpu, blocks_are_faster_on_cuda
from .dense_products import tf32_is_allowed, torch_is_as_fast
from .numba import products as numba_products
from .protocol import Backend
from .torch import products as torch_products
from .triton import products as triton_products
from .triton.available import usable


class Automatic:
    """A backend that asks for each product which one is to compute it. Graphs carry its name, and so their batches may
    have any size."""

    def spmm(self, t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
        return BACKENDS[fastest(t, x, gradients=False)].spmm(t, values, x, bias, transpose)

    def sddmm(self, t: Topology, a: Tensor, b: Tensor) -> Tensor:
        return BACKENDS[fastest(t, a, gradients=True)].sddmm(t, a, b)

    def backward(
        self, t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return BACKENDS[fastest(t, x, gradients=True)].backward(t, values, x, dy, bias)


AUTOMATIC = "automatic"
FORCIBLE: dict[str, Backend] = {
    "numba": numba_products,
    "torch": torch_products,
    "blocks": block_products,
    "triton": triton_products,
}
BACKENDS: dict[str, Backend] = {AUTOMATIC: Automatic()} | FORCIBLE


class _Forced(threading.local):
    """What use_backend asks for, in this thread."""

    name: str | None = None


_forced = _Forced()


class Choice(NamedTuple):
    """What computes the products of a layer, and why."""

    backend: str  # of the forward pass
    reason: str
    gradients: str  # the backend of the backward pass


def choice(
    layer: Any, batch: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Choice:
    """Which backend computes the products of a layer with a batch of so many samples, and why.

    Args:
        layer: a layer with a topology, or a Topology.
        batch: number of samples.
        dtype: of the activations, that of the layer's values or float32 by default.
        device: where it computes, by default where the topology is.

    Returns:
        ``backend`` (``"numba"``, ``"blocks"``, ``"triton"`` or ``"torch"``), ``reason`` and ``gradients``, the backend
        of the backward pass.

    Raises:
        TypeError: another dtype, a layer without a topology, a convolution, or a batch that is no integer. ValueError:
        a batch that is negative.

    Example:
        >>> import torch
        >>> from sparsetrain.nn import SparseLinear
        >>> choice(SparseLinear(512, 512, density=0.05), batch=128).backend
        'numba'
        >>> choice(SparseLinear(512, 512, density=1.0), batch=128)
        Choice(backend='blocks', reason='every position has an edge: the values are the matrix', gradients='blocks')
    """
    topology = layer if isinstance(layer, Topology) else getattr(layer, "topology", None)
    if not isinstance(topology, Topology):
        raise TypeError(f"choice: expected a Topology or a layer that has one, got {type(layer).__name__}.")
    if hasattr(layer, "geometry"):
        raise TypeError(
            f"choice: expected a layer of products, got {type(layer).__name__}. What computes a convolution depends on "
            "the size of its images as well."
        )
    batch = checks.count("choice", "batch", batch)
    if dtype is None:
        values = getattr(layer, "values", None)
        dtype = values.dtype if isinstance(values, Tensor) else torch.float32
    if dtype not in (*FLOATS, *HALVES):
        raise TypeError(f"choice: expected float16, bfloat16, float32 or float64, got {dtype}.")
    place = topology.device if device is None else torch.device(device)
    forced = asked_for(place)
    if forced != AUTOMATIC:
        return Choice(forced, "use_backend asks for it", forced)
    forward, backward = (_fastest(topology, batch, dtype, place, gradients) for gradients in (False, True))
    return Choice(forward, _reason(topology, batch, place, forward), backward)


def backend_for(device: torch.device | str, dtype: torch.dtype) -> str:
    """The backend of sparse structures on a device: the one forced by use_backend, else "numba" on a CPU, else "torch".

    ``choice`` tells what computes a layer's products, which goes by its shape and density as well. With
    NUMBA_DISABLE_JIT set it is never "numba".

    Args:
        device: where the operands are.
        dtype: float32 or float64, the types that values have.

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
            f"backend_for: expected float32 or float64, got {dtype}. Values have these types; activations may be in "
            "half precision beside them."
        )
    if _forced.name is not None:
        return _forced.name
    if not COMPILES:
        _say_what_computes()
        return "torch"
    return "numba" if torch.device(device).type == "cpu" else "torch"


def asked_for(device: torch.device) -> str:
    """The backend that use_backend asks for, or the automatic one: what a product and its gradients go by.

    Raises:
        RuntimeError: the one that is asked for does not compute on this device.
    """
    name = _forced.name
    if name == "numba" and device.type not in ("cpu", "meta"):
        raise RuntimeError(f"use_backend: numba computes on a CPU, and the operands are on {device}. Ask for blocks.")
    if name == "triton" and device.type != "meta" and not usable(device):
        raise RuntimeError(
            f"use_backend: triton computes on CUDA where it is installed, and the operands are on {device}. Ask for "
            "blocks."
        )
    return name or AUTOMATIC


def is_plain_matrix(t: Topology, device: torch.device) -> bool:
    """Whether a layer is best computed as nn.Linear is, by torch's own product and its gradients: each position has an
    edge, and nobody asks for another way."""
    full = t.nnz == t.numel > 0 and _forced.name is None
    return full and (device.type != "cpu" or torch_is_as_fast())


def fastest(t: Topology, x: Tensor, gradients: bool) -> str:
    """The backend of a product with x, (features, batch), or of its gradients."""
    return _fastest(t, x.shape[1], x.dtype, x.device, gradients)


def _fastest(t: Topology, batch: int, dtype: torch.dtype, device: torch.device, gradients: bool) -> str:
    if device.type == "cpu":
        if not COMPILES:
            _say_what_computes()
            return "torch"
        return "blocks" if blocks_are_faster_on_cpu(t.numel, t.nnz, batch, gradients) else "numba"
    if device.type != "cuda":
        return "torch"
    over_edges = "triton" if usable(device) else "torch"
    tf32, fused = tf32_is_allowed(), over_edges == "triton"
    if blocks_are_faster_on_cuda(t.numel, t.nnz, batch, dtype, fused=fused, tf32=tf32):
        return "blocks"
    return over_edges if fused or not torch.are_deterministic_algorithms_enabled() else "blocks"


def _reason(t: Topology, batch: int, device: torch.device, backend: str) -> str:
    if backend == "blocks" and t.nnz == t.numel:
        return "every position has an edge: the values are the matrix"
    if device.type == "cpu" and not COMPILES:
        return "numba's compiler is switched off"
    if device.type not in ("cpu", "cuda"):
        return f"it computes wherever torch does; nothing was measured on {device.type}"
    if device.type == "cuda" and not usable(device) and torch.are_deterministic_algorithms_enabled():
        return "torch.use_deterministic_algorithms is set, and torch.sparse adds in an order that varies"
    beside = f"at density {t.density:.3g} and a batch of {batch}"
    if backend == "blocks":
        return f"{beside}, dense products of blocks take less time than kernels over the edges"
    return f"{beside}, {'kernels' if backend == 'numba' else 'products'} over the edges take less time than blocks"


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
        name: ``"numba"`` (CPUs), ``"triton"`` (CUDA), ``"torch"`` (torch.sparse), or ``"blocks"``, which computes by
            dense products.

    Raises:
        ValueError: an unknown name. RuntimeError: ``"numba"`` while NUMBA_DISABLE_JIT is set; and from a product, whose
        operands are on a device that the backend does not compute on.

    Example:
        >>> with use_backend("torch"):
        ...     backend_for("cpu", torch.float32)
        'torch'
    """
    if name not in FORCIBLE:
        raise ValueError(f"use_backend: expected one of {sorted(FORCIBLE)}, got {name!r}.")
    if name == "numba" and not COMPILES:
        raise RuntimeError("use_backend: numba's compiler is switched off. Start Python without NUMBA_DISABLE_JIT.")
    before, _forced.name = _forced.name, name
    try:
        yield
    finally:
        _forced.name = before
