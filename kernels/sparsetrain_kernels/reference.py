"""Plain twins of the kernels: the same signatures and the mathematics in loops that can be read. For tests."""

import numpy as np

from .half_precision import rounded, widened
from .random_numbers import FIRST, SECOND, STEP
from .vectors import lanes


def spmm(plan, values, x, y, bias=None, threads=1):
    x = widened(x)
    for r in range(plan.rows):
        total = np.full(x.shape[1], 0 if bias is None else bias[r], values.dtype)
        for e in range(plan.crow[r], plan.crow[r + 1]):
            total += values[e] * x[plan.col[e]]
        y[r] = rounded(total, y.dtype)


def sddmm(plan, a, b, out, threads=1):
    a, b = widened(a), widened(b)
    for r in range(plan.rows):
        for e in range(plan.crow[r], plan.crow[r + 1]):
            out[e] = np.dot(a[r], b[plan.col[e]])


def backward(plan_t, perm, values, x, dy, dx, grad, bias_grad=None, threads=1):
    x, dy = widened(x), widened(dy)
    if bias_grad is not None:
        bias_grad[:] = dy.sum(1)
    for c in range(plan_t.rows):
        total = np.zeros(x.shape[1], values.dtype)
        for k in range(plan_t.crow[c], plan_t.crow[c + 1]):
            e, r = perm[k], plan_t.col[k]
            total += values[e] * dy[r]
            grad[e] = np.dot(dy[r], x[c])
        dx[c] = rounded(total, dx.dtype)


def transpose(crow, col, columns):
    row = [r for r in range(crow.size - 1) for _ in range(crow[r], crow[r + 1])]
    perm = sorted(range(col.size), key=lambda e: (col[e], row[e]))
    crow_t = [0] + [sum(int(col[e]) <= c for e in perm) for c in range(columns)]
    return np.array(crow_t, crow.dtype), np.array([row[e] for e in perm], col.dtype), np.array(perm, col.dtype)


def links(crow, col, crow_t, col_t, costs, first, last, limit=0.0, threads=1):
    inputs = [set(col[crow[u] : crow[u + 1]].tolist()) for u in range(crow.size - 1)]
    outputs = [set(col_t[crow_t[v] : crow_t[v + 1]].tolist()) for v in range(crow_t.size - 1)]
    found = {}
    for u in range(first, last):
        for v in set(range(crow_t.size - 1)) - inputs[u]:
            paths = [(y, z) for y in inputs[u] for z in outputs[y] if v in inputs[z]]
            local_y, local_z = {y for y, _ in paths}, {z for _, z in paths}
            score = 0.0
            for y, z in paths:
                external_y, external_z = len(outputs[y] - local_z - {u}), len(inputs[z] - local_y - {v})
                score += 1 / np.sqrt((1 + external_y) * (1 + external_z))
            if np.float32(score) > limit:
                found[u * (crow_t.size - 1) + v] = score
    position = np.array(sorted(found), np.int64)
    return position, np.array([found[p] for p in position], np.float32)


def used(x, threads=1):
    return np.array([any(number != 0 for number in feature) for feature in widened(x)], np.bool_)


def pack(x, feature_stride, batch_stride, first, last, sample, batch, panel, at, vectors):
    tile, x = vectors * lanes(panel.dtype), widened(x)
    for f in range(first, last):
        for j in range(tile):
            inside = sample + j < batch
            panel[at + (f - first) * tile + j] = x[f * feature_stride + (sample + j) * batch_stride] if inside else 0


def unpack(panel, at, first, last, x, feature_stride, batch_stride, sample, batch, vectors):
    tile, panel = vectors * lanes(panel.dtype), rounded(panel, x.dtype)
    for f in range(first, last):
        for j in range(min(tile, batch - sample)):
            x[f * feature_stride + (sample + j) * batch_stride] = panel[at + (f - first) * tile + j]


def carry(source, old, new, fill, threads=1):
    for k, place in enumerate(source):
        new[k] = old[place] if place >= 0 else fill
def merge(crow, col, kept, grown_crow, grown_col, edges, threads=1, revive=False):
    new = []
    for r in range(crow.size - 1):
        stay = [(col[e], e) for e in range(crow[r], crow[r + 1]) if kept[e]]
        gone = {col[e]: e for e in range(crow[r], crow[r + 1]) if revive and not kept[e]}
        come = [(c, gone.get(c, -1)) for c in grown_col[grown_crow[r] : grown_crow[r + 1]]]
        if {c for c, _ in stay} & {c for c, _ in come}:
            return None, None, None, r
        new.append(sorted(stay + come))
    new_crow = np.cumsum([0, *map(len, new)])
    new_col, source = (np.array([pair[k] for row in new for pair in row], col.dtype) for k in (0, 1))
    return new_crow.astype(crow.dtype), new_col, source, -1


def reaching(x, count, numbers):
    """``magnitudes.reaching`` of ``magnitudes.limits``."""
    sizes = np.abs(x).view(f"i{x.itemsize}")  # NaN above all others
    return np.where(sizes >= np.sort(sizes, 1)[:, -count, None], numbers, numbers.dtype.type(0))


def smallest(scores, count, threads=1):
    chosen = np.zeros(scores.size, np.bool_)
    chosen[sorted(range(scores.size), key=lambda k: scores[k])[:count]] = True
    return chosen


def vacant(crow, col, kept, columns, rank, threads=1):
    rows = crow.size - 1
    taken = {(r, col[e]) for r in range(rows) for e in range(crow[r], crow[r + 1]) if kept[e]}
    free = [(r, c) for r in range(rows) for c in range(columns) if (r, c) not in taken]
    return np.array([free[k][0] for k in rank], np.int64), np.array([free[k][1] for k in rank], np.int64)


def take(block, first, crow, col, kept, limit, scores, positions, n, threads=1):
    for r in range(block.shape[0]):
        edges = range(crow[first + r], crow[first + r + 1])
        taken = {col[e] for e in edges if kept[e]}
        for c in range(block.shape[1]):
            if c not in taken and abs(block[r, c]) > limit:
                scores[n], positions[n] = -abs(block[r, c]), (first + r) * block.shape[1] + c
                n += 1
    return n


def below(bound, state):
    while True:
        state = (state + int(STEP)) % 2**64
        number = mixed(state) * bound
        if number % 2**64 >= 2**64 % bound:
            return number >> 64, state


def mixed(z):
    z = (z ^ z >> 30) * int(FIRST) % 2**64
    z = (z ^ z >> 27) * int(SECOND) % 2**64
    return z ^ z >> 31


def stream(seed, task):
    return mixed((mixed((seed + int(STEP)) % 2**64) + int(STEP) * (task + 1)) % 2**64)


def distinct(size, need, seed, shift):
    """With blocks of 2**shift numbers, and need of at most half of size."""
    block, state = 1 << shift, stream(seed, 0)
    counts = [0] * (-(-size // block))
    while sum(counts) < need:
        number, state = below(size, state)
        counts[number // block] += number % block >= counts[number // block]
    drawn = []
    for b, count in enumerate(counts):
        mine, state = set(), stream(seed, b + 1)
        while len(mine) < count:
            number, state = below(min(block, size - b * block), state)
            mine.add(number + b * block)
        drawn += sorted(mine)
    return np.array(drawn, np.int64)


def bitmap(crow, col, columns):
    bits = np.zeros((crow.size - 1, -(-columns // 16) * 16), np.bool_)
    for r in range(crow.size - 1):
        bits[r, col[crow[r] : crow[r + 1]]] = True
    return np.packbits(bits, axis=1, bitorder="little")


def expand(crow, col, values, bits, first, last, out, threads=1):
    out[:] = 0
    for r in range(first, last):
        for e in range(crow[r], crow[r + 1]):
            out[r - first, col[e]] = values[e]


def gather(crow, col, bits, first, last, dense, grad, threads=1):
    for r in range(first, last):
        for e in range(crow[r], crow[r + 1]):
            grad[e] = dense[r - first, col[e]]
