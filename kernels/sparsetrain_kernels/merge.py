"""Edges that stay and edges that come, merged into one structure: both are in order, and so is the result."""

import numpy as np

from .jit import kernel
from .plan import Array


@kernel
def merge_into(crow, col, kept, grown_crow, grown_col, new_crow, new_col, source):
    """Merge the kept edges of each row with its grown ones. source[k] is the former place of new edge k, -1 for a grown
    one. What comes back is the first row in which an edge is both, else -1: then the arrays are not complete."""
    n = 0
    for r in range(crow.size - 1):
        new_crow[r] = n
        g, last = grown_crow[r], grown_crow[r + 1]
        for e in range(crow[r], crow[r + 1]):
            if not kept[e]:
                continue
            c = col[e]
            while g < last and grown_col[g] < c:
                new_col[n] = grown_col[g]
                source[n] = -1
                n += 1
                g += 1
            if g < last and grown_col[g] == c:
                return r
            new_col[n] = c
            source[n] = e
            n += 1
        while g < last:
            new_col[n] = grown_col[g]
            source[n] = -1
            n += 1
            g += 1
    new_crow[crow.size - 1] = n
    return -1


def merge(
    crow: Array, col: Array, kept: Array, grown_crow: Array, grown_col: Array, edges: int
) -> tuple[Array, Array, Array, int]:
    """(crow, col, source, row) of the edges where the booleans ``kept`` are true and of the grown ones, so many in all.

    ``source`` holds the former place of each edge, -1 for a grown one. ``row`` is the first row with an edge that is
    both kept and grown, where the rest is not to be used, else -1.

    Example:
        >>> import numpy as np
        >>> kept = np.array([True, False, True])
        >>> old, grown = (np.array([0, 1, 3]), np.array([0, 0, 1])), (np.array([0, 1, 1]), np.array([1]))
        >>> crow, col, source, _ = merge(*old, kept, *grown, edges=3)
        >>> crow.tolist(), col.tolist(), source.tolist()
        ([0, 2, 3], [0, 1, 1], [0, -1, 2])
    """
    new_crow = np.empty(crow.size, crow.dtype)
    new_col, source = np.empty(edges, col.dtype), np.empty(edges, col.dtype)
    row = merge_into(crow, col, kept, grown_crow, grown_col, new_crow, new_col, source)
    return new_crow, new_col, source, int(row)
