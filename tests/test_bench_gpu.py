"""bench/gpu.py runs from end to end: here in tiny shapes on a CPU, where what needs CUDA says that it was left out."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_parts.budget import Record
from gpu_parts.correct import correct
from gpu_parts.machine import Machine
from gpu_parts.table import beside_dense, right

from sparsetrain.backends.blocks import products

BENCH = Path(__file__).parent.parent / "bench"
HERE = Machine(torch.device("cpu"), tiny=True)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_part_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("gpu", BENCH / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    written = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--json", str(written)])
    bench.main()
    record = json.loads(written.read_text())
    assert record["machine"]["numba works"].startswith("yes")
    assert {name: part["ended"] for name, part in record["parts"].items()} == dict.fromkeys(bench.PARTS, "complete")
    results = [each for part in record["parts"].values() for each in part["results"]]
    assert [each for each in results if "failed" in each] == []
    assert all(each["right"] for each in record["parts"]["correct"]["results"])
    assert {each["repeats"] for each in record["parts"]["checks"]["results"] if "repeats" in each} == {"same"}
    assert any(each.get("left out") == "needs CUDA" for each in results)
    assert "dense_ms" in capsys.readouterr().out


def test_it_runs_without_a_numba_that_works(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 2.4 or less. Got NumPy 2.5.')")
    paths = [str(tmp_path), str(BENCH.parent), str(BENCH.parent / "kernels")]
    command = [sys.executable, str(BENCH / "gpu.py"), "--device", "cpu", "--json", str(tmp_path / "gpu.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--parts", "correct", "rows"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["machine"]["numba works"].startswith("no: ImportError: Numba needs NumPy 2.4")
    assert {part["ended"] for part in record["parts"].values()} == {"complete"}


def test_what_a_part_found_is_kept_when_it_fails_or_time_runs_out(tmp_path: Path) -> None:
    def fails() -> Iterator[dict[str, Any]]:
        yield {"first": 1}
        raise ValueError("no second")

    def slow() -> Iterator[dict[str, Any]]:
        while True:
            time.sleep(0.01)
            yield {}

    record = Record(0.1, tmp_path / "record.json")
    record.run("fails", 10, fails)
    record.run("slow", 10, slow)
    record.run("late", 10, slow)
    parts = json.loads((tmp_path / "record.json").read_text())["parts"]
    assert parts["fails"]["ended"] == "failed: ValueError: no second"
    assert parts["fails"]["results"] == [{"first": 1}]
    assert parts["slow"]["ended"] == "out of time"
    assert len(parts["slow"]["results"]) >= 1
    assert parts["late"] == {"results": [], "ended": "left out: the time had run out", "seconds": 0.0}


def test_wrong_results_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    product = products.spmm
    monkeypatch.setattr(
        products, "spmm", lambda *operands, **options: 1.02 * product(*operands, **options)
    )  # more than bfloat16 rounds
    lines = right(list(correct(HERE)))
    wrong = [each for each in lines if each["right"] is False]
    assert {each["backend"] for each in wrong} == {"blocks"}
    assert {each["precision"] for each in wrong} == {"fp64", "fp32", "tf32", "bf16"}


def test_the_table_of_layers_is_beside_dense_in_the_same_precision() -> None:
    what = {"size": 8, "batch": 2, "precision": "bf16", "density": 0.1}
    results = [
        {**what, "way": "dense", "step_ms": 3.0, "density": 1.0},
        {**what, "way": "masked", "step_ms": 6.0, "density": 1.0},
        {**what, "way": "dense", "precision": "fp32", "step_ms": 100.0},
        {**what, "way": "blocks", "step_ms": 2.0},
        {**what, "way": "ours", "step_ms": 1.5, "chosen": "triton"},
        {**what, "way": "torch", "failed": "RuntimeError"},
    ]
    expected = {"dense_ms": 3.0, "masked": "0.50x", "blocks": "1.50x", "ours": "2.00x", "chosen": "triton"}
    assert beside_dense(results) == [what | expected]
