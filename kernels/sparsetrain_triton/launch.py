"""How kernels are launched: on the device of their operands, with sizes from rules in place of timings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def on_device_of(tensor: Tensor) -> Iterator[None]:
    """Triton launches on the current device, whatever its operands are on."""
    if not tensor.is_cuda:
        yield
        return
    with torch.cuda.device(tensor.device):
        yield


def launch(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
    """Run this many programs of a kernel; none at all is no launch, which CUDA refuses."""
    if programs > 0:
        with on_device_of(next(argument for argument in arguments if isinstance(argument, Tensor))):
            # fused multiply-add, as by default, which newer versions warn about unless it is asked for
            kernel[(programs,)](*arguments, enable_fp_fusion=True, **options)


def power_of_two(size: int, least: int, most: int) -> int:
    """The smallest power of two that holds ``size``, within these bounds: blocks in Triton have such sizes."""
    return min(most, max(least, 1 << max(0, size - 1).bit_length()))


def ceil_divided(size: int, block: int) -> int:
    return -(-size // block)
