"""Peak memory of a contestant, in a process that does nothing else."""

import ctypes
import gc
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sparsetrain.cli import memory

from .case import Case
from .worker import settle_in

CLEAR = Path("/proc/self/clear_refs")
STEPS = 3


@dataclass(frozen=True)
class Peak:
    """Bytes by which the peak of the process rose: with building the contestant, and in its steps alone."""

    with_building: int
    steps: int


class Trial:
    """A fresh process, which loads the libraries with a tiny case before it counts."""

    def __init__(self, name: str, case: Case) -> None:
        settle_in()
        self.name = name
        _steps(name, case.tiny())

    def measure(self, case: Case) -> Peak:
        """Build the case and make three steps."""
        before = forget_peak()
        problem = case.problem()
        forget_peak()  # making up a problem is nobody's fault
        contestant = case.contestant(self.name, problem)
        del problem
        building = memory.peak()
        forget_peak()
        contestant.first_pass()
        contestant.results()
        for _ in range(STEPS - 1):
            contestant.step()
        steps = memory.peak()
        return Peak(max(building, steps) - before, max(0, steps - before))


def _steps(name: str, case: Case) -> None:
    contestant = case.contestant(name, case.problem())
    contestant.first_pass()
    contestant.results()
    contestant.step()


def forget_peak() -> int:
    """The peak so far, after it was set back to what is in use, where the system can do that."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the allocator kept would hide what comes next
        with suppress(OSError):
            CLEAR.write_text("5")
    return memory.peak()
