"""The contestants of `sparsetrain bench`: all agree with the oracle, a wrong one is refused, and one real run."""

import json
import logging
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint, EntryPoints, version
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sparsetrain_bench import command, measurement
from sparsetrain_bench.case import Case, WrongResultError, check, installed
from sparsetrain_bench.engines import ENGINES
from sparsetrain_bench.engines.ours import Sparsetrain
from sparsetrain_bench.layer import LayerCase
from sparsetrain_bench.lookup import LookupCase
from sparsetrain_bench.lookup_tables import RACES, Size
from sparsetrain_bench.measurement import Measurement, Outcome, obstacle
from sparsetrain_bench.network import NetworkCase
from sparsetrain_bench.peak import Trial
from sparsetrain_bench.presets import PRESETS
from sparsetrain_bench.replay import Replay
from sparsetrain_bench.settings import Settings
from sparsetrain_bench.worker import MOST_STEPS, Worker
from torch import Tensor

from sparsetrain.cli import program

ROOT = Path(__file__).parent.parent
LAYER = LayerCase(40, 24, 10, 0.2, threads=1)
NETWORK = NetworkCase("MLP", (30, 20, 16, 5), 8, 0.3, threads=1)
SIZE = Size(rows=50, dim=8, ids=32, bag=4)


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads, level = torch.get_num_threads(), logging.getLogger("sparsetrain").level
    yield
    torch.set_num_threads(threads)
    logging.getLogger("sparsetrain").setLevel(level)


def gate(case: Case, name: str) -> float:
    """The error of a contestant's first pass."""
    if not installed(case.module_of(name)):
        pytest.skip(f"{name} is not installed")
    problem = case.problem()
    contestant = case.contestant(name, problem)
    contestant.first_pass()
    error = check(contestant.results(), case.expected(problem), contestant.tolerance)
    assert all(seconds >= 0 for seconds in contestant.step().values())
    assert contestant.kept_bytes() > 0
    return error


# ---- the gate -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["row-major", "feature-major"])
@pytest.mark.parametrize("name", LAYER.contestants())
def test_layers_agree_with_the_oracle(name: str, layout: Any) -> None:
    error = gate(replace(LAYER, layout=layout), name)
    assert error < (1e-5 if ENGINES[name].dtype is torch.float32 else 1e-2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENGINES)
def test_so_they_do_in_inference(name: str) -> None:
    gate(replace(LAYER, training=False, batch=2), name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORK.contestants())
def test_networks_agree_with_the_oracle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate(NETWORK, name)
    monkeypatch.setattr("sparsetrain_bench.network.TWIN_LIMIT", 0)
    gate(replace(NETWORK, density=None, epsilon=3.0), name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule, names in RACES.items() for name in names])
def test_lookups_agree_with_the_dense_optimizer(rule: str, name: str) -> None:
    for law in ("uniform", "zipf"):
        gate(LookupCase(rule, law, SIZE, threads=1, dense=True), name)  # type: ignore[arg-type]


class Wrong(Sparsetrain):
    """Right but for one edge's gradient."""

    def edge_gradient(self, layer: Any, t: Any) -> Tensor:
        gradient = super().edge_gradient(layer, t).clone()
        gradient[3] += 1e-3
        return gradient


def test_a_wrong_engine_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ENGINES, "wrong", Wrong())
    with pytest.raises(WrongResultError, match=r"its edge gradient is off by .* of the largest, more than 1e-05"):
        gate(LAYER, "wrong")
    expected = tmp_path / "expected.pt"
    torch.save(LAYER.expected(LAYER.problem()), expected)
    assert Worker("wrong").begin(LAYER, expected).failure.startswith("its edge gradient is off")
    assert Worker("sparsetrain").begin(LAYER, expected).failure == ""


def test_results_that_are_not_numbers_or_not_in_shape_are_refused() -> None:
    expected = {"output": torch.ones(2, 3, dtype=torch.float64)}
    assert check({"output": torch.ones(2, 3)}, expected) == 0
    with pytest.raises(WrongResultError, match="off by nan"):
        check({"output": torch.full((2, 3), torch.nan)}, expected)
    with pytest.raises(WrongResultError, match=r"has shape \(3, 2\), expected \(2, 3\)"):
        check({"output": torch.ones(3, 2)}, expected)
    with pytest.raises(WrongResultError, match="it gave no results, expected output"):
        check({}, expected)


# ---- turns, rounds and memory ---------------------------------------------------------------------------------------


class Stub:
    """A contestant whose steps take what they are told to."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.steps = seconds, 0

    def step(self) -> dict[str, float]:
        self.steps += 1
        return {"forward": self.seconds[min(self.steps, len(self.seconds)) - 1]}


@pytest.mark.parametrize(
    ("seconds", "last", "steps", "median"),
    [
        ([2.0], 2.0, 1, 2.0),  # long: no step goes untimed
        ([0.9, 0.02], 0.02, 2, 0.02),  # the first untimed
        ([0.9, 0.003, 0.001, 0.006], 0.001, 4, 0.003),  # the first untimed, then until ten milliseconds are full
        ([1e-6], 1e-6, MOST_STEPS + 1, 1e-6),
    ],
)
def test_a_turn(seconds: list[float], last: float, steps: int, median: float) -> None:
    worker, stub = Worker("dense"), Stub(seconds)
    worker.contestant, worker.seconds = stub, last  # type: ignore[assignment]
    assert worker.turn() == {"forward": median}
    assert stub.steps == steps


def test_who_can_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle("dense", LAYER) == ""
    huge = next(case for case in PRESETS["scale"](Settings(preset="scale")) if "600000" in case.panel)
    assert obstacle("dense", huge).startswith("needs 8,")  # terabytes, in GB
    assert obstacle("sparsetrain", huge) == ""
    monkeypatch.setattr(measurement, "installed", lambda module: False)
    assert obstacle("SparseProp", LAYER) == "missing"


def test_a_process_that_dies_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def call(self, *_: Any) -> Any:
            raise measurement.ProcessError("dense: its process died, killed by SIGKILL, mostly for want of memory.")

    driver = Measurement(Settings(rounds=2), lambda text: None)
    driver.race.contestants["dense"] = Dying()  # type: ignore[assignment]
    outcomes = {"dense": Outcome(), "SparseProp": Outcome("missing")}
    driver._time(outcomes)
    assert outcomes["dense"].state == "failed: its process died, killed by SIGKILL, mostly for want of memory."
    assert (outcomes["dense"].phases, driver.race.contestants) == ({}, {})


def test_the_peak_of_a_dense_layer_holds_its_weights() -> None:
    case = replace(LAYER, inputs=2000, outputs=2000, density=0.01)
    peak = Trial("dense", case).measure(case)
    assert peak.with_building >= peak.steps >= 2 * 4 * 2000 * 2000  # weight and gradient


def test_a_replay_takes_as_long_as_the_rounds_did() -> None:
    replay = Replay()
    replay.load([0.5, 0.25])
    assert [-replay() + replay() for _ in range(2)] == [0.5, 0.25]


# ---- settings and the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_titles_tell_cases_apart(preset: str) -> None:
    cases = PRESETS[preset](Settings(preset=preset, threads=(1, 2)))
    assert len({case.title for case in cases}) == len(cases) > 1


def test_settings_survive_json_and_say_their_command() -> None:
    settings = Settings(shapes=((8, 4, 2),), densities=(0.1,), engines=("torch CSR",), memory=False)
    assert Settings.from_json(settings.to_json()) == settings
    assert settings.command() == (
        'sparsetrain bench --preset layers --shape 8x4x2 --density 0.1 --engine "torch CSR" --no-memory'
    )


def test_the_command_line_finds_it_through_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("bench", "sparsetrain_bench.command:bench", "sparsetrain.commands")
    entered = tomllib.loads((ROOT / "bench" / "pyproject.toml").read_text())["project"]["entry-points"]
    assert entered == {point.group: {point.name: point.value}}
    monkeypatch.setattr(program, "entry_points", lambda **wanted: EntryPoints([point]).select(**wanted))
    assert "bench" in CliRunner().invoke(program.main, ["--help"]).output
    assert "Measure sparsetrain beside other engines." in CliRunner().invoke(program.main, ["bench", "--help"]).output
    assert "No such command" in CliRunner().invoke(program.main, ["bunch"]).output


def test_without_it_the_command_line_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "entry_points", lambda **wanted: EntryPoints([]).select(**wanted))
    result = CliRunner().invoke(program.main, ["bench", "--preset", "layers"])
    assert result.exit_code == 2
    assert "bench is not installed. It is no part of the wheel." in result.stderr
    assert "run: pip install ./bench" in result.stderr


def test_a_busy_machine_and_wrong_shapes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 99.0, 99.0))
    result = CliRunner().invoke(command.bench, [])
    assert result.exit_code == 1
    assert "The load average is 99.00" in result.stderr
    result = CliRunner().invoke(command.bench, ["--shape", "8x4"])
    assert result.exit_code == 2
    assert "expected inputs, outputs and batch, as in 768x3072x896, got '8x4'" in result.stderr


def test_the_command_from_end_to_end(tmp_path: Path) -> None:
    folders = [ROOT, ROOT / "kernels", ROOT / "bench"]
    start = [sys.executable, "-c", "from sparsetrain_bench.command import bench; bench()"]
    options = "--shape 24x16x4 --density 0.2 --threads 1 --engine dense --engine torch-sparse --rounds 2 --no-memory"
    # a benchmark refuses to measure where pytest-xdist runs it beside others; a user's shell has none of its variables
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [*start, *options.split(), "--busy", "--json", "r.json", "--markdown", "r.md"], cwd=tmp_path, text=True,
        capture_output=True, env={**inherited, "PYTHONPATH": os.pathsep.join(map(str, folders))}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "r.json").read_text())
    names = [entry["extra_info"]["contestant"] for entry in content["benchmarks"]]
    assert {"sparsetrain", "dense"} <= set(names)
    assert {*names, *(entry["contestant"] for entry in content["not_timed"])} == {
        "sparsetrain",
        "dense",
        "torch-sparse",
    }
    for entry in content["benchmarks"]:
        facts = entry["extra_info"]
        steps = [sum(phases) for phases in zip(*facts["phases"].values(), strict=True)]
        assert entry["stats"]["data"] == pytest.approx(steps)
        assert list(facts["phases"]) == ["forward", "backward", "optimizer"]
        assert facts["environment"]["versions"]["torch"] == version("torch")  # torch.__version__ may say more
        assert facts["environment"]["threads"] == 1
    assert "node" not in content["machine_info"]
    assert "24 -> 16, 4" in done.stdout
    assert "| torch-sparse |" in (tmp_path / "r.md").read_text()
