"""How likely edges are by the paths of length three between their ends: CH3-L3 scores of positions without an edge."""

import numpy as np

from .jit import kernel, part
from .launch import launch, workers
from .plan import Array
from .workers import each_share


@part
def weigh_outputs(u, crow, col, crow_t, col_t, weight, shared, near):
    """1 / sqrt(1 + external links) of each output that has an input in common with output u. How many there are.

    0 where all inputs of an output are those of u too: no new edge of u is reached from it.
    """
    n = 0
    for e in range(crow[u], crow[u + 1]):
        for f in range(crow_t[col[e]], crow_t[col[e] + 1]):
            z = col_t[f]
            if z != u:
                near[n] = z
                n += shared[z] == 0
                shared[z] += 1
    for k in range(n):
        z = near[k]
        others = crow[z + 1] - crow[z] - shared[z]
        weight[z] = 1.0 / np.sqrt(np.float64(others)) if others > 0 else 0.0
        shared[z] = 0
    return n


@part
def score_inputs(u, crow, col, crow_t, col_t, weight, score, part, common, touched, reached):
    """The scores of all inputs for output u, and which inputs are reached. How many there are."""
    m = 0
    for e in range(crow[u], crow[u + 1]):
        z = col[e]
        n = 0
        for f in range(crow_t[z], crow_t[z + 1]):
            w = weight[col_t[f]]
            if w == 0.0:  # u itself too
                continue
            for g in range(crow[col_t[f]], crow[col_t[f] + 1]):
                v = col[g]
                touched[n] = v
                n += common[v] == 0
                common[v] += 1
                part[v] += w
        degree = crow_t[z + 1] - crow_t[z]
        for k in range(n):
            v = touched[k]
            reached[m] = v
            m += score[v] == 0.0
            score[v] += part[v] / np.sqrt(np.float64(degree - common[v]))  # u is no neighbour of a new v: never 0
            part[v] = 0.0
            common[v] = 0
    return m


@part
def link_tasks(
    first, last, bounds, crow, col, crow_t, col_t, limit, starts, position, value, found,
    weight, shared, near, score, part, common, touched, reached,
):  # fmt: skip
    columns = crow_t.size - 1
    for task in range(first, last):
        at = starts[task]
        for u in range(bounds[task], bounds[task + 1]):
            n = weigh_outputs(u, crow, col, crow_t, col_t, weight[task], shared[task], near[task])
            m = score_inputs(
                u, crow, col, crow_t, col_t, weight[task],
                score[task], part[task], common[task], touched[task], reached[task],
            )  # fmt: skip
            for k in range(n):
                weight[task, near[task, k]] = 0.0
            for e in range(crow[u], crow[u + 1]):
                score[task, col[e]] = 0.0
            for k in range(m):
                v = reached[task, k]
                rounded = np.float32(score[task, v])
                score[task, v] = 0.0
                if rounded > limit:
                    position[at] = np.int64(u) * columns + v
                    value[at] = rounded
                    at += 1
        found[task] = at - starts[task]


@kernel
def links_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, link_tasks, args)


def paths(crow: Array, col: Array, crow_t: Array, col_t: Array) -> Array:
    """Walks of three edges that start at each row: what its scores cost, and no fewer than the columns it reaches.

    Example:
        >>> edges = np.array([0, 1, 3]), np.array([0, 0, 1])
        >>> paths(*edges, np.array([0, 2, 3]), np.array([0, 1, 1])).tolist()
        [3, 5]
    """
    of_inputs = _sums(crow_t, np.diff(crow).astype(np.int64)[col_t])
    return _sums(crow, of_inputs[col])


def links(
    crow: Array, col: Array, crow_t: Array, col_t: Array, costs: Array, first: int, last: int, limit: float = 0.0,
    threads: int = 1,
) -> tuple[Array, Array]:  # fmt: skip
    """(positions, scores) in the rows from ``first`` to ``last`` that have no edge and a score above the limit.

    Args:
        crow, col: the edges.
        crow_t, col_t: their transpose.
        costs: what ``paths`` says of them.
        first, last: the rows.
        limit: 0 for all positions that a path of length three leads to.
        threads: at most.

    Returns:
        row * columns + column, ascending int64, and float32 scores. They are summed in float64 and rounded, which
        leaves scores that differ by the order of their sums alone equal, but for rare ones that round apart.

    Example: two outputs with a common input; the other input of the second one is new to the first.
        >>> edges = np.array([0, 1, 3]), np.array([0, 0, 1]), np.array([0, 2, 3]), np.array([0, 1, 1])
        >>> position, score = links(*edges, paths(*edges), 0, 2)
        >>> position.tolist(), score.tolist()
        ([1], [1.0])
    """
    rows, columns = crow.size - 1, crow_t.size - 1
    tasks = max(1, min(workers(threads), last - first))
    work = np.concatenate([[0], np.cumsum(costs[first:last])])
    bounds = first + np.searchsorted(work, work[-1] * np.arange(tasks + 1) // tasks)
    bounds[0], bounds[-1] = first, last
    room = np.concatenate([[0], np.cumsum(np.minimum(costs[first:last], columns))])
    starts, found = room[bounds - first], np.zeros(tasks, np.int64)
    position, value = np.empty(room[-1], np.int64), np.empty(room[-1], np.float32)
    launch(
        links_kernel, crow.dtype.char + col.dtype.char, int(work[-1]), threads,
        tasks, bounds, crow, col, crow_t, col_t, np.float32(limit), starts, position, value, found,
        np.zeros((tasks, rows)), np.zeros((tasks, rows), np.int32), np.empty((tasks, rows), col.dtype),
        np.zeros((tasks, columns)), np.zeros((tasks, columns)), np.zeros((tasks, columns), np.int32),
        np.empty((tasks, columns + 1), col.dtype), np.empty((tasks, columns + 1), col.dtype),
    )  # fmt: skip
    parts = [slice(start, start + n) for start, n in zip(starts, found, strict=False)]
    position, value = (np.concatenate([each[part] for part in parts]) for each in (position, value))
    order = np.argsort(position)
    return position[order], value[order]


def _sums(crow: Array, numbers: Array) -> Array:
    """Of each row, whose numbers stand one after another."""
    total = np.concatenate([[0], np.cumsum(numbers)])
    return np.asarray(total[crow[1:]] - total[crow[:-1]])
