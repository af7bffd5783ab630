"""Cases one after the other: who can take part, what each computed, its times in a race, and its memory."""

import random
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparsetrain.cli.process import ProcessError, Remote
from sparsetrain.cli.race import Race

from .case import OURS, Case, installed
from .machine import environment, import_seconds, memory_bytes
from .peak import Peak, Trial
from .settings import Settings
from .worker import Opening, Worker

WARM_UP = 2
SLOW = 0.5  # seconds of a step beyond which a contestant runs in the first timed round only; tables say so
AT_ONCE = 2  # trials of memory, which do not disturb each other


@dataclass
class Outcome:
    """What became of a contestant: why it was not timed, or its seconds by phase and round, and the rest."""

    state: str = ""
    opening: Opening = field(default_factory=Opening)
    phases: dict[str, list[float]] = field(default_factory=dict)
    import_s: float = 0.0
    peak: Peak | None = None
    edges: int = 0
    environment: dict[str, Any] = field(default_factory=dict)


class Measurement:
    """Of one case after the other; contestants live through all cases with the same number of threads."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings, self.say = settings, say
        self.order = random.Random(settings.seed)
        self.environment = environment(settings.command())
        self.race: Race[str] = Race(0, self.order)

    def run(self, case: Case) -> dict[str, Outcome]:
        """Check and time everybody who can take part in a case."""
        self.say(case.title)
        if case.threads != self.race.threads:
            self.close()
            self.race = Race(case.threads, self.order)
        outcomes = {name: Outcome(obstacle(name, case)) for name in self.chosen(case)}
        where = {**self.environment, "threads": case.threads}
        problem = case.problem()
        edges = case.edges(problem)
        with tempfile.TemporaryDirectory(prefix="sparsetrain-bench-") as folder:
            expected = Path(folder) / "expected.pt"
            torch.save(case.expected(problem), expected)
            del problem
            for name, outcome in outcomes.items():
                outcome.edges, outcome.environment = edges, where
                if not outcome.state:
                    self._open(name, case, expected, outcome)
        self._time(outcomes)
        if self.settings.memory:
            self._memory(case, outcomes)
        return outcomes

    def chosen(self, case: Case) -> list[str]:
        """Contestants of a case that were asked for; ours always, as the others are compared to it."""
        wanted = self.settings.engines
        return [name for name in case.contestants() if not wanted or name in wanted or name == OURS]

    def _open(self, name: str, case: Case, expected: Path, outcome: Outcome) -> None:
        outcome.import_s = import_seconds(case.module_of(name))
        try:
            if name not in self.race.contestants:
                self.race.enter(name, Worker, name).ready()
            outcome.opening = self.race.contestants[name].call("begin", case, expected)
            outcome.state = f"failed: {outcome.opening.failure}" if outcome.opening.failure else ""
        except ProcessError as error:
            self._lose(name, error, outcome)

    def _time(self, outcomes: dict[str, Outcome]) -> None:
        for k in range(WARM_UP + self.settings.rounds):
            for name, remote in self.race.round(self._running(outcomes, first_timed=k == WARM_UP)):
                try:
                    turn = remote.call("turn")
                except ProcessError as error:
                    self._lose(name, error, outcomes[name])
                    continue
                if k >= WARM_UP:
                    for phase, seconds in turn.items():
                        outcomes[name].phases.setdefault(phase, []).append(seconds)
        for name, outcome in outcomes.items():
            if not outcome.state:
                with suppress(ProcessError):  # it has given its times
                    self.race.contestants[name].call("end")
                step = sum(map(statistics.median, outcome.phases.values()))
                self.say(f"  {name}: {1e3 * step:.3f} ms")
            else:
                self.say(f"  {name}: {outcome.state}")

    def _running(self, outcomes: dict[str, Outcome], first_timed: bool) -> list[str]:
        """Those that run in a round: slow ones in the first timed round only."""
        running = [name for name, outcome in outcomes.items() if not outcome.state]
        return [name for name in running if name == OURS or first_timed or outcomes[name].opening.step_s <= SLOW]

    def _memory(self, case: Case, outcomes: dict[str, Outcome]) -> None:
        timed = [name for name, outcome in outcomes.items() if not outcome.state]
        for names in (timed[k : k + AT_ONCE] for k in range(0, len(timed), AT_ONCE)):
            with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
                trials = [stack.enter_context(Remote(name, case.threads, Trial, name, case)) for name in names]
                for name, peak in zip(names, pool.map(_measure, trials, [case] * len(trials)), strict=True):
                    outcomes[name].peak = peak

    def _lose(self, name: str, error: ProcessError, outcome: Outcome) -> None:
        """A process that died is replaced in the next case."""
        text = str(error).removeprefix(f"{name}: ").rsplit(" (", 1)[0]  # without the file where it happened
        outcome.state, outcome.phases = f"failed: {text}", {}
        self.race.leave(name)

    def close(self) -> None:
        """End all processes."""
        self.race.close()


def obstacle(name: str, case: Case) -> str:
    """Why a contestant can't take part: ``missing``, or what it would need; empty where it can."""
    if not installed(case.module_of(name)):
        return "missing"
    needed = case.needed_bytes(name)
    return f"needs {needed / 1e9:,.0f} GB" if needed > memory_bytes() / 2 else ""


def _measure(trial: Remote, case: Case) -> Peak | None:
    try:
        trial.ready()
        peak: Peak = trial.call("measure", case)
    except ProcessError:  # it made its steps before; what it lacks is room beside the other
        return None
    return peak
