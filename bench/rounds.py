"""Timing contestants side by side: shuffled rounds, in which each runs once, and ratios round by round."""

import random
import statistics
import time
from collections.abc import Callable, Mapping


def measure(steps: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, the first ``warmup`` rounds left out."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for _ in range(rounds + warmup):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    return {name: run[warmup:] for name, run in times.items()}


def quartiles(seconds: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return low, middle, high


def ratio(theirs: list[float], ours: list[float]) -> float:
    """How many times as long theirs take, the median over rounds."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
