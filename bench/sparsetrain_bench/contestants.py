"""The benchmark that `sparsetrain bench` has pytest run: one test for each contestant in each case."""

from typing import Any

import pytest

from sparsetrain_bench.plugin import Run, facts


def test_contestant(run: Run, title: str, contestant: str, benchmark: Any, request: pytest.FixtureRequest) -> None:
    """Hand the measured rounds to pytest-benchmark."""
    outcome = run.outcome(title, contestant)
    if outcome.state.startswith("failed"):
        pytest.fail(f"{contestant}, {outcome.state}", pytrace=False)
    if outcome.state:
        pytest.skip(f"{contestant}: {outcome.state}")
    rounds = [sum(phases) for phases in zip(*outcome.phases.values(), strict=True)]
    marker = request.node.get_closest_marker("benchmark")
    marker.kwargs["timer"].load(rounds)
    benchmark.extra_info |= facts(run.cases[title], contestant, outcome)
    benchmark.pedantic(lambda: None, rounds=len(rounds), iterations=1)
