"""Half precision as arrays of 16-bit integers, which is what kernels see of it: numba has neither type on a CPU.

    np.int16: the bits of float16          np.uint16: the bits of bfloat16

Kernels compute in float32 and convert while they read operands and write results, which are rounded once.
"""

import numpy as np

from .plan import Array

FLOAT16, BFLOAT16 = np.dtype(np.int16), np.dtype(np.uint16)


def computed(dtype: np.dtype) -> np.dtype:
    """The type that numbers of this type are computed in."""
    return np.dtype(np.float32) if dtype in (FLOAT16, BFLOAT16) else dtype


def widened(x: Array) -> Array:
    """Half precision in float32, exactly; other numbers as they are.

    Example:
        >>> widened(np.array([0x3FC0], np.uint16))
        array([1.5], dtype=float32)
    """
    if x.dtype == FLOAT16:
        return x.view(np.float16).astype(np.float32)
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == BFLOAT16 else x


def rounded(x: Array, dtype: np.dtype) -> Array:
    """float32 as half precision of the type ``dtype``, to the nearest, ties to even; other types as they are.

    Example:
        >>> rounded(np.array([1.5], np.float32), BFLOAT16)
        array([16320], dtype=uint16)
    """
    if dtype == FLOAT16:
        with np.errstate(over="ignore"):
            return x.astype(np.float16).view(np.int16)
    if dtype != BFLOAT16:
        return x
    bits = x.view(np.uint32)
    nearest = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16  # a carry out of the fraction raises the exponent, as it should
    return np.where(np.isnan(x), bits >> 16 | 0x40, nearest).astype(np.uint16)
