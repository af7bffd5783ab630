"""The policy of data types. Values, their gradients and optimizer state are float32 or float64. Activations may be in
half precision beside float32 values: results come in the type of the activations, and sums are float32 at least."""

from collections.abc import Callable

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64)  # of values, tables, gradients and states
HALVES = (torch.float16, torch.bfloat16)  # of activations, beside float32 values


def widened(x: Tensor) -> Tensor:
    """x in float32 where it is in half precision."""
    return x.float() if x.dtype in HALVES else x


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type that sums of numbers of this type are made in, which values beside them have."""
    return torch.float32 if dtype in HALVES else dtype


def of_new_values(dtype: torch.dtype | None) -> torch.dtype:
    """The type of the values of a layer that is made with this dtype, or with torch's default."""
    return wide(torch.get_default_dtype() if dtype is None else dtype)


def keeping_wide(convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What nn.Module.to does to a parameter, but that it never becomes half precision."""

    def kept(tensor: Tensor) -> Tensor:
        new = convert(tensor)
        return tensor.to(new.device, torch.float32) if new.dtype in HALVES else new

    return kept
