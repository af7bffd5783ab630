"""Runs of whole rows of about equal work, for kernels that pass over edges once."""

import numpy as np

from .plan import Array

SHARE = 1 << 15  # rows and edges of a run


def row_shares(crow: Array, share: int = SHARE) -> Array:
    """Rising bounds: rows ``bounds[t]`` to ``bounds[t + 1] - 1`` are run t. They follow from the structure alone.

    A run has about ``share`` rows and edges together, unless a single row has more.

    Example:
        >>> row_shares(np.array([0, 2, 4, 4, 8]), share=4).tolist()
        [0, 2, 4]
    """
    rows, nnz = crow.size - 1, int(crow[-1])
    runs = (rows + nnz) // share
    if runs < 2:
        return np.array([0, rows])
    work = crow + np.arange(rows + 1)
    bounds = np.searchsorted(work, np.arange(1, runs) * (rows + nnz) // runs)
    return np.unique(np.concatenate([[0], bounds, [rows]]))


def kept_before(crow: Array, kept: Array, bounds: Array) -> Array:
    """How many edges of all runs before each bound are kept."""
    before = np.zeros(bounds.size, np.int64)
    edges = crow[bounds].tolist()
    for run in range(bounds.size - 1):
        before[run + 1] = before[run] + np.count_nonzero(kept[edges[run] : edges[run + 1]])
    return before
