"""Memory layouts of images: contiguous, channel by channel, or channels_last, pixel by pixel."""

import torch
from torch import Tensor

from ..layout import sum_over_batch

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def format_of(x: Tensor) -> torch.memory_format:
    """channels_last where x is that and not contiguous too."""
    last = CHANNELS_LAST.get(x.ndim)
    if last is not None and not x.is_contiguous() and x.is_contiguous(memory_format=last):
        return last
    return torch.contiguous_format


def in_format_of(x: Tensor, y: Tensor) -> Tensor:
    """y in the layout of x."""
    return y.contiguous(memory_format=format_of(x))


def sum_over_positions(dy: Tensor) -> Tensor:
    """The gradient of the bias, (channels,), bitwise the same at any number of threads."""
    if dy.shape[1] == 1:
        return sum_over_batch(dy.reshape(1, -1))
    return dy.sum((0, *range(2, dy.ndim)))
