"""The smallest of many numbers, without sorting them: a radix search for the limit, digit by digit from the top."""

import numpy as np

from .jit import kernel, part
from .launch import launch, workers
from .plan import Array
from .workers import each_share

BITS = 11  # of a digit: the counts of a task stay in L1
FEWEST = 1 << 14  # numbers of a task


@part(inline=True)
def ordered(bits, sign):
    """Integers in the order of the floating-point numbers that have these bits; both zeros are one. Without a branch:
    signs at random are guessed wrongly half of the time."""
    flipped = sign + np.uint64(bits >= sign) * (sign - np.uint64(1))  # all bits of a negative number, else its sign
    return (bits ^ flipped) + np.uint64(bits == sign)


@part
def count_digits(first, last, bits, sign, prefix, above, shift, counts):
    """counts[task, d] = numbers whose bits from ``above`` on are the prefix, and which have d between shift and these"""
    tasks, mask = counts.shape[0], np.uint64(counts.shape[1] - 1)
    for task in range(first, last):
        counts[task] = 0
        for k in range(task * bits.size // tasks, (task + 1) * bits.size // tasks):
            key = ordered(np.uint64(bits[k]), sign)
            if (key >> (above - np.uint64(1))) >> np.uint64(1) == prefix:  # a shift by all bits is undefined
                counts[task, np.int64((key >> shift) & mask)] += 1


@kernel
def count_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, count_digits, args)


@part
def choose_below(first, last, scores, limit, chosen, ties):
    """What lies below the limit is chosen; ties[task] = numbers of the task that equal it"""
    for task in range(first, last):
        start, stop = task * scores.size // ties.size, (task + 1) * scores.size // ties.size
        mine, out = scores[start:stop], chosen[start:stop]
        for k in range(mine.size):
            out[k] = mine[k] < limit
        equal = np.int32(0)
        for k in range(mine.size):
            equal += np.int32(mine[k] == limit)
        ties[task] = equal


@kernel
def choose_kernel(pool, workers, tasks, *args):
    each_share(pool, workers, tasks, choose_below, args)


@kernel
def choose_ties(scores, limit, chosen, ties, missing):
    """The first of those that equal the limit are chosen too."""
    tasks = ties.size
    for task in range(tasks):
        if not missing:
            return
        if ties[task]:
            for k in range(task * scores.size // tasks, (task + 1) * scores.size // tasks):
                if missing and scores[k] == limit:
                    chosen[k] = 1
                    missing -= 1


def smallest(scores: Array, count: int, threads: int = 1) -> Array:
    """Booleans, true at the ``count`` smallest of these numbers; of equal ones at the first.

    Args:
        scores: float32 or float64, contiguous, shape (n,), without NaN.
        count: from 0 to n.

    Example:
        >>> smallest(np.array([2.0, 1.0, 3.0, 1.0, 1.0]), 2).tolist()
        [False, True, False, True, False]
    """
    chosen = np.zeros(scores.size, np.uint8)
    if not count:
        return chosen.view(np.bool_)
    width = scores.itemsize * 8
    bits, sign = scores.view(f"u{scores.itemsize}"), np.uint64(1 << (width - 1))
    tasks = min(workers(threads), -(-scores.size // FEWEST))
    counts, ties = np.empty((tasks, 1 << BITS), np.int64), np.empty(tasks, np.int64)
    limit, above, missing, work = 0, width, count, scores.size // 2
    while above:
        shift = max(0, above - BITS)
        of_digit = counts[:, : 1 << (above - shift)]
        key = np.uint64(limit), np.uint64(above), np.uint64(shift)
        launch(count_kernel, bits.dtype.char, work, threads, tasks, bits, sign, *key, of_digit)
        up_to = of_digit.sum(0).cumsum()
        digit = int(up_to.searchsorted(missing))
        missing -= int(up_to[digit - 1]) if digit else 0
        limit, above = limit << (above - shift) | digit, shift
    found = limit ^ int(sign) if limit & int(sign) else ~limit & (2 * int(sign) - 1)  # bits again
    end = np.array([found], bits.dtype).view(scores.dtype)[0]
    launch(choose_kernel, bits.dtype.char, work, threads, tasks, scores, end, chosen, ties)
    choose_ties(scores, end, chosen, ties, missing)
    return chosen.view(np.bool_)
