"""Checks of what users pass in. Each says where, what was expected, what came, and what to do, and returns the value
in the one form that the code behind it expects."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

LARGEST = torch.iinfo(torch.int64).max
INDEX_DTYPES = (
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


def listed(value: Any) -> list[Any] | None:
    """The items of what can be iterated over, else None. Sparse matrices have none: their arrays may be damaged, and
    reading rows of them trusts that they are not."""
    if hasattr(value, "tocoo") or (isinstance(value, Tensor) and (value.is_meta or value.layout is not torch.strided)):
        return None
    try:
        return list(value)
    except TypeError:
        return None


def sizes(where: str, expected: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of dimensions as ints, none of them negative."""
    items = listed(shape)
    try:
        numbers = None if items is None else tuple(map(operator.index, items))
    except TypeError:
        numbers = None
    if numbers is None:
        raise TypeError(f"{where}: expected {expected}, got {shape!r}.")
    if not all(0 <= n <= LARGEST for n in numbers):
        raise ValueError(f"{where}: expected {expected}, each from 0 to 2**63 - 1, got {numbers}.")
    return numbers


def shape_of_matrix(where: str, shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) as ints, none of them negative."""
    expected = "shape = (out, in), two integers"
    numbers = sizes(where, expected, shape)
    if len(numbers) != 2:
        raise ValueError(f"{where}: expected {expected}, got {numbers}.")
    return numbers


def fraction(where: str, name: str, value: float, advice: str = "") -> float:
    """A number from 0 to 1."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # the last from a tensor of several numbers
        raise TypeError(f"{where}: expected {name} to be a number from 0 to 1, got {value!r}.") from None
    if not 0.0 <= number <= 1.0:  # true of NaN
        raise ValueError(f"{where}: expected {name} from 0 to 1, got {value!r}.{advice}")
    return number


def density(where: str, value: float) -> float:
    """The fraction of edges that exist: a number from 0 to 1."""
    advice = " It is the fraction of edges that exist: for a sparsity s pass density = 1 - s."
    return fraction(where, "density", value, advice)


def count(where: str, name: str, value: int) -> int:
    """A non-negative integer."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{where}: expected {name} to be an integer, got {value!r}.")
    if number < 0:
        raise ValueError(f"{where}: expected {name} >= 0, got {number}.")
    return number


def generator(where: str, value: torch.Generator | None) -> torch.Generator | None:
    """A source of random numbers, or None for torch's own."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(
            f"{where}: expected generator to be a torch.Generator or None, got {value!r}. "
            "For a seed pass torch.Generator().manual_seed(seed)."
        )
    return value


def numbers(where: str, name: str, value: Any) -> Tensor:
    """A tensor as it is, anything else as a new tensor."""
    if isinstance(value, Tensor):
        if value.is_meta or isinstance(value, FakeTensor):
            raise TypeError(
                f"{where}: expected {name} to hold numbers, got a meta tensor or a fake one, without data. Make it "
                'outside of torch.device("meta") and FakeTensorMode.'
            )
        if value.layout is not torch.strided:
            raise TypeError(f"{where}: expected {name} to be a dense tensor, got one of layout {value.layout}.")
        return value.detach()
    try:
        return torch.from_numpy(np.array(value))  # a copy: torch warns of arrays that are read-only, as pandas' are
    except (TypeError, ValueError):
        raise TypeError(
            f"{where}: expected {name} to be a tensor, an array or a list of numbers, got {type(value).__name__} "
            "with something else in it."
        ) from None


def comparable(tensor: Tensor) -> Tensor:
    """The tensor; in float64 where it is of unsigned integers that torch can't compare with a number."""
    return tensor.double() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def indices(where: str, name: str, value: Any) -> Tensor:
    """A one-dimensional int64 tensor of indices in memory of its own."""
    return integers(where, name, value).to(torch.int64, copy=True)


def integers(where: str, name: str, value: Any) -> Tensor:
    """A one-dimensional tensor of indices as they came, of any type of integers."""
    tensor = numbers(where, name, value)
    if tensor.dtype not in INDEX_DTYPES and tensor.shape != (0,):  # an empty list holds floats, says numpy
        raise TypeError(f"{where}: expected {name} to hold integers, got {tensor.dtype}. Convert with .long().")
    if tensor.ndim != 1:
        raise ValueError(f"{where}: expected {name} to be one-dimensional, got shape {tuple(tensor.shape)}.")
    return tensor.long() if tensor.is_floating_point() else tensor  # an empty one


def broadcast_shape(where: str, row: Tensor, col: Tensor) -> tuple[int, ...]:
    """The shape that row and col broadcast to."""
    try:
        return np.broadcast_shapes(row.shape, col.shape)
    except ValueError:
        raise ValueError(
            f"{where}: expected row and col of shapes that broadcast together, got {tuple(row.shape)} and "
            f"{tuple(col.shape)}."
        ) from None


def away(tensor: Tensor) -> bool:
    """Whether to ask what is in a tensor would wait for a CUDA device, or, on the meta device, be in vain."""
    return tensor.device.type in ("cuda", "meta")


def assert_there(holds: Tensor, message: str) -> None:
    """Have the device check what only it knows, without waiting for it. Where ``holds``, one boolean, is false, it
    prints the message, and the next call that waits for it raises, as after an index that torch's kernels refuse."""
    torch._assert_async(holds, message)


def within(where: str, name: str, index: Tensor, size: int, first: int = 0) -> None:
    """Every index lies in 0..size-1; the message names the first that does not. Positions count from ``first``."""
    bad = (index < 0) | (index >= size)
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        expected = f"0 to {size - 1}" if size else "no index, as the size is 0"
        raise IndexError(f"{where}: expected {name} from {expected}, got {int(index[k])} at position {first + k}.")
