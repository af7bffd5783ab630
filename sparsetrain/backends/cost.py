"""What products cost by one way and by another: arithmetic over shapes, measured constants and nothing else, so that a
choice never changes from run to run.

On a CPU the unit is the dense product of the same shape. A kernel takes time in proportion to the density; what its
backward pass does once for an edge, and what a block's expansion does once for a position, weighs the more the smaller
the batch is. The constants are from AMD's Zen 4 with vectors of 64 and of 32 bytes, one thread, batches of 100 to 1,024
(``python bench/ways.py``); those of 16 bytes follow from those of 32. On a GPU both sides are estimates from bandwidth
and throughput of an H100.
"""

from typing import NamedTuple

import torch
from sparsetrain_kernels.width import VECTOR_BYTES

LEAST = 2**22  # multiplications, below which a product through blocks costs more calls than it saves


class Rates(NamedTuple):
    """Of kernels, for each unit of density; ``per_edge`` and ``expansion`` are for a batch of one sample."""

    forward: float
    backward: float
    per_edge: float
    expansion: float


RATES = {64: Rates(1.75, 1.35, 95, 25), 32: Rates(1.75, 1.9, 55, 30), 16: Rates(1.75, 1.9, 55, 50)}


class ConvolutionRates(NamedTuple):
    """Of the kernels of convolutions, in multiplications of the dense one: for each edge at a position, and for each
    number that moves into a panel or out of it."""

    forward: float
    backward: float
    moved_forward: float
    moved_backward: float


CONVOLUTION_RATES = {
    64: ConvolutionRates(2.0, 1.3, 10, 6),
    32: ConvolutionRates(1.8, 1.6, 10, 6),
    16: ConvolutionRates(1.8, 1.6, 10, 6),
}

MEMORY, CACHE = 3.0e12, 5.5e12  # bytes a second that a GPU copies, and that its L2 delivers
CUSPARSE = 1.5e12  # edges times samples a second
THROUGHPUT = {torch.float64: 50e12, torch.float32: 50e12, torch.float16: 680e12, torch.bfloat16: 680e12}
TF32 = 340e12


def blocks_are_faster_on_cpu(numel: int, nnz: int, batch: int, gradients: bool) -> bool:
    """Whether dense blocks take less time than kernels, for a product or for both gradients of one.

    Example:
        >>> blocks_are_faster_on_cpu(2**20, 2**20 * 9 // 10, batch=512, gradients=True)
        True
        >>> blocks_are_faster_on_cpu(2**20, 2**20 // 5, batch=512, gradients=True)
        False
    """
    if nnz == numel:
        return True
    if numel * batch < LEAST:
        return False
    rates = RATES[VECTOR_BYTES]
    for_density = rates.backward + rates.per_edge / batch if gradients else rates.forward
    return nnz / numel * for_density > 1 + rates.expansion / batch


def blocks_convolve_faster(multiplications: float, at_edges: float, moved: float, gradients: bool) -> bool:
    """Whether a convolution through dense blocks takes less time than by kernels on a CPU, or both gradients of one.

    Args:
        multiplications: of the dense convolution of one image.
        at_edges: edges times positions that kernels compute for it.
        moved: numbers of it that kernels move into panels and out of them.

    Example:
        >>> blocks_convolve_faster(2**26, 2**26 * 0.05, 2**17, gradients=False)
        False
        >>> blocks_convolve_faster(2**26, 2**26 * 0.9, 2**17, gradients=False)
        True
    """
    rates = CONVOLUTION_RATES[VECTOR_BYTES]
    per_edge, per_number = (rates.backward, rates.moved_backward) if gradients else (rates.forward, rates.moved_forward)
    return per_edge * at_edges + per_number * moved > multiplications


def blocks_are_faster_on_cuda(numel: int, nnz: int, batch: int, dtype: torch.dtype, *, fused: bool, tf32: bool) -> bool:
    """Whether dense blocks take less time than CSR on a GPU: by our kernels (``fused``), or by cuSPARSE.

    Example:
        >>> blocks_are_faster_on_cuda(2**24, 2**24 // 10, 1024, torch.bfloat16, fused=True, tf32=True)
        True
        >>> blocks_are_faster_on_cuda(2**24, 2**24 // 1000, 1024, torch.bfloat16, fused=True, tf32=True)
        False
    """
    if nnz == numel:
        return True
    size = dtype.itemsize
    rate = TF32 if tf32 and dtype is torch.float32 else THROUGHPUT[dtype]
    blocks = 2 * numel * batch / rate + 2 * size * numel / MEMORY
    csr = nnz * batch * size / CACHE if fused else nnz * batch / CUSPARSE
    return blocks < csr
