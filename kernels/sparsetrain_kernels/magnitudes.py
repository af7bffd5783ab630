"""The largest magnitudes of each row of a dense matrix, found by halving the interval of their limit.

Bits of floating-point numbers without their sign are integers in the order of the magnitudes, NaN above all. A pass over
a row counts those from a limit on, at the speed of the cache that holds it; sorting, or a heap, takes ten times as long.
"""

from typing import Any

import numpy as np

from .jit import kernel, part
from .launch import launch
from .plan import Array
from .workers import each_share

INTEGERS = {4: np.int32, 8: np.int64}  # by bytes of a number


@part
def limit_of(row, signless, count):
    """The magnitude of rank ``count``, or a number below it that no other magnitude reaches."""
    number = row.dtype.type  # arithmetic in numba's own type, of 64 bits, would take twice the registers
    low, high = number(0), number(0)
    for i in range(row.size):
        high = max(high, row[i] & signless)
    while low < high:  # enough numbers reach low, too few reach what is above high
        middle = number(high - ((high - low) >> 1))
        reached = number(0)
        for i in range(row.size):
            reached = number(reached + number((row[i] & signless) >= middle))
        if reached == count:
            return middle
        if reached > count:
            low = middle
        else:
            high = number(middle - 1)
    return low


@part
def limits_of_rows(first, last, x, signless, count, limits):
    for r in range(first, last):
        limits[r] = limit_of(x[r], signless, count)


@kernel
def limits_kernel(pool, workers, rows, *args):
    each_share(pool, workers, rows, limits_of_rows, args)


@part
def reaching_of_rows(first, last, x, signless, limits, numbers, out):
    for r in range(first, last):
        sizes, row, kept, limit = x[r], numbers[r], out[r], limits[r]
        for i in range(sizes.size):
            kept[i] = row[i] if (sizes[i] & signless) >= limit else 0


@kernel
def reaching_kernel(pool, workers, rows, *args):
    each_share(pool, workers, rows, reaching_of_rows, args)


def limits(x: Array, count: int, threads: int = 1) -> Array:
    """Of each row a limit, as an integer, that the ``count`` largest magnitudes reach, and others that equal one of them.

    Args:
        x: (rows, columns), contiguous; float32 or float64. NaN is larger than any number.
        count: from 1 to the number of columns.

    Example:
        >>> x = np.array([[1.0, -3.0, 2.0]])
        >>> reaching(x, limits(x, 2), x)
        array([[ 0., -3.,  2.]])
    """
    bits, signless = _bits(x)
    out = np.empty(x.shape[0], bits.dtype)
    work = 16 * x.nbytes // 64  # passes over so many vectors
    launch(limits_kernel, x.dtype.char, work, threads, x.shape[0], bits, signless, count, out)
    return out


def reaching(x: Array, limits: Array, numbers: Array, threads: int = 1) -> Array:
    """``numbers`` where the magnitudes of x reach the limit of their row, else 0; all of one shape and type."""
    bits, signless = _bits(x)
    out = np.empty_like(numbers)
    launch(reaching_kernel, x.dtype.char, x.nbytes // 64, threads, x.shape[0], bits, signless, limits, numbers, out)
    return out


def _bits(x: Array) -> tuple[Array, Any]:
    """x as integers, and the one that takes their signs away."""
    integer: Any = INTEGERS[x.itemsize]
    return x.view(integer), integer(np.iinfo(integer).max)
