"""What belongs to edges, carried along when edges change."""

from .jit import kernel
from .plan import Array


@kernel
def carry_into(source, old, new, fill):
    """new[k] = old[source[k]], or fill where source[k] < 0."""
    for k in range(source.size):
        s = source[k]
        new[k] = old[s] if s >= 0 else fill


def carry(source: Array, old: Array, new: Array, fill: float) -> None:
    """Write ``old[source[k]]`` into ``new[k]``, or ``fill`` where ``source[k]`` is negative.

    Example:
        >>> import numpy as np
        >>> new = np.empty(3)
        >>> carry(np.array([0, -1, 2]), np.array([5.0, 6.0, 7.0]), new, fill=1.0)
        >>> new.tolist()
        [5.0, 1.0, 7.0]
    """
    carry_into(source, old, new, new.dtype.type(fill))
