"""``sparsetrain compare --rule``: sparse and masked change their edges alike, and what is told of it is right."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_comparison import BATCH, EPOCHS, STEPS, run, setting, write_images

from sparsetrain import data, evolve
from sparsetrain.cli import over_time, report
from sparsetrain.cli.comparison import Comparison, Record
from sparsetrain.cli.evolution import Evolution, Update
from sparsetrain.cli.implementation import Bytes, Evaluation, Implementation, Steps
from sparsetrain.cli.network import FORMS, KINDS, Kind
from sparsetrain.cli.rule_options import RULE_NAMES, evolution_of
from sparsetrain.cli.setting import Setting
from sparsetrain.nn import SparseLinear

INTERVAL, STOP = 2, 6
POSITIONS = 784 * 8 + 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def images(folder: Path) -> data.DataSet:
    return data.load(folder)


def changing(rule: str, **changes: Any) -> Setting:
    part = None if rule == "gmp" else 0.3
    return setting(evolution=Evolution(rule, INTERVAL, STOP, part), **changes)


def trained(kind: Kind, how: Setting, images: data.DataSet, form: Any = "forward") -> tuple[Implementation, Steps]:
    implementation = Implementation(kind, form, how, images)
    implementation.warm_up()
    return implementation, implementation.train(STEPS)


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", RULE_NAMES[1:])
def test_masked_changes_its_mask_as_sparse_does_its_edges(rule: str, form: str, images: data.DataSet) -> None:
    how = changing(rule, density=0.2)
    sparse, steps = trained("sparse", how, images)
    masked, twin = trained("masked", how, images, form)
    np.testing.assert_allclose(steps.loss, twin.loss, atol=1e-10, rtol=0)
    for ours, theirs in zip(sparse.edges(), masked.edges(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [(u.step, u.edges, u.explored, u.churn) for u in steps.updates] == [
        (u.step, u.edges, u.explored, u.churn) for u in twin.updates
    ]
    assert [u.step for u in steps.updates] == [2, 4, 6]


@pytest.mark.parametrize("rule", RULE_NAMES[1:])
def test_edges_really_change(rule: str, images: data.DataSet) -> None:
    how = changing(rule, density=0.2)
    start = Implementation("sparse", "step", how, images).edges()
    implementation, steps = trained("sparse", how, images)
    end = implementation.edges()
    common = sum(len(np.intersect1d(a, b)) for a, b in zip(start, end, strict=True))
    if rule == "gmp":
        assert sum(map(len, start)) == POSITIONS
        assert sum(map(len, end)) == common == round(0.2 * 784 * 8) + 16
        assert [u.edges for u in steps.updates] == sorted((u.edges for u in steps.updates), reverse=True)
        assert steps.updates[-1].explored == 1
    else:
        assert sum(map(len, end)) == sum(map(len, start)) == round(0.2 * 784 * 8) + 16
        assert common < 0.9 * sum(map(len, start))
        assert steps.updates[-1].explored > 0.2
        assert steps.updates[0].churn > 0.2


def test_the_first_update_is_that_of_an_evolver_made_by_hand(images: data.DataSet) -> None:
    how = changing("rigl")
    implementation = Implementation("sparse", "step", how, images)
    steps = implementation.train(INTERVAL)
    twin = Implementation("sparse", "step", setting(), images)
    twin.train(0)
    schedule = evolve.Cosine(interval=2, start=2, stop=6, prune_fraction=0.3)
    assert twin.optimizer is not None
    twin.evolver = evolve.Evolver(twin.model, twin.optimizer, evolve.RigL(), schedule)
    assert twin.train(INTERVAL).loss == steps.loss
    for ours, theirs in zip(implementation.edges(), twin.edges(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_dense_and_static_never_change(images: data.DataSet) -> None:
    implementation, steps = trained("dense", changing("set"), images)
    assert implementation.evolver is None
    assert not steps.updates
    static, steps = trained("sparse", setting(), images)
    assert static.evolver is None
    assert not steps.updates


def test_positions_are_row_times_columns_plus_column(images: data.DataSet) -> None:
    implementation = Implementation("sparse", "step", setting(density=0.1), images)
    layer = implementation.model[0]
    assert isinstance(layer, SparseLinear)
    expected = layer.to_dense().weight.detach().flatten().nonzero().flatten().numpy()
    np.testing.assert_array_equal(implementation.edges()[0], expected)


# ---- the whole command ----------------------------------------------------------------------------------------------


def test_a_whole_comparison(folder: Path, tmp_path: Path) -> None:
    sizes = ("--hidden", "8", "--density", "0.5", "--epochs", EPOCHS, "--batch", BATCH, "--rule", "rigl")
    other = ("--interval", INTERVAL, "--lr", "0.01", "--seed", "3", "--dtype", "float64", "--threads", "1")
    files = ("--json", tmp_path / "r.json", "--plot", tmp_path / "r.png")
    result = run("compare", "--data", folder, *sizes, *other, *files)
    assert result.exit_code == 0, result.output
    figures = json.loads((tmp_path / "r.json").read_text())
    sparse, masked, dense = (figures["contestants"][kind] for kind in KINDS)
    assert figures["setting"]["evolution"] == {"rule": "rigl", "interval": 2, "stop": 6, "prune_fraction": 0.3}
    assert figures["shared_edges"] == 1
    np.testing.assert_allclose(sparse["step_loss"], masked["step_loss"], atol=1e-10, rtol=0)
    assert sparse["updates"]["step"] == masked["updates"]["step"] == [2, 4, 6]
    assert sparse["updates"]["explored"] == masked["updates"]["explored"]
    assert dense["updates"]["step"] == []
    assert 0 < sparse["update_share_of_time"] < 1
    assert sparse["epoch_s"][0] < sparse["epoch_s"][1]
    for words in (
        "edges change by rigl every 2 steps until step 6",
        "one update of edges",
        "explored (R_s)",
        "100.00 %",
    ):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-2])) <= 100
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# ---- what is told ---------------------------------------------------------------------------------------------------


def record(updates: list[Update]) -> Record:
    steps = Steps([1.0] * 4, [0.25] * 4, [0.25] * 4, [0.25] * 4, [0.0, 0.25, 0.25, 0.5], updates)
    kept = Bytes(before=0, peak=1, parameters=100, state=100, indices=10)
    return Record(0.5, kept, steps, [Evaluation(0.5, 90.0), Evaluation(0.25, 95.0)])


def compared() -> Comparison:
    updates = [
        Update(2, 100, 0.5, 0.5, 0.25, 0.25), Update(3, 80, 0.4, 0.6, 0.5, 0.25), Update(4, 60, 0.3, 0.7, 0.25, 0.5),
    ]  # fmt: skip
    records: dict[Kind, Record] = {"sparse": record(updates), "masked": record(updates), "dense": record([])}
    return Comparison(changing("set", sizes=(20, 10)), 1.5, {"forward": 0.03, "step": 0.02}, "step", records, 0.75)


def test_figures_over_time_by_hand() -> None:
    got = over_time.figures(compared().records["sparse"])
    assert got["epoch_s"] == [1.75, 4.0]
    assert got["epoch_step_ms"] == [875.0, 1125.0]
    assert got["update_share_of_time"] == 0.25
    assert got["updates"] == {
        "step": [2, 3, 4], "edges": [100, 80, 60], "density": [0.5, 0.4, 0.3], "explored": [0.5, 0.6, 0.7],
        "churn": [0.25, 0.5, 0.25], "s": [0.25, 0.25, 0.5],
    }  # fmt: skip


def test_tables_over_time_by_hand() -> None:
    comparison = compared()
    text = [line.split() for line in report.table(comparison).splitlines()]
    assert ["1", *["90.00", "%,", "1.75", "s"] * 3] in text
    assert ["2", *["95.00", "%,", "4.00", "s"] * 3] in text
    assert ["1", "100", "0.5", "50.0", "%", "1", "25.0", "%"] in text
    assert ["2", "60", "0.3", "70.0", "%", "2", "37.5", "%"] in text
    assert ["one", "update", "of", "edges", "250.00", "ms", "250.00", "ms", "-"] in text
    assert ["share", "of", "all", "time", "25.0", "%", "25.0", "%", "-"] in text
    assert "Edges are sparse's. At the end masked has 75.00 % of them." in report.table(comparison)


def test_an_epoch_before_the_first_update_has_the_edges_of_the_start() -> None:
    comparison = compared()
    comparison.records["sparse"].steps.updates[:] = [Update(4, 60, 0.3, 0.7, 0.25, 0.5)]
    rows = over_time.edge_rows(comparison)
    assert rows[2] == ["1", "100", "0.5", "50.0 %", "0", "-"]


def test_the_plot_has_a_panel_of_edges() -> None:
    from sparsetrain.cli.plot import draw

    file = io.BytesIO()
    draw(compared(), file, ".svg")
    assert b"Edges of sparse" in file.getvalue()
    assert b"Test accuracy over time" in file.getvalue()


# ---- options --------------------------------------------------------------------------------------------------------


def test_defaults_follow_the_length_of_the_training() -> None:
    assert evolution_of("static", 0.1, None, None, 400) is None
    assert evolution_of("set", 0.1, None, None, 4000) == Evolution("set", 100, 3000, 0.3)
    assert evolution_of("rigl", 0.1, None, 0.5, 400) == Evolution("rigl", 15, 300, 0.5)
    assert evolution_of("gmp", 0.1, 5, None, 8) == Evolution("gmp", 5, 6, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rule", "best"), "'--rule': 'best' is not one of"),
        (("--rule", "gmp", "--density", "1"), "'--density': expected a number below 1 beside --rule gmp, which prunes"),
        (("--rule", "set", "--density", "1"), "'--density': expected a number below 1 beside --rule set: no position"),
        (("--rule", "rigl", "--density", "0"), "'--density': expected a number above 0 beside --rule rigl"),
        (("--rule", "set", "--interval", "0"), "'--interval'"),
        (("--rule", "set", "--interval", "6"), "'--interval': expected at most 5, as edges change in the first three"),
        (("--rule", "set", "--epochs", "1", "--batch", "70"), "'--rule': expected at least 3 training steps"),
        (
            ("--rule", "set", "--prune-fraction", "1.5"),
            "'--prune-fraction': expected a fraction from 0 to 1, got '1.5'",
        ),
        (
            ("--rule", "set", "--prune-fraction", "nan"),
            "'--prune-fraction': expected a fraction from 0 to 1, got 'nan'",
        ),
        (("--rule", "set", "--prune-fraction", "a"), "'--prune-fraction': expected a fraction to be a number from 0"),
        (("--rule", "gmp", "--prune-fraction", "0.2"), "'--prune-fraction': expected --rule set or rigl beside it"),
        (("--interval", "5"), "'--interval': expected --rule set, rigl or gmp beside it, got --rule static"),
        (("--prune-fraction", "0.2"), "'--prune-fraction': expected --rule set or rigl beside it, got --rule static"),
    ],
)
def test_wrong_use_is_named(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    result = run("compare", "--data", folder, "--epochs", EPOCHS, "--batch", BATCH, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_layer_of_few_edges_is_named_in_a_warning(images: data.DataSet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="for 8 neurons"):
            Implementation("sparse", "step", changing("gmp", density=0.001), images).train(1)


def test_the_same_seed_gives_the_same_edges(images: data.DataSet) -> None:
    torch.manual_seed(1)
    first, _ = trained("sparse", changing("set"), images)
    torch.manual_seed(2)
    second, _ = trained("sparse", changing("set"), images)
    assert all(np.array_equal(a, b) for a, b in zip(first.edges(), second.edges(), strict=True))
