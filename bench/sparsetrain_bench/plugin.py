"""The pytest plugin of a run: a test for each contestant in each case, and a JSON that shows who is missing."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest

from .case import Case
from .measurement import Measurement, Outcome
from .presets import PRESETS
from .replay import Replay
from .settings import Settings

RUN = pytest.StashKey["Run"]()


class Run:
    """The cases by title, and what became of the contestants in those that ran."""

    def __init__(self, settings: Settings) -> None:
        self.cases = {case.title: case for case in PRESETS[settings.preset](settings)}
        self.measurement = Measurement(settings, lambda text: print(text, file=sys.__stderr__, flush=True))
        self.outcomes: dict[str, dict[str, Outcome]] = {}

    def outcome(self, title: str, name: str) -> Outcome:
        """What became of a contestant; its case runs when the first one asks."""
        if title not in self.outcomes:
            self.outcomes[title] = self.measurement.run(self.cases[title])
        return self.outcomes[title][name]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every contestant of every case, case by case."""
        for title, case in self.cases.items():
            for name in self.measurement.chosen(case):
                yield title, name


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-settings", required=True, help="Settings of `sparsetrain bench`, as JSON.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = Run(Settings.from_json(config.getoption("--bench-settings")))


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RUN].measurement.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pairs = metafunc.config.stash[RUN].pairs()
    tests = [
        pytest.param(
            title, name, id=f"{title}: {name}", marks=pytest.mark.benchmark(timer=Replay(), group=title)
        )
        for title, name in pairs
    ]  # fmt: skip
    metafunc.parametrize(("title", "contestant"), tests)


@pytest.fixture
def run(pytestconfig: pytest.Config) -> Run:
    """The run that the tests are part of."""
    return pytestconfig.stash[RUN]


def facts(case: Case, name: str, outcome: Outcome) -> dict[str, Any]:
    """What the JSON says of a contestant beside its times."""
    return {
        "family": case.family,
        "panel": case.panel,
        "density": case.density,
        "threads": case.threads,
        "contestant": name,
        "state": outcome.state,
        "phases": outcome.phases,
        "first_s": outcome.opening.first_s,
        "import_s": outcome.import_s,
        "error": outcome.opening.error,
        "kept_bytes": outcome.opening.kept_bytes,
        "edges": outcome.edges,
        "peak": None if outcome.peak is None else asdict(outcome.peak),
        "environment": outcome.environment,
    }


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    run = config.stash[RUN]
    output_json["not_timed"] = [
        facts(run.cases[title], name, outcome)
        for title, outcomes in run.outcomes.items()
        for name, outcome in outcomes.items()
        if outcome.state
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    for name in ("node", "release"):  # names that say nothing about speed
        machine_info.pop(name, None)
