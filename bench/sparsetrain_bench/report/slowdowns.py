"""Two records against each other: in which cases we take longer than before, beside the same rivals."""

from dataclasses import dataclass

from sparsetrain.text_table import aligned

from ..case import OURS
from ..rounds import geometric_mean
from .comparisons import Case, by_case, over_ours
from .record import Point, Record, RecordsError

MOST = 1.15  # what two runs of the same sources stay below where nobody else computes


@dataclass(frozen=True)
class Slowdown:
    """How many times as long one case takes us as before, with each rival's time for the yardstick, and their mean."""

    point: Point
    beside: dict[str, float]

    @property
    def times(self) -> float:
        """The geometric mean over rivals: one that has become faster or slower by itself is one among them."""
        return geometric_mean(self.beside.values())

    @property
    def title(self) -> str:
        """Which case."""
        family, threads, panel, density = self.point
        return f"{family}, {panel}, density {density}, {threads} thread{'s' * (threads > 1)}"


def slowdowns(before: list[Record], after: list[Record]) -> list[Slowdown]:
    """One for each case that both measured, the worst first.

    Raises:
        RecordsError: the CPUs differ, or no case has us and the same rival in both.
    """
    one, two = _cpu(before), _cpu(after)
    if one != two:
        raise RecordsError(
            f"Expected records of one kind of CPU, as ratios depend on it, got {one} before and {two} after. Measure "
            "the older sources on this machine, too."
        )
    cases, new = by_case(before), by_case(after)
    found = [Slowdown(point, _beside(cases[point], case)) for point, case in new.items() if point in cases]
    found = [slowdown for slowdown in found if slowdown.beside]
    if not found:
        raise RecordsError("Expected cases in which both records have sparsetrain and the same rival, got none.")
    return sorted(found, key=lambda slowdown: -slowdown.times)


def verdict(found: list[Slowdown]) -> str:
    """A line for each case, and how many are too slow."""
    lines = [[each.title, f"{each.times:.2f}x", *_told(each)] for each in found]
    slower = len(regressions(found))
    total = f"{slower} of {len(found)} cases take more than {MOST:g} times as long as before, beside the same rivals."
    return "\n".join([*aligned([["", "than before", "beside"], None, *lines], left=(0, 2)), "", total])


def regressions(found: list[Slowdown]) -> list[Slowdown]:
    """Those that are too slow."""
    return [each for each in found if each.times > MOST]


def _beside(before: Case, after: Case) -> dict[str, float]:
    shared = [name for name in after if name in before and name != OURS and not name.startswith(f"{OURS},")]
    ratios = {name: (over_ours(before, name, _step), over_ours(after, name, _step)) for name in shared}
    return {name: old / new for name, (old, new) in ratios.items() if old is not None and new is not None}


def _step(record: Record) -> list[float]:
    return record.step


def _told(slowdown: Slowdown) -> list[str]:
    return [", ".join(f"{name} {times:.2f}x" for name, times in slowdown.beside.items())]


def _cpu(records: list[Record]) -> str:
    kinds = {f"{r.environment['cpu']['model']} ({', '.join(r.environment['cpu']['features'])})" for r in records}
    return " and ".join(sorted(kinds)) or "none"
