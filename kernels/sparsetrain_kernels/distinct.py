"""Distinct random numbers in rising order, without sorting: first how many lie in each block of numbers, then which."""

import numpy as np

from .jit import kernel, part
from .launch import launch
from .plan import Array
from .random_numbers import below, stream
from .workers import each_share

LOAD = 32  # numbers drawn of a block at most, on average: they are inserted in order one by one


@kernel
def count_blocks(seed, size, need, shift, counts):
    """counts[b] = numbers of block b among ``need`` distinct ones out of ``size``: the exact distribution, as a draw is
    refused with the probability that it hits one that was drawn. The first ones of a block stand for those."""
    state, rest = stream(seed, 0), np.uint64((np.uint64(1) << shift) - np.uint64(1))
    for _ in range(need):
        number, state = below(size, state)
        block = np.int64(number >> shift)
        while np.int64(number & rest) < counts[block]:
            number, state = below(size, state)
            block = np.int64(number >> shift)
        counts[block] += 1


@part
def draw_block(block, seed, size, shift, numbers):
    """As many distinct numbers of the block as there is room for, rising."""
    start = np.uint64(block) << shift
    inside, state = min(np.uint64(1) << shift, size - start), stream(seed, block + 1)
    for n in range(numbers.size):
        place = -1
        while place < 0:
            number, state = below(inside, state)
            drawn = np.int64(number + start)
            place = n
            while place > 0 and numbers[place - 1] > drawn:
                place -= 1
            if place > 0 and numbers[place - 1] == drawn:
                place = -1
        for k in range(n, place, -1):
            numbers[k] = numbers[k - 1]
        numbers[place] = drawn


@part
def draw_blocks(first, last, seed, size, shift, starts, numbers):
    for block in range(first, last):
        draw_block(block, seed, size, shift, numbers[starts[block] : starts[block + 1]])


@kernel
def draw_kernel(pool, workers, blocks, *args):
    each_share(pool, workers, blocks, draw_blocks, args)


@kernel
def others_into(numbers, out):
    """The numbers from 0 on that these rising ones leave out, as many as there is room for."""
    k = place = 0
    for number in range(numbers.size + out.size):
        if k < numbers.size and numbers[k] == number:
            k += 1
        else:
            out[place] = number
            place += 1


def block_shift(size: int, need: int) -> int:
    """A block is of 2**shift numbers, between half of LOAD and LOAD of which are drawn."""
    return min((LOAD * size // need).bit_length() - 1, (size - 1).bit_length())


def distinct(size: int, need: int, seed: int, threads: int = 1) -> Array:
    """``need`` distinct numbers from 0 to ``size - 1``, rising, every choice equally likely; int64.

    The result follows from the arguments and never from threads. Memory is proportional to ``need``.

    Args:
        size: below 2**63.
        need: from 0 to size.
        seed: from 0 to 2**64 - 1.

    Example:
        >>> distinct(4, 4, seed=1).tolist()
        [0, 1, 2, 3]
    """
    if need > size - need:  # it is quicker to draw the numbers left out
        out = np.empty(need, np.int64)
        others_into(distinct(size, size - need, seed, threads), out)
        return out
    numbers = np.empty(need, np.int64)
    if not need:
        return numbers
    shift = block_shift(size, need)
    blocks = (size - 1 >> shift) + 1
    counts, starts = np.zeros(blocks, np.int64), np.zeros(blocks + 1, np.int64)
    fixed = np.uint64(seed), np.uint64(size)
    count_blocks(*fixed, need, np.uint64(shift), counts)
    counts.cumsum(out=starts[1:])
    launch(draw_kernel, "", need, threads, blocks, *fixed, np.uint64(shift), starts, numbers)
    return numbers
