"""Whoever changes a public name or how it is called sees it in a file of the change."""

import difflib

import pytest

for package in ("transformers", "pytorch_lightning"):
    pytest.importorskip(package)

from public_api import FILE, api  # noqa: E402


def test_it_is_what_the_file_says() -> None:
    written, now = FILE.read_text(), api()
    changes = "\n".join(difflib.unified_diff(written.splitlines(), now.splitlines(), "before", "now", lineterm="", n=0))
    assert written == now, f"the public API changed; if it should, say so in CHANGELOG.md and run make api\n{changes}"


def test_it_sees_functions_classes_methods_and_options() -> None:
    lines = api().splitlines()
    assert len(set(lines)) == len(lines) > 300
    for start in (
        "sparsetrain.summary(",
        "sparsetrain.Topology.from_mask(mask)",
        "sparsetrain.nn.SparseLinear(",
        "sparsetrain compare --density 0.1",
    ):
        assert any(line.startswith(start) for line in lines), start
    assert not [line for line in lines if " at 0x" in line], "defaults that no text says"
