"""Random integers inside of kernels: SplitMix64, whose state is one number, so that every task has a stream of its own.

Source: Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators, OOPSLA; Lemire (2019), Fast random
integer generation in an interval, ACM TOMACS 29(1).
"""

import numpy as np

from .jit import part

STEP = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


@part(inline=True)
def mixed(z):
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))


@part(inline=True)
def stream(seed, task):
    """The state that a task begins with."""
    return mixed(mixed(seed + STEP) + STEP * np.uint64(task + 1))


@part(inline=True)
def product(a, b):
    """Upper and lower half of the 128 bits of a product."""
    a1, a0, b1, b0 = a >> HALF, a & LOW, b >> HALF, b & LOW
    across, other = a1 * b0, a0 * b1
    middle = ((a0 * b0) >> HALF) + (across & LOW) + (other & LOW)
    return a1 * b1 + (across >> HALF) + (other >> HALF) + (middle >> HALF), a * b


@part(inline=True)
def below(bound, state):
    """An integer from 0 to bound - 1, all equally likely, and the state afterwards; all of uint64."""
    state += STEP
    number, rest = product(mixed(state), bound)
    if rest < bound:
        least = (np.uint64(0) - bound) % bound  # fewer than so many would favour some numbers
        while rest < least:
            state += STEP
            number, rest = product(mixed(state), bound)
    return number, state
