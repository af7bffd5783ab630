"""What lives in a contestant's process: it builds a case, has it checked, and takes turns at it."""

import gc
import logging
import os
import re
import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from .case import Case, Contestant, check

TURN = 0.010  # seconds that a turn times at least
MOST_STEPS = 50
PATHS = re.compile(r"(?:/[^\s/:]+)+/")  # of this machine's folders, which say nothing to a reader
BRIEF = 1.0  # seconds: a step that takes longer is not repeated only to leave out what it did for the first time


@dataclass(frozen=True)
class Opening:
    """How a contestant began: seconds of the first pass and of a later step, its largest error, what it keeps; or why
    it failed."""

    first_s: float = 0.0
    step_s: float = 0.0
    error: float = 0.0
    kept_bytes: int = 0
    failure: str = ""


def settle_in() -> None:
    """As many threads as the process was born with, and silence."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    warnings.simplefilter("ignore")  # torch's CSR says that it is in beta, sparselab's arrays that they are read-only
    logging.getLogger("sparsetrain").setLevel(logging.ERROR)


class Worker:
    """A contestant's process, through all cases of a run."""

    def __init__(self, name: str) -> None:
        settle_in()
        self.name = name
        self.contestant: Contestant | None = None
        self.seconds = 0.0  # of the last step

    def begin(self, case: Case, expected: Path) -> Opening:
        """Build the case, make the first step, and check what it computed."""
        self.end()
        try:
            return self._begin(case, expected)
        except Exception as error:  # a peer may fail in any way, and the others go on
            self.end()
            kind = "" if type(error).__module__.startswith("sparsetrain_bench") else f"{type(error).__name__}: "
            return Opening(failure=kind + PATHS.sub("", str(error)))

    def _begin(self, case: Case, expected: Path) -> Opening:
        contestant = case.contestant(self.name, case.problem())
        start = perf_counter()
        contestant.first_pass()
        first = perf_counter() - start  # with machine code that is on the disk
        error = check(contestant.results(), torch.load(expected, mmap=True), contestant.tolerance)
        gc.collect()
        self.seconds = sum(contestant.step().values())
        if self.seconds < BRIEF:
            self.seconds = sum(contestant.step().values())
        self.contestant = contestant
        return Opening(first, self.seconds, error, contestant.kept_bytes())

    def turn(self) -> dict[str, float]:
        """Median seconds of each phase, over as many steps as fill a turn."""
        if self.contestant is None:
            raise RuntimeError("Worker.turn: expected begin() before, got none.")
        if self.seconds < BRIEF:
            self.contestant.step()  # brings back what the others drove out of the caches
        steps: list[dict[str, float]] = []
        timed = 0.0
        while timed < TURN and len(steps) < MOST_STEPS:
            steps.append(self.contestant.step())
            self.seconds = sum(steps[-1].values())
            timed += self.seconds
        return {phase: statistics.median(step[phase] for step in steps) for phase in steps[0]}

    def end(self) -> None:
        """Forget the case."""
        self.contestant = None
        gc.collect()
