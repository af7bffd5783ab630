"""The transpose plan: the edges of a CSR structure in the order of its columns."""

from typing import Any

import numpy as np

from .jit import kernel
from .plan import Array


@kernel
def transpose_into(crow, col, crow_t, col_t, perm):
    """A stable counting sort by column: col[perm] rises, and col_t[k] is the row of edge perm[k]. crow_t comes zeroed."""
    for column in col:
        crow_t[column + 1] += 1
    for c in range(crow_t.size - 1):
        crow_t[c + 1] += crow_t[c]
    for r in range(crow.size - 1):
        for k in range(crow[r], crow[r + 1]):
            place = crow_t[col[k]]
            crow_t[col[k]] += 1
            col_t[place] = r
            perm[place] = k
    for c in range(crow_t.size - 1, 0, -1):  # each pointer now stands at its column's end, the next one's start
        crow_t[c] = crow_t[c - 1]
    crow_t[0] = 0


def transpose(crow: Array, col: Array, columns: int, index: Any = None) -> tuple[Array, Array, Array]:
    """(crow_t, col_t, perm) of a structure with this many columns, with values_t = values[perm]; col_t of the type
    ``index``, by default that of crow, which crow_t and perm have.

    Example:
        >>> import numpy as np
        >>> crow_t, col_t, perm = transpose(np.array([0, 1, 3]), np.array([0, 0, 1]), 2)
        >>> crow_t.tolist(), col_t.tolist(), perm.tolist()
        ([0, 2, 3], [0, 1, 1], [0, 1, 2])
    """
    crow_t = np.zeros(columns + 1, crow.dtype)
    col_t, perm = np.empty(col.size, index or crow.dtype), np.empty(col.size, crow.dtype)
    transpose_into(crow, col, crow_t, col_t, perm)
    return crow_t, col_t, perm
