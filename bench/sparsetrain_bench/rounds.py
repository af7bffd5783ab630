"""Figures of interleaved rounds: quartiles, ratios round by round, and their geometric mean."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence


def measure(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    order: random.Random,
    warmup: int = 3,
    *,
    clock: Callable[[], float] = time.perf_counter,
    repeats: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each function in each round of this process, the first ``warmup`` rounds left out.

    A round has them in a new order, as a ``Race`` has processes. ``clock`` may be time.thread_time, for work of one
    thread on a busy machine; a call too short for it is made ``repeats`` times, and its mean counts.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + warmup):
        for name in order.sample(list(steps), len(steps)):
            step = steps[name]
            start = clock()
            for _ in range(repeats):
                step()
            times[name].append((clock() - start) / repeats)
    return {name: run[warmup:] for name, run in times.items()}


def quartiles(numbers: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile, as interpolated between the two nearest numbers."""
    if len(numbers) == 1:
        return numbers[0], numbers[0], numbers[0]
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return low, middle, high


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times as long theirs took, round by round, over the rounds that both ran: the slowest stop early."""
    return [a / b for a, b in zip(theirs, ours, strict=False)]


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times as long theirs take: the median over rounds."""
    return statistics.median(ratios(theirs, ours))


def geometric_mean(numbers: Iterable[float]) -> float:
    """The mean that ratios have: of 2 and 1/2 it is 1."""
    logarithms = [math.log(number) for number in numbers]
    return math.exp(math.fsum(logarithms) / len(logarithms))
