"""Runs of an image that only zeros of a panel lie between, as one piece: a bitmap says where its numbers stand.

A row of a small image is shorter than a vector, and to move it alone takes as long as to move a whole one. A piece is
moved by full vectors, and spread out or taken together in cache (../expansion.py).
"""

import numpy as np

from ..expansion import VECTORS
from ..plan import Array

# Columns of the table of pieces. An image holds so many NUMBERS one after another from SOURCE on. They stand in so many
# STEPS of a vector each, from PLACE of a window on, where the bits from byte BITS on are set. Before so many SURE steps a
# vector or more of the numbers is left.
PLACE, IMAGE, SOURCE, NUMBERS, STEPS, SURE, BITS = range(7)


def pieces_of(
    bounds: Array, place: Array, image: Array, source: Array, numbers: Array, step: int, lanes: int
) -> tuple[Array, Array, Array]:
    """The runs of windows as pieces: the first piece of each window, their table, and bits.

    There is none where vectors can't be spread, or something lies between runs in an image too, or each has one run.
    """
    window = np.repeat(np.arange(bounds.size - 1), np.diff(bounds))
    follows = (np.diff(window) == 0) & (np.diff(image) == 0)
    if not VECTORS or step != 1 or not follows.any() or (follows & (source[1:] != source[:-1] + numbers[:-1])).any():
        return np.zeros(bounds.size, np.int64), np.zeros((0, 7), np.int64), np.zeros(0, np.uint8)
    first = np.flatnonzero(np.concatenate([[True], ~follows]))
    last = np.append(first[1:], place.size)
    table, bits, at = np.empty((first.size, 7), np.int64), [], 0
    for piece, (i, j) in enumerate(zip(first, last, strict=True)):
        steps = -(-(place[j - 1] + numbers[j - 1] - place[i]) // lanes)
        held = np.zeros((-(-steps * lanes // 8), 8), np.bool_)
        for k in range(i, j):
            held.reshape(-1)[place[k] - place[i] :][: numbers[k]] = True
        count = held.reshape(-1)[: steps * lanes].reshape(-1, lanes).sum(1)
        sure = np.count_nonzero(count.cumsum() - count + lanes <= count.sum())
        sure -= sure % max(1, 8 // lanes)  # the bits of the others begin with a byte
        table[piece] = place[i], image[i], source[i], count.sum(), steps, sure, at
        bits.append(np.packbits(held, axis=1, bitorder="little").reshape(-1))
        at += bits[-1].size
    return np.searchsorted(first, bounds), table, np.concatenate(bits)
