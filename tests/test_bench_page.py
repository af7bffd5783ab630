"""The page of measurements says what the committed records say."""

from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")

from sparsetrain_bench.report import build, markdown, read

ROOT = Path(__file__).parent.parent
RECORDS = sorted((ROOT / "bench" / "results").glob("*/*.json"))


def test_the_page_is_made_of_the_committed_records() -> None:
    assert RECORDS
    page = (ROOT / "docs" / "bench.md").read_text()
    assert page == markdown(build(read(RECORDS))), "make it anew: sparsetrain bench --from ... --markdown docs/bench.md"
