"""Where the edges of one structure are in another of the same shape."""

import numpy as np

from .jit import kernel
from .launch import launch
from .plan import Array


@kernel
def former_places(pool, workers, crow, col, new_crow, new_col, source):
    for r in range(crow.size - 1):
        e, stop = np.uint64(crow[r]), np.uint64(crow[r + 1])
        for k in range(np.uint64(new_crow[r]), np.uint64(new_crow[r + 1])):
            while e < stop and col[e] < new_col[k]:
                e += np.uint64(1)
            source[k] = np.int64(e) if e < stop and col[e] == new_col[k] else -1


def former(crow: Array, col: Array, new_crow: Array, new_col: Array) -> Array:
    """For each edge of the new structure its place in the old one, -1 where that has no such edge: one pass over both.

    Example:
        >>> import numpy as np
        >>> former(np.array([0, 2]), np.array([0, 1]), np.array([0, 2]), np.array([1, 2])).tolist()
        [1, -1]
    """
    source = np.empty(new_col.size, crow.dtype)
    types = crow.dtype.char + col.dtype.char + new_crow.dtype.char + new_col.dtype.char
    launch(former_places, types, 0, 1, crow, col, new_crow, new_col, source)
    return source
