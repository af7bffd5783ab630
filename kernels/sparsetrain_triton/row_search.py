"""The row of an edge, for kernels that are split by edges: rows of any length then cost what their edges cost."""

import triton
import triton.language as tl


def search_steps(rows: int) -> int:
    """Halvings after which one row of so many is left."""
    return max(0, rows - 1).bit_length()


@triton.jit
def row_of(crow, edges, first, last, steps):
    """The last row r in first..last - 1 with crow[r] <= edge, for a block of edges. Rows without edges are passed over,
    as the row after them begins at the same edge."""
    low = tl.zeros_like(edges) + first
    high = tl.zeros_like(edges) + (last - 1)
    for _ in range(steps):
        middle = (low + high + 1) // 2
        reached = tl.load(crow + middle) <= edges
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return low
