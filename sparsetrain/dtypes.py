"""The policy of data types. Values, their gradients and optimizer state are float32 or float64. Activations may be in
half precision beside float32 values: results come in the type of the activations, and sums are float32 at least."""

from collections.abc import Callable
from typing import Any

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


def accepted(where: str, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that a layer is made with, or torch's default.

    Raises:
        TypeError: layers have no such type.
    """
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in (*FLOATS, *HALVES):
        raise TypeError(f"{where}: expected dtype float32, float64, float16 or bfloat16, got {dtype}.")
    return dtype


def widen_loaded(state_dict: dict[str, Any], key: str) -> None:
    """Make an entry of a state that is to be loaded float32 where it is in half precision: with ``assign=True`` it
    becomes the parameter itself."""
    if isinstance(state_dict.get(key), Tensor):
        state_dict[key] = widened(state_dict[key])


def keeping_wide(convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What nn.Module.to does to a parameter, but that it never becomes half precision. One that is already, as the bias
    of a model in half precision that was sparsified, keeps its type from device to device."""

    def kept(tensor: Tensor) -> Tensor:
        new = convert(tensor)
        becomes = new.dtype in HALVES and new.dtype is not tensor.dtype
        return tensor.to(new.device, torch.float32) if becomes else new

    return kept
