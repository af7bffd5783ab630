"""Which places of a list of ids hold the same id: a radix sort in chunks, the cost of which grows with the list alone."""

from typing import NamedTuple

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..workers import each_share

BITS = 11  # of a digit at most: the counts of a chunk stay in L1
CHUNK = 4096  # ids of a task


class Groups(NamedTuple):
    """Rising distinct ``rows``; the ids at places ``order[starts[u] : starts[u + 1]]`` are all ``rows[u]``.

    Where ``starts`` is empty, the ids were so already: place u holds row u.
    """

    rows: Array
    starts: Array
    order: Array


@part
def count_digits(first, last, ids, shift, counts):
    """counts[chunk, d] = ids of the chunk whose digit is d"""
    mask = counts.shape[1] - 1
    for chunk in range(first, last):
        counts[chunk] = 0
        for k in range(chunk * CHUNK, min(ids.size, (chunk + 1) * CHUNK)):
            counts[chunk, (ids[k] >> shift) & mask] += 1


@part
def start_digits(counts, total):
    """Counts become places: by digit, then by chunk, which keeps the sort stable."""
    chunks, digits = counts.shape
    total[:] = 0
    for chunk in range(chunks):
        for d in range(digits):
            total[d] += counts[chunk, d]
    before = 0
    for d in range(digits):
        here = total[d]
        total[d] = before
        before += here
    for chunk in range(chunks):
        for d in range(digits):
            here = counts[chunk, d]
            counts[chunk, d] = total[d]
            total[d] += here


@part
def place_digits(first, last, ids, order, shift, places, new_ids, new_order):
    mask = places.shape[1] - 1
    for chunk in range(first, last):
        for k in range(chunk * CHUNK, min(ids.size, (chunk + 1) * CHUNK)):
            digit = (ids[k] >> shift) & mask
            place = places[chunk, digit]
            places[chunk, digit] += 1
            new_ids[place], new_order[place] = ids[k], order[k]


@part
def count_firsts(first, last, ids, firsts):
    """firsts[chunk + 1] = places of the chunk where a new id begins"""
    for chunk in range(first, last):
        total = 0
        for k in range(chunk * CHUNK, min(ids.size, (chunk + 1) * CHUNK)):
            total += k == 0 or ids[k] != ids[k - 1]
        firsts[chunk + 1] = total


@part
def add_up(firsts):
    """firsts[chunk] = places in all chunks before it where a new id begins; returns those of all"""
    firsts[0] = 0
    for chunk in range(1, firsts.size):
        firsts[chunk] += firsts[chunk - 1]
    return firsts[-1]


@part
def place_firsts(first, last, ids, firsts, rows, starts):
    for chunk in range(first, last):
        u = firsts[chunk]
        for k in range(chunk * CHUNK, min(ids.size, (chunk + 1) * CHUNK)):
            if k == 0 or ids[k] != ids[k - 1]:
                rows[u], starts[u] = ids[k], k
                u += 1


@kernel
def group_kernel(pool, workers, ids, new_ids, order, new_order, counts, total, firsts, rows, starts, digits, bits):
    """Distinct ids, how many they are; the order is in ``order`` after an even number of digits, else in ``new_order``."""
    chunks = counts.shape[0]
    for digit in range(digits):
        each_share(pool, workers, chunks, count_digits, (ids, digit * bits, counts))
        start_digits(counts, total)
        each_share(pool, workers, chunks, place_digits, (ids, order, digit * bits, counts, new_ids, new_order))
        ids, new_ids, order, new_order = new_ids, ids, new_order, order
    each_share(pool, workers, chunks, count_firsts, (ids, firsts))
    distinct = add_up(firsts)
    each_share(pool, workers, chunks, place_firsts, (ids, firsts, rows, starts))
    starts[distinct] = ids.size
    return distinct


@kernel
def rising(ids):
    """Whether each id is larger than the one before."""
    for k in range(1, ids.size):  # noqa: SIM110  # numba compiles no all()
        if ids[k] <= ids[k - 1]:
            return False
    return True


def group(ids: Array, size: int, threads: int = 1, places: Array | None = None) -> Groups:
    """The distinct ids, and the places that hold each of them, in rising order: a stable sort.

    Args:
        ids: int64, shape (k,), from 0 to size - 1, fewer than 2**31 of them.
        size: of the table.
        threads: at most so many; the result does not depend on it.
        places: of the ids, shape (k,), where these are not 0 to k - 1.

    Example:
        >>> import numpy as np
        >>> group(np.array([3, 1, 3]), 4)
        Groups(rows=array([1, 3]), starts=array([0, 1, 3], dtype=int32), order=array([1, 0, 2], dtype=int32))
    """
    if rising(ids):
        if places is not None:
            return Groups(ids, np.arange(ids.size + 1, dtype=np.int32), places.astype(np.int32))
        nothing = np.empty(0, np.int32)
        return Groups(ids, nothing, nothing)
    order = np.arange(ids.size, dtype=np.int32) if places is None else places.astype(np.int32)
    width = max(1, (size - 1).bit_length())
    digits = -(-width // BITS)
    bits, chunks = -(-width // digits), -(-ids.size // CHUNK)
    keys = ids.astype(np.int32 if width < 32 else np.int64)  # a copy, which the sort may write into
    # all memory is taken before a kernel starts
    new_order, counts, total = np.empty_like(order), np.empty((chunks, 1 << bits), np.int32), np.empty(1 << bits, np.int32)
    rows, starts = np.empty(ids.size, np.int64), np.empty(ids.size + 1, np.int32)
    distinct = launch(
        group_kernel, keys.dtype.char, ids.size * (digits + 1), threads, keys, np.empty_like(keys), order,
        new_order, counts, total, np.empty(chunks + 1, np.int64), rows, starts, digits, bits,
    )
    rows.resize(distinct, refcheck=False)  # what was not needed goes back
    starts.resize(distinct + 1, refcheck=False)
    return Groups(rows, starts, new_order if digits % 2 else order)
