"""The report of `sparsetrain bench`: its figures by hand, from a small made-up JSON."""

import json
import math
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sparsetrain_bench.command import bench
from sparsetrain_bench.report import RecordsError, Report, build, draw, html, markdown, plain, read
from sparsetrain_bench.report.comparisons import by_case, crossover, fastest, over_ours
from sparsetrain_bench.report.record import Record
from sparsetrain_bench.report.table import Table
from sparsetrain_bench.rounds import geometric_mean, quartiles, ratio

ENVIRONMENT = {
    "command": "sparsetrain bench --preset layers",
    "versions": {"python": "3.11.0", "torch": "2.13.0", "sparseprop": "missing"},
    "cpu": {"model": "Some CPU", "cores": 2, "features": ["avx2"]},
    "date": "2026-11-25T10:00:00+00:00",
    "load_average": [0.25, 0.2, 0.1],
}
MS = [1.0, 2.0, 3.0, 4.0, 5.0]  # ours, round by round; the median is 3


def facts(contestant: str, times: float, density: float = 0.1, **changes: Any) -> dict[str, Any]:
    """A contestant that takes so many times as long as ours in each round, a tenth of it in the optimizer."""
    total = [times * ms / 1000 for ms in MS]
    shares = {"forward": 0.3, "backward": 0.6, "optimizer": 0.1}
    return {
        "family": "One layer, row-major", "panel": "8 -> 4, 2", "density": density, "threads": 1,
        "contestant": contestant, "state": "", "first_s": 0.5, "import_s": 0.25, "error": 1e-7, "kept_bytes": 1600,
        "phases": {phase: [share * s for s in total] for phase, share in shares.items()}, "edges": 100,
        "peak": {"steps": 2_000_000, "with_building": 3_000_000}, "environment": ENVIRONMENT, **changes,
    }  # fmt: skip


def absent(contestant: str, state: str) -> dict[str, Any]:
    return facts(contestant, 1.0, state=state, phases={}, peak=None)


TIMED = [
    facts("sparsetrain", 1.0),
    facts("dense", 4.0),
    facts("masked, in forward", 6.0),
    facts("masked, after step", 5.0),
    facts("SparseLab", 0.5),
    facts("sparsetrain", 1.0, density=0.5),
    facts("dense", 0.5, density=0.5),
    facts("sparsetrain", 1.0, panel="16 -> 4, 2"),
    facts("dense", 9.0, panel="16 -> 4, 2"),
    facts("sparsetrain", 0.5, threads=2),
]
NOT_TIMED = [absent("SparseProp", "missing"), absent("torch CSR", "failed: its output is off by 1.0e+00")]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    file = tmp_path_factory.mktemp("bench") / "records.json"
    file.write_text(json.dumps({"benchmarks": [{"extra_info": fact} for fact in TIMED], "not_timed": NOT_TIMED}))
    return read([file])


@pytest.fixture(scope="module")
def report(records: list[Record]) -> Report:
    return build(records)


def table(report: Report, title: str) -> Table:
    return next(table for table in report.tables if title in table.title)


def cells(table: Table, row: int = 0) -> dict[str, str]:
    return dict(zip(table.header, table.rows[row], strict=True))


def test_figures_of_rounds() -> None:
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 3.0, 4.0)
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0  # of 2, 3 and 1; the medians alone would say 4/3
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert geometric_mean([4.0, 9.0]) == pytest.approx(6.0)


def test_ratios_and_the_fastest_rival(records: list[Record]) -> None:
    case = by_case(records)["One layer, row-major", 1, "8 -> 4, 2", 0.1]
    assert over_ours(case, "dense", lambda record: record.step) == pytest.approx(4.0)
    assert over_ours(case, "SparseProp", lambda record: record.step) is None
    rival = fastest(case, ("masked, in forward", "masked, after step"), lambda record: record.step)
    assert rival == (pytest.approx(5.0), "masked, after step")
    assert case["sparsetrain"].step == pytest.approx([ms / 1000 for ms in MS])
    assert case["sparsetrain"].forward_and_backward == pytest.approx([0.9 * ms / 1000 for ms in MS])


def test_the_crossover_is_interpolated_on_logarithmic_axes() -> None:
    assert crossover([(0.1, 4.0), (0.4, 0.25)]) == "0.200"  # ratio 1 lies half-way
    assert crossover([(0.5, 0.5), (0.1, 4.0)]) == f"{0.1 * 5 ** (2 / 3):.3f}"
    assert crossover([(0.1, 4.0), (0.5, 1.5)]) == "> 0.5"
    assert crossover([(0.01, 0.9), (0.5, 0.2)]) == "< 0.01"
    assert crossover([]) == ""


def test_times_ratios_and_marks(report: Report) -> None:
    row = cells(table(report, "1 thread: milliseconds of a step"))
    assert (row["problem"], row["density"], row["sparsetrain"]) == ("8 -> 4, 2", "0.1", "3.00")
    assert row["dense"] == "12.0 (4.00x)"
    assert row["SparseLab"] == "1.50 (0.50x, faster)"
    assert row["SparseProp"] == "missing"
    assert row["torch CSR"].startswith("failed: its output is off")
    assert cells(table(report, "forward and backward"))["sparsetrain"] == "2.70"


def test_means_over_problems_name_the_worst(report: Report) -> None:
    over = table(report, "rivals over ours")
    assert [row[0] for row in over.rows] == ["0.5", "0.1"]
    row = cells(over, 1)
    assert row["dense, the faster"] == "6.00x (least 4.00x: dense, 8 -> 4, 2)"  # of 4 and 9
    assert row["masked, the cheapest"] == "5.00x (least 5.00x: masked, after step, 8 -> 4, 2)"
    assert row["best sparse peer"] == "0.50x, faster (least 0.50x, faster: SparseLab, 8 -> 4, 2)"


def test_crossovers_threads_and_bytes(report: Report) -> None:
    assert table(report, "crossover density").rows == [
        ["8 -> 4, 2", f"{math.exp(math.log(0.1) + math.log(4) / math.log(8) * math.log(5)):.3f}"],
        ["16 -> 4, 2", "> 0.1"],
    ]
    assert table(report, "2 threads over one").rows == [["sparsetrain", "2.00x"]]
    assert cells(table(report, "1 thread: bytes per edge"))["dense"] == "16.0"
    assert cells(table(report, "1 thread: peak memory"))["dense"] == "2.00 MB (3.00 MB)"


def test_every_measurement_has_its_quartiles(report: Report) -> None:
    row = cells(table(report, "Every measurement"), 1)
    assert row["contestant"] == "dense"
    assert row["ms, quartiles"] == "8.00 / 12.0 / 16.0"
    assert row["over ours, quartiles"] == "4.00 / 4.00 / 4.00"
    assert (row["first pass, ms"], row["import, s"], row["error"]) == ("500", "0.25", "1e-07")


def test_all_formats_show_what_is_missing_and_who_wins(report: Report) -> None:
    pytest.importorskip("matplotlib")
    for text in (plain(report), markdown(report), html(report)):
        for word in ("missing", "failed: its output is off", "0.50x, faster", "sparsetrain bench --preset layers"):
            assert word in text
        assert "load average 0.25 before, 5 rounds" in text
        assert "sparseprop missing" in text
    page = html(report)
    assert 'class="faster"' in page
    assert "<svg" in page
    assert not re.search(r"(src|href)=.http", page)


def test_the_picture_is_one(records: list[Record]) -> None:
    pytest.importorskip("matplotlib")
    picture = BytesIO()
    draw(records, picture, ".png")
    assert picture.getvalue().startswith(b"\x89PNG")


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"benchmarks": [{"extra_info": {}}]}')
    with pytest.raises(RecordsError, match=r"other.json: expected records of `sparsetrain bench --json`"):
        read([file])


def test_a_contestant_of_one_round_is_marked_and_paired_with_that_round(tmp_path: Path) -> None:
    slow = facts("dense", 4.0)
    slow["phases"] = {phase: seconds[:1] for phase, seconds in slow["phases"].items()}
    file = tmp_path / "records.json"
    file.write_text(json.dumps({"benchmarks": [{"extra_info": f} for f in (TIMED[0], slow)], "not_timed": []}))
    assert "4.00* (4.00x)" in plain(build(read([file])))


def test_two_files_may_not_hold_the_same_measurement(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.json", "two.json")]
    for file in files:
        file.write_text(json.dumps({"benchmarks": [{"extra_info": TIMED[0]}], "not_timed": []}))
    with pytest.raises(RecordsError, match=r"two.json: sparsetrain in One layer.*one.json as well"):
        read(files)


# ---- two records against each other ----------------------------------------------------------------------------------


def written(file: Path, *timed: dict[str, Any]) -> str:
    file.write_text(json.dumps({"benchmarks": [{"extra_info": fact} for fact in timed], "not_timed": NOT_TIMED}))
    return str(file)


def test_ratios_that_have_become_worse_fail(tmp_path: Path) -> None:
    two = "16 -> 4, 2"
    old = written(
        tmp_path / "old.json",
        facts("sparsetrain", 1.0), facts("dense", 4.0), facts("masked, in forward", 6.0),
        facts("sparsetrain", 1.0, panel=two), facts("dense", 9.0, panel=two), facts("sparsetrain, bf16", 1.0, panel=two),
    )  # fmt: skip
    # a machine twice as slow, where ours takes 2.4 times as long beside dense, and twice as long beside masked
    new = written(
        tmp_path / "new.json",
        facts("sparsetrain", 2.4), facts("dense", 8.0), facts("masked, in forward", 14.4), facts("dense, bf16", 1.0),
        facts("sparsetrain", 2.2, panel=two), facts("dense", 18.0, panel=two), facts("sparsetrain, bf16", 1.0, panel=two),
    )  # fmt: skip
    result = CliRunner().invoke(bench, ["--from", new, "--against", old])
    assert result.exit_code == 0, result.output
    assert re.search(r"8 -> 4, 2, density 0.1, 1 thread +1.10x +dense 1.20x, masked, in forward 1.00x", result.output)
    assert "0 of 2 cases take more than 1.15 times as long as before" in result.output
    slower = written(tmp_path / "slower.json", facts("sparsetrain", 1.2, panel=two), facts("dense", 9.0, panel=two))
    result = CliRunner().invoke(bench, ["--from", slower, "--against", old])
    assert result.exit_code == 1
    assert "1 of 1 cases take more than 1.15 times as long as before" in result.stdout
    assert "old.json: One layer, row-major, 16 -> 4, 2, density 0.1, 1 thread." in result.stderr


def test_records_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", facts("sparsetrain", 1.0), facts("dense", 4.0))
    elsewhere = {**ENVIRONMENT, "cpu": {"model": "Another CPU", "cores": 2, "features": []}}
    for new, said in (
        ([facts("sparsetrain", 1.0, environment=elsewhere)], "got Some CPU (avx2) before and Another CPU () after"),
        ([facts("sparsetrain", 1.0), facts("dense, bf16", 1.0)], "the same rival, got none"),
    ):
        file = tmp_path / "new.json"
        file.write_text(json.dumps({"benchmarks": [{"extra_info": fact} for fact in new], "not_timed": []}))
        result = CliRunner().invoke(bench, ["--from", str(file), "--against", old])
        assert result.exit_code == 1
        assert said in result.stderr
