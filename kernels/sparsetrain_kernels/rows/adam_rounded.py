"""Adam and AdamW on all numbers of an array, their moments in bfloat16 and rounded at random.

In a step a moment moves by a small part of itself: the second by less than a thousandth, where two numbers of bfloat16
are a 128th apart. Rounded to the nearest it would stand still; rounded up with the probability of its distance from
below, it is right on average. The arithmetic is float32, and the weight moves by the moments before they are rounded.

The random bits are a hash of the place and of a key for the step: no state, and the same at any number of threads.
"""

import math

import numpy as np

from ..jit import kernel, part
from ..launch import launch
from ..operands import read_bfloat16, write_at_random
from ..plan import Array
from ..subnormals import flush_subnormals, restore_subnormals
from ..workers import each_share
from .adam import corrections

FIRST, SECOND = np.uint64(0x7FEB352D), np.uint64(0x846CA68B)
LOW = np.uint64(0xFFFFFFFF)


@part(inline=True)
def random_bits(k, key):
    """32 bits for a place and a key, both below 2**32. Source: Wellons (2018), Prospecting for hash functions, lowbias32."""
    z = (np.uint64(k) & LOW) ^ key
    z = ((z ^ (z >> np.uint64(16))) * FIRST) & LOW
    z = ((z ^ (z >> np.uint64(15))) * SECOND) & LOW
    return z ^ (z >> np.uint64(16))


@part(inline=True)
def adam_number(k, grad, w, exp_avg, exp_avg_sq, key, step_size, root, beta2, rest1, rest2, eps, shrink):
    """The weight after its step; its moments are written."""
    at = np.int64(k)
    m, v = read_bfloat16(exp_avg, at), read_bfloat16(exp_avg_sq, at)
    m = m + rest1 * (grad - m)
    v = beta2 * v + rest2 * grad * grad
    noise = random_bits(k, key)
    write_at_random(exp_avg, at, m, noise)
    write_at_random(exp_avg_sq, at, v, noise >> np.uint64(16))
    return shrink * w[k] - step_size * m / (math.sqrt(v) * root + eps)


@part
def adam_rounded_part(first, last, gradients, scale, weights, exp_avg, exp_avg_sq, counts, step, key, step_sizes, roots,
                      beta2, rest1, rest2, eps, coupled, shrink):
    """The numbers from first to last - 1. The tables end where their numbers no longer change."""
    mode = flush_subnormals()
    longest = step_sizes.size - 1
    step_size, root = step_sizes[min(step, longest)], roots[min(step, longest)]
    for k in range(np.uint64(first), np.uint64(last if counts.size == 0 else first)):  # a loop that becomes vectors
        grad = scale * gradients[k] + coupled * weights[k]
        weights[k] = adam_number(k, grad, weights, exp_avg, exp_avg_sq, key, step_size, root, beta2, rest1, rest2, eps, shrink)
    for k in range(np.uint64(first), np.uint64(last if counts.size > 0 else first)):
        counts[k] += 1
        n = min(np.int64(counts[k]), longest)
        grad = scale * gradients[k] + coupled * weights[k]
        weights[k] = adam_number(k, grad, weights, exp_avg, exp_avg_sq, key, step_sizes[n], roots[n], beta2, rest1, rest2, eps, shrink)
    restore_subnormals(mode)


@kernel
def adam_rounded_kernel(pool, workers, size, *args):
    each_share(pool, workers, size, adam_rounded_part, args)


def adam_rounded(
    gradients: Array, weights: Array, exp_avg: Array, exp_avg_sq: Array, counts: Array, *, step: int, key: int, lr: float,
    betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool, scale: float = 1.0, threads: int = 1,
) -> None:  # fmt: skip
    """One step of all numbers, in place.

    Args:
        gradients, weights: flat, float32.
        exp_avg, exp_avg_sq: the bits of bfloat16, as np.uint16.
        counts: int32, steps of each number so far; of size 0 where ``step`` counts for all.
        step: of the array, this one included.
        key: of the random bits, below 2**32; another in each step.
        scale: multiplies the gradients.

    Example:
        >>> weights, moments = np.ones(2, np.float32), np.zeros((2, 2), np.uint16)
        >>> none = np.empty(0, np.int32)
        >>> adam_rounded(np.array([3, -4], np.float32), weights, *moments, none, step=1, key=7, lr=0.5, betas=(0.5, 0.5),
        ...              eps=0.0, weight_decay=0.0, decoupled=False)
        >>> weights.round(3).tolist()
        [0.5, 1.5]
    """
    coupled, shrink = (0.0, 1.0 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    first, second = corrections(*betas)
    kind = weights.dtype.type
    launch(adam_rounded_kernel, bool(counts.size), weights.size, threads, weights.size, gradients,
           kind(scale), weights, exp_avg, exp_avg_sq, counts, step, np.uint64(key), (lr / first).astype(kind),
           second.astype(kind), *map(kind, (betas[1], 1.0 - betas[0], 1.0 - betas[1], eps, coupled, shrink)))
