"""Checks of what users pass in. Each says where, what was expected, what came, and what to do, and returns the value
in the one form that the code behind it expects."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

INDEX_DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def shape_of_matrix(where: str, shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) as ints, none of them negative."""
    try:
        rows, columns = (int(n) for n in shape)
    except (TypeError, ValueError):
        raise TypeError(f"{where}: expected shape = (out, in), two integers, got {shape!r}.") from None
    if rows < 0 or columns < 0:
        raise ValueError(f"{where}: expected shape = (out, in) of non-negative sizes, got ({rows}, {columns}).")
    return rows, columns


def density(where: str, value: float) -> float:
    """A fraction of edges that exist: a number in 0..1."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{where}: expected a density, a number from 0 to 1, got {value!r}.") from None
    if math.isnan(number) or not 0.0 <= number <= 1.0:
        raise ValueError(
            f"{where}: expected a density from 0 to 1 (the fraction of edges that exist), got {value!r}. "
            "For a sparsity s pass density = 1 - s."
        )
    return number


def count(where: str, name: str, value: int) -> int:
    """A non-negative integer."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{where}: expected {name} to be an integer, got {value!r}.")
    number = int(value)
    if number < 0:
        raise ValueError(f"{where}: expected {name} >= 0, got {number}.")
    return number


def indices(where: str, name: str, value: Any) -> Tensor:
    """A one-dimensional int64 tensor of indices."""
    tensor = torch.as_tensor(value)
    if tensor.numel() == 0 and tensor.ndim == 1:
        return tensor.to(torch.int64)
    if tensor.dtype not in INDEX_DTYPES:
        raise TypeError(f"{where}: expected {name} to hold integers, got {tensor.dtype}. Convert with .long().")
    if tensor.ndim != 1:
        raise ValueError(f"{where}: expected {name} to be one-dimensional, got shape {tuple(tensor.shape)}.")
    return tensor.to(torch.int64)


def within(where: str, name: str, index: Tensor, size: int) -> None:
    """Every index lies in 0..size-1; the message names the first that does not."""
    if index.numel() == 0:
        return
    bad = (index < 0) | (index >= size)
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        expected = f"0 to {size - 1}" if size else "no index, as the size is 0"
        raise IndexError(f"{where}: expected {name} from {expected}, got {int(index[k])} at position {k}.")
