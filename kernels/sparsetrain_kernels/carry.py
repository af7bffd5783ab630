"""What belongs to edges, carried along when edges change."""

import numpy as np
from numba import prange

from .jit import kernel
from .launch import launch
from .plan import Array

SHARE = 1 << 15  # entries that one worker takes at a time


@kernel
def carry_part(first, last, source, old, new, fill):
    """new[k] = old[source[k]], or fill where source[k] < 0, for k from first to last - 1."""
    for k in range(first, last):
        s = source[k]
        new[k] = old[s] if s >= 0 else fill


@kernel
def carry_serial(source, old, new, fill):
    carry_part(np.int64(0), source.size, source, old, new, fill)


@kernel(parallel=True)
def carry_parallel(source, old, new, fill):
    for part in prange((source.size + SHARE - 1) // SHARE):
        carry_part(part * SHARE, min(source.size, (part + 1) * SHARE), source, old, new, fill)


def carry(source: Array, old: Array, new: Array, fill: float, threads: int = 1) -> None:
    """Write ``old[source[k]]`` into ``new[k]``, or ``fill`` where ``source[k]`` is negative.

    Example:
        >>> import numpy as np
        >>> new = np.empty(3)
        >>> carry(np.array([0, -1, 2]), np.array([5.0, 6.0, 7.0]), new, fill=1.0)
        >>> new.tolist()
        [5.0, 1.0, 7.0]
    """
    types = source.dtype.char + new.dtype.char
    launch(carry_serial, carry_parallel, types, source.size, threads, source, old, new, new.dtype.type(fill))
