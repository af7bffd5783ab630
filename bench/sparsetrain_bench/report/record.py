"""Records: what a pytest-benchmark JSON of ours says about each contestant."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASS = ("forward", "backward")
Point = tuple[str, int, str, float | None]  # family, threads, panel, density


@dataclass(frozen=True, eq=False)
class Record:
    """One contestant in one case; ``state`` says why it has no times, and is empty where it has."""

    family: str
    panel: str
    density: float | None
    threads: int
    contestant: str
    state: str
    phases: dict[str, list[float]]
    first_s: float
    import_s: float
    error: float
    kept_bytes: int
    edges: int
    peak: dict[str, int] | None
    environment: dict[str, Any]

    @property
    def point(self) -> Point:
        """Which case it belongs to."""
        return self.family, self.threads, self.panel, self.density

    @property
    def step(self) -> list[float]:
        """Seconds of a whole step in each round."""
        return _sums(self.phases.values())

    @property
    def forward_and_backward(self) -> list[float]:
        """Seconds of a step without the optimizer."""
        return _sums(self.phases[phase] for phase in PASS)


class RecordsError(Exception):
    """A file does not hold records of ours; the message says which and what to do."""


def read(files: Iterable[Path]) -> list[Record]:
    """All records of some files, in their order.

    Raises:
        RecordsError: a file was not written by ``sparsetrain bench``, or two hold the same measurement.
    """
    records: list[Record] = []
    seen: dict[tuple[Point, str], Path] = {}
    for file in files:
        try:
            content = json.loads(file.read_text())
            facts = [entry["extra_info"] for entry in content["benchmarks"]] + content["not_timed"]
            found = [Record(**fact) for fact in facts]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordsError(
                f"{file}: expected records of `sparsetrain bench --json`, got something else ({error}). Measure again."
            ) from None
        for record in found:
            other = seen.setdefault((record.point, record.contestant), file)
            if other != file:
                raise RecordsError(
                    f"{file}: {record.contestant} in {record.family}, {record.panel} is in {other} as well, and ratios "
                    "hold within one run. Leave one of the files out."
                )
        records += found
    return records


def _sums(phases: Iterable[list[float]]) -> list[float]:
    return [sum(seconds) for seconds in zip(*phases, strict=True)]
