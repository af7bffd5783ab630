"""Figures out of records: ratios to ours, their means over shapes, and the density at which dense overtakes us."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from ..case import OURS
from ..engines import DENSE, MASKED, PEERS
from ..rounds import geometric_mean, ratio
from .record import Point, Record

Seconds = Callable[[Record], list[float]]
Case = dict[str, Record]  # by contestant
Rival = tuple[float, str]  # how many times ours, and who

RIVALS: dict[str, Sequence[str]] = {
    "dense, the faster": DENSE,
    "masked, the cheapest": MASKED,
    "best sparse peer": PEERS,
}


def by_case(records: Iterable[Record]) -> dict[Point, Case]:
    """The contestants of each case."""
    cases: dict[Point, Case] = {}
    for record in records:
        cases.setdefault(record.point, {})[record.contestant] = record
    return cases


def over_ours(case: Case, name: str, seconds: Seconds) -> float | None:
    """How many times our time a contestant took, as the median over rounds; None where one of them has no times."""
    theirs, ours = case.get(name), case.get(OURS)
    if theirs is None or ours is None or theirs.state or ours.state:
        return None
    return ratio(seconds(theirs), seconds(ours))


def fastest(case: Case, names: Sequence[str], seconds: Seconds) -> Rival | None:
    """The fastest of some contestants."""
    found = [(times, name) for name in names if (times := over_ours(case, name, seconds)) is not None]
    return min(found, default=None)


def mean_and_worst(cases: Iterable[Case], names: Sequence[str], seconds: Seconds) -> tuple[float, Rival, Case] | None:
    """The geometric mean over cases of the fastest rival's ratio, and the case in which it came closest to us."""
    found = [(rival, case) for case in cases if (rival := fastest(case, names, seconds)) is not None]
    if not found:
        return None
    worst, case = min(found, key=lambda pair: pair[0])
    return geometric_mean(rival[0] for rival, _ in found), worst, case


def crossover(points: Iterable[tuple[float, float]]) -> str:
    """The density at which the ratio to dense falls through 1, from points (density, ratio), in log-log interpolation.

    Looked for from the sparse end on, so that the answer is the lowest such density.
    """
    ordered = sorted(points)
    if not ordered:
        return ""
    if ordered[0][1] < 1:
        return f"< {ordered[0][0]:g}"
    for (low, above), (high, below) in pairwise(ordered):
        if below < 1:
            share = math.log(above) / (math.log(above) - math.log(below))
            return f"{math.exp(math.log(low) + share * (math.log(high) - math.log(low))):.3f}"
    return f"> {ordered[-1][0]:g}"


def speedup(one: Record, two: Record) -> float:
    """How many times as fast more threads are; measured in different rounds, so of medians."""
    return statistics.median(one.step) / statistics.median(two.step)
