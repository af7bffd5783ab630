"""Edges that stay and edges that come, merged into one structure: both are in order, and so is the result."""

import numpy as np

from .jit import kernel, part
from .launch import launch
from .plan import Array
from .row_shares import kept_before, row_shares
from .workers import each_share


@part
def merge_rows(first, last, n, crow, col, kept, grown_crow, grown_col, revive, new_crow, new_col, source):
    """Merge the kept edges of some rows with their grown ones, from new place n on. source[k] is the former place of new
    edge k, -1 for a grown one; with ``revive`` an edge that is not kept and grown has its former place too. What comes
    back is the first row in which an edge is kept and grown, else -1: then the arrays are not complete."""
    for r in range(first, last):
        new_crow[r] = n
        g, stop = grown_crow[r], grown_crow[r + 1]
        for e in range(crow[r], crow[r + 1]):
            if not (kept[e] or revive):
                continue
            c = col[e]
            while g < stop and grown_col[g] < c:
                new_col[n] = grown_col[g]
                source[n] = -1
                n += 1
                g += 1
            again = g < stop and grown_col[g] == c
            if again and kept[e]:
                return r
            if again or kept[e]:
                new_col[n] = c
                source[n] = e
                n += 1
                g += again
        while g < stop:
            new_col[n] = grown_col[g]
            source[n] = -1
            n += 1
            g += 1
    return -1


@part
def merge_runs(first, last, bounds, starts, both, crow, col, kept, grown_crow, grown_col, revive, new_crow, new_col, source):
    for run in range(first, last):
        both[run] = merge_rows(bounds[run], bounds[run + 1], starts[run], crow, col, kept, grown_crow, grown_col, revive,
                               new_crow, new_col, source)


@kernel
def merge_kernel(pool, workers, runs, *args):
    each_share(pool, workers, runs, merge_runs, args)


def merge(
    crow: Array, col: Array, kept: Array, grown_crow: Array, grown_col: Array, edges: int, threads: int = 1,
    revive: bool = False,
) -> tuple[Array, Array, Array, int]:
    """(crow, col, source, row) of the edges where the booleans ``kept`` are true and of the grown ones, so many in all.

    ``source`` holds the former place of each edge, -1 for a grown one, but with ``revive`` for an edge that is grown
    where one is not kept. ``row`` is the first row with an edge that is
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
    new_col, source = np.empty(edges, col.dtype), np.empty(edges, crow.dtype)
    bounds = row_shares(crow)
    starts = kept_before(crow, kept, bounds) + grown_crow[bounds]
    both = np.full(bounds.size - 1, -1)
    arrays = crow, col, kept, grown_crow, grown_col, revive, new_crow, new_col, source
    types = crow.dtype.char + col.dtype.char + grown_col.dtype.char
    launch(merge_kernel, types, col.size + grown_col.size, threads, both.size, bounds, starts, both, *arrays)
    new_crow[-1] = edges
    rows = both[both >= 0]
    return new_crow, new_col, source, int(rows[0]) if rows.size else -1
