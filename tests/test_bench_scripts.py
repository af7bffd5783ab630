"""The scripts of bench/ that stand alone still run, in small."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parent.parent / "bench"


def script(name: str) -> Any:
    pytest.importorskip("sparsetrain_bench", reason="needs bench/")
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_scripts_is_whole() -> None:
    named = set(re.findall(r"`(\w+\.py)`", (BENCH / "README.md").read_text()))
    assert named == {path.name for path in BENCH.glob("*.py")}


def test_a_large_network_changes_its_edges() -> None:
    record = script("evolving_edges").scale({"threads": torch.get_num_threads(), "samples": None, "width": 150})
    assert record["edges"] > 15_000
    assert record["update"] > 0


def test_what_products_cost_each_way() -> None:
    before = torch.get_num_threads()
    said = script("ways").measured(40, 30, 8, 0.5, rounds=1)
    torch.set_num_threads(before)
    assert [part.split()[:2] for part in said.split(", ")] == [[k, w] for k in "fb" for w in ("kernels", "blocks")]


def test_a_table_on_ranks_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(ranks=1, rows=[50], dim=3, ids=8, rounds=2)
    before = torch.get_num_threads()
    script("sharded_table").measure(0, options, str(tmp_path))
    torch.set_num_threads(before)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["ShardedLookupTable", "DDP(LookupTable)", "DDP(nn.Embedding,"]


def test_what_attention_costs() -> None:
    assert re.fullmatch(
        r"sparse [\d.]+ of dense, one product [\d.]+ of three",
        script("attention_projections").measured(16, 2, 2, 3, 0.5, 1),
    )


def test_networks_of_images_train(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("evolving_edges")
    generator = torch.Generator().manual_seed(0)
    images = tuple(
        torch.rand(n, 784, generator=generator) if k else torch.randint(10, (n,))
        for n, k in ((256, 1), (256, 0), (128, 1), (128, 0))  # whole batches: each other size is compiled anew
    )
    monkeypatch.setattr(bench, "subset", lambda *_: images)
    monkeypatch.setattr(bench.data, "load", lambda _: None)
    monkeypatch.setattr(bench, "forget_peak", lambda: 0)
    common = {"threads": torch.get_num_threads(), "samples": None, "width": 30, "seed": 0, "epochs": 2}
    for kind in ("set", "static", "dense"):
        record = bench.published(common | {"kind": kind})
        assert 0 <= record["last"] <= record["best"] <= 100
    for kind in ("set", "rigl masked", "gmp", "dense"):
        record = bench.fashion(common | {"kind": kind, "density": 0.2})
        assert len(record["epochs"]) == 2
    torch.set_float32_matmul_precision("highest")
    bench.table([record])


def test_parts_of_an_update_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bench = script("evolve_speed")
    monkeypatch.setattr(bench, "forget_peak", lambda: 0)
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda _: None)  # peers take seconds
    threads = str(torch.get_num_threads())
    monkeypatch.setattr(
        sys, "argv", ["evolve_speed", "--size", "64", "--rounds", "2", "--density", "0.1", "--threads", threads]
    )
    bench.main()
    torch.set_float32_matmul_precision("highest")
    printed = capsys.readouterr().out
    assert "RigL update and next step" in printed
    assert "SET update: peak rises by" in printed


def test_a_weight_sparse_transformer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gensim", reason="needs the extra demo")
    bench = script("weight_sparse_transformer")
    sizes = "--features 64 --head 8 --layers 1 --sentences 2 --tokens 8 --density 0.1 --rounds 2 --seeds 1 --steps 16"
    monkeypatch.setattr(sys, "argv", ["weight_sparse_transformer", *sizes.split(), "--threads", "1"])
    before = torch.get_num_threads()
    bench.main()
    torch.set_num_threads(before)
    printed = capsys.readouterr().out
    assert "1 layers of 64, 0.1 million weights at 0.1" in printed
    assert "sparse: test " in printed
