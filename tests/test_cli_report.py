"""Files and figures of a comparison: whole or absent, and right by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_comparison import setting

from sparsetrain import text_table
from sparsetrain.cli import files, report
from sparsetrain.cli.comparison import Comparison, Record
from sparsetrain.cli.implementation import Bytes, Evaluation, Steps
from sparsetrain.cli.network import KINDS


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_bytes(b"old")

    def half(file: Any) -> None:
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write(target, half)
    assert target.read_bytes() == b"old"
    files.write(target, lambda file: file.write(b"new"))  # type: ignore[arg-type]
    assert target.read_bytes() == b"new"
    link = tmp_path / "link"
    link.symlink_to(target)
    files.write(link, lambda file: file.write(b"newer"))  # type: ignore[arg-type]
    assert link.is_symlink()
    assert target.read_bytes() == b"newer"
    assert len(list(tmp_path.iterdir())) == 2


def record(scale: float, losses: list[float]) -> Record:
    milliseconds = [scale * ms / 1000 for ms in (1, 2, 3, 100)]
    steps = Steps(losses, milliseconds, [2 * s for s in milliseconds], [3 * s for s in milliseconds], [0.0] * 4)
    kept = Bytes(
        before=100_000_000, peak=101_500_000, parameters=int(1000 * scale), state=int(2000 * scale), indices=500
    )
    return Record(0.25, kept, steps, [Evaluation(0.5, 90.0), Evaluation(0.25, 95.0)])


def comparison(last: float = 0.25) -> Comparison:
    records = [record(1, [4.0, 3.0, 2.0, last]), record(10, [4.0, 3.125, 2.5, last]), record(5, [4.0, 3.0, 2.0, last])]
    forms = {"forward": 0.03, "step": 0.02}
    return Comparison(setting(), 1.5, forms, "step", dict(zip(KINDS, records, strict=True)))  # type: ignore[arg-type]


def test_figures_by_hand() -> None:
    got = report.figures(comparison())
    sparse, masked = got["contestants"]["sparse"], got["contestants"]["masked"]
    assert got["first_epoch_loss_difference"] == 0.125  # of the first two steps; the third differs more
    assert sparse["train_loss"] == [3.5, 1.125]
    assert sparse["step_ms"]["forward"]["median"] == pytest.approx(2.5)
    assert sparse["step_ms"]["total"]["median"] == pytest.approx(15.0)
    assert masked["step_over_sparse"] == pytest.approx(10)
    assert got["kept_bytes_sparse_over_masked"] == 3000 / 30000
    assert got["kept_bytes_with_indices_sparse_over_masked"] == 3500 / 30000


def test_the_table_by_hand() -> None:
    lines = report.table(comparison()).splitlines()
    assert lines[0] == "784-8-10 on tiny, density 0.5"
    assert lines[1] == "2 epochs, batch 16, adam with lr 0.01, float64, 1 thread, seed 3"
    assert "Dense products had torch's float32 matmul precision 'highest'." in lines
    rows = {line[:24].strip(): line[24:].split() for line in lines[3:] if line}
    assert rows["test accuracy"] == ["95.00", "%"] * 3
    assert rows["one step"] == ["15.00", "ms", "150.00", "ms", "75.00", "ms"]
    assert rows["times sparse's step"] == ["1.00", "x", "10.00", "x", "5.00", "x"]
    assert rows["risen with the model"] == ["1.50", "MB"] * 3
    assert rows["parameters"] == ["1.00", "kB", "10.0", "kB", "5.00", "kB"]


def test_a_run_that_diverged_is_still_reported(tmp_path: Path) -> None:
    diverged = comparison(last=math.nan)
    assert "nan" in report.table(diverged)
    files.write(tmp_path / "r.json", lambda file: report.write_json(diverged, {}, file))
    got = json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert got["contestants"]["sparse"]["step_loss"] == [4.0, 3.0, 2.0, None]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1440, "1.44 kB"), (71_800_000, "71.8 MB"), (512e6, "512 MB"), (5e12, "5000 GB")],
)
def test_sizes_are_read_easily(number: float, text: str) -> None:
    assert text_table.size(number) == text
