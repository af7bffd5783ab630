"""What belongs to edges, carried along when edges change."""

from .jit import kernel, part
from .launch import launch
from .plan import Array
from .workers import each_share


@part
def carry_part(first, last, source, old, new, fill):
    """new[k] = old[source[k]], or fill where source[k] < 0, for k from first to last - 1."""
    for k in range(first, last):
        s = source[k]
        new[k] = old[s] if s >= 0 else fill


@kernel
def carry_kernel(pool, workers, source, old, new, fill):
    each_share(pool, workers, source.size, carry_part, (source, old, new, fill))


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
    launch(carry_kernel, types, source.size, threads, source, old, new, new.dtype.type(fill))
