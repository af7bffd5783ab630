"""The command line: one real comparison through its processes, and what is said when something is wrong."""

import json
import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import Result
from tiny_comparison import BATCH, EPOCHS, STEPS, TRAIN, run, setting, write_images

from sparsetrain import data
from sparsetrain.cli import main
from sparsetrain.cli.comparison import Comparison
from sparsetrain.cli.implementation import Implementation
from sparsetrain.cli.network import FORMS, KINDS, network
from sparsetrain.cli.process import ProcessError
from sparsetrain.cli.race import Race
from sparsetrain.cli.setting import OPTIMIZERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def images(folder: Path) -> data.DataSet:
    return data.load(folder)


@pytest.fixture(scope="module")
def compared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """A whole comparison: the result of the command, and the folder of what it wrote."""
    out = tmp_path_factory.mktemp("out")
    sizes = ("--hidden", "8", "--density", "0.5", "--epochs", EPOCHS, "--batch", BATCH)
    other = ("--lr", "0.01", "--seed", "3", "--dtype", "float64", "--threads", "1")
    result = run("compare", "--data", folder, *sizes, *other, "--json", out / "r.json", "--plot", out / "r.png")
    assert result.exit_code == 0, result.output
    return result, out


@pytest.fixture(scope="module")
def figures(compared: tuple[Result, Path]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((compared[1] / "r.json").read_text())
    return result


# ---- a whole comparison ---------------------------------------------------------------------------------------------


def test_sparse_and_masked_train_alike(figures: dict[str, Any]) -> None:
    sparse, masked, dense = (figures["contestants"][kind] for kind in KINDS)
    np.testing.assert_allclose(sparse["step_loss"], masked["step_loss"], atol=1e-10, rtol=0)
    assert len(sparse["step_loss"]) == STEPS
    assert sparse["test_accuracy"] == masked["test_accuracy"]
    assert max(abs(np.subtract(sparse["step_loss"], dense["step_loss"]))) > 1e-3
    assert sparse["train_loss"][-1] < sparse["train_loss"][0]
    assert sparse["train_loss"][0] == pytest.approx(np.mean(sparse["step_loss"][: STEPS // EPOCHS]), abs=1e-15)
    assert figures["first_epoch_loss_difference"] < 1e-10


def test_a_process_is_the_same_training_as_here(figures: dict[str, Any], images: data.DataSet) -> None:
    here = Implementation("sparse", "step", setting(), images)
    here.warm_up()
    assert here.train(STEPS).loss == figures["contestants"]["sparse"]["step_loss"]
    assert here.evaluate().accuracy == figures["contestants"]["sparse"]["test_accuracy"][-1]


def test_bytes_are_those_of_the_arrays(figures: dict[str, Any]) -> None:
    sparse, masked, dense = (figures["contestants"][kind]["bytes"] for kind in KINDS)
    edges, weights, biases = 784 * 8 // 2 + 8 * 10 // 2, 784 * 8 + 8 * 10, 8 + 10
    assert sparse["parameters"] == 8 * (edges + biases)
    assert masked["parameters"] == dense["parameters"] == 8 * (weights + biases)
    counters = 4 * 4  # Adam counts the steps of each of the four parameters in a float32
    assert sparse["state"] == 2 * sparse["parameters"] + counters
    assert masked["state"] == 2 * masked["parameters"] + counters
    # crow and col of both layers; col_t and perm of the second alone, as nobody asks for the gradient of images
    assert sparse["indices"] >= 4 * (8 + 1 + 784 * 8 // 2) + 4 * (10 + 1) + 3 * 4 * (8 * 10 // 2)
    assert masked["indices"] >= weights
    assert dense["indices"] == 0
    kept = 3 * 8 * (edges + biases) + counters, 3 * 8 * (weights + biases) + counters
    assert figures["kept_bytes_sparse_over_masked"] == pytest.approx(kept[0] / kept[1])
    for own in (sparse, masked, dense):
        assert 50e6 < own["before"] <= own["peak"]


def test_times_and_surroundings_are_all_there(figures: dict[str, Any]) -> None:
    for kind in KINDS:
        own = figures["contestants"][kind]
        for phase in ("forward", "backward", "optimizer", "total"):
            assert 0 < own["step_ms"][phase]["q1"] <= own["step_ms"][phase]["median"] <= own["step_ms"][phase]["q3"]
        assert own["warm_up_s"] > 0
        assert len(own["test_loss"]) == len(own["test_accuracy"]) == len(own["train_loss"]) == EPOCHS
    assert figures["contestants"]["sparse"]["step_over_sparse"] == 1
    trial = figures["masked_form"]["trial_ms"]
    assert trial[figures["masked_form"]["used"]] == min(trial.values())
    assert figures["setting"]["sizes"] == [784, 8, 10]
    assert {"python", "torch", "numba", "sparsetrain"} <= figures["environment"]["versions"].keys()
    assert {"cpu", "date", "load_average"} <= figures["environment"].keys()


def test_the_table_fits_a_terminal_and_the_plot_is_a_picture(compared: tuple[Result, Path]) -> None:
    result, out = compared
    assert max(map(len, report_lines(result.stdout))) <= 100
    for word in (
        *KINDS,
        "test accuracy",
        "backward",
        "peak memory",
        "optimizer state",
        "784-8-10",
        "70 training images",
        "Masked ran with",
    ):
        assert word in result.stdout
    assert "Loading the kernels" in result.stderr
    assert f"epoch {EPOCHS}/{EPOCHS}" in result.stderr  # progress, without a terminal as well
    assert "Loading the kernels" not in result.stdout
    assert (out / "r.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in out.iterdir()) == ["r.json", "r.png"]


def report_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("Wrote ")]


# ---- an implementation ----------------------------------------------------------------------------------------------


def test_warming_up_changes_nothing_that_is_trained(images: data.DataSet) -> None:
    implementation, twin = (Implementation("masked", "forward", setting(), images) for _ in range(2))
    torch.manual_seed(5)
    random = torch.get_rng_state()
    implementation.warm_up()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in implementation.model.parameters())
    assert implementation.optimizer is None
    assert implementation.train(5).loss == twin.train(5).loss


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_both_forms_of_masked_train_as_sparse_does(optimizer: str, images: data.DataSet) -> None:
    how = setting(optimizer=optimizer, lr=0.001)
    losses = [Implementation(kind, form, how, images).train(8).loss for kind in KINDS[:2] for form in FORMS]
    for other in losses[1:]:
        np.testing.assert_allclose(losses[0], other, atol=1e-10, rtol=0)


def test_every_image_comes_once_in_an_epoch(images: data.DataSet) -> None:
    implementation = Implementation("dense", "step", setting(batch=14), images)
    epochs = [torch.cat([implementation._next_batch() for _ in range(TRAIN // 14)]) for _ in range(2)]
    assert [epoch.sort().values.tolist() for epoch in epochs] == [list(range(TRAIN))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize(("density", "edges"), [(0.0, 0), (1.0, 784 * 8 + 80)])
def test_the_ends_of_density_work(density: float, edges: int, images: data.DataSet) -> None:
    implementation = Implementation("sparse", "step", setting(density=density), images)
    implementation.warm_up()
    assert math.isfinite(implementation.train(3).loss[-1])
    assert implementation.measure().parameters == 8 * (edges + 18)


def test_no_hidden_layer_is_one_linear_layer() -> None:
    for kind in KINDS:
        assert len(network(kind, "step", setting(sizes=(784, 10)))) == 1


def test_a_whole_evaluation_counts_every_image(images: data.DataSet) -> None:
    implementation = Implementation("dense", "step", setting(batch=7), images)
    answer = implementation.model(images.test_images.double())
    expected = torch.nn.functional.cross_entropy(answer, images.test_labels).item()
    accuracy = 100 * (answer.argmax(1) == images.test_labels).double().mean().item()
    got = implementation.evaluate()
    assert (got.loss, got.accuracy) == (pytest.approx(expected, abs=1e-12), pytest.approx(accuracy, abs=1e-12))


# ---- processes ------------------------------------------------------------------------------------------------------


class Subject:
    """What the tests below put into a process of its own."""

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def fail(self) -> None:
        raise ValueError("no such thing")

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_contestants_take_turns_and_report_their_errors_and_their_death() -> None:
    before = dict(os.environ)
    with Race[str](3, random.Random(0)) as race:
        for name in ("masked", "dense"):
            race.enter(name, Subject)
        masked, dense = race.contestants.values()
        masked.ready()
        dense.ready()
        assert os.environ == before
        assert {masked.call("environment", name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")} == {"3"}
        rounds = [list(race.round()) for _ in range(20)]
        assert {tuple(name for name, _ in each) for each in rounds} == {("masked", "dense"), ("dense", "masked")}
        assert [name for name, _ in race.round(["dense"])] == ["dense"]
        with pytest.raises(ProcessError, match=r"masked: ValueError: no such thing \(.*test_cli.py, line \d+\)"):
            masked.call("fail")
        with pytest.raises(ProcessError, match="dense: its process died, killed by SIGKILL, mostly for want of memory"):
            dense.call("die")
        race.leave("dense")
        assert [name for name, _ in race.round()] == ["masked"]
    assert not masked._process.is_alive()
    assert not race.contestants


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--density", "1.5"), "'--density': expected density from 0 to 1"),
        (("--density", "nan"), "'--density': expected density from 0 to 1"),
        (("--density", "much"), "'--density': expected density to be a number from 0 to 1, got 'much'"),
        (("--hidden", "10,0"), "'--hidden': expected whole numbers above 0"),
        (("--hidden", "10;20"), "'--hidden': expected whole numbers above 0"),
        (("--epochs", "0"), "'--epochs'"),
        (("--batch", "-1"), "'--batch'"),
        (("--lr", "nan"), "'--lr': expected a finite number above 0"),
        (("--lr", "0"), "'--lr': expected a finite number above 0"),
        (("--threads", "0"), "'--threads'"),
        (("--threads", "4096"), "'--threads': expected 1 to "),
        (("--threads", "two"), "as many as this process may run on, got 'two'"),
        (("--seed", "-1"), "'--seed'"),
        (("--optimizer", "lion"), "'--optimizer'"),
        (("--dtype", "float16"), "'--dtype'"),
        (("--precision", "low"), "'--precision'"),
        (("--plot", "picture.gif"), "'--plot': expected a name that ends in .png or .svg or .pdf"),
        (("--plot", "/nowhere/at/all.png"), "'--plot': the folder /nowhere/at does not exist"),
        (("--json", "/nowhere/at/all.json"), "'--json': the folder /nowhere/at does not exist"),
        (("--json", "/dev/null"), "'--json': /dev/null is not a regular file"),
        (("--sparsity", "0.9"), "No such option"),
    ],
)
def test_wrong_use_is_named_and_ends_with_2(arguments: tuple[str, ...], message: str) -> None:
    result = run("compare", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_batch_larger_than_the_data_is_wrong_use(folder: Path) -> None:
    result = run("compare", "--data", folder, "--batch", "71")
    assert result.exit_code == 2
    assert "'--batch': expected at most 70, the number of training images, got 71" in result.stderr


def test_missing_and_damaged_data_end_with_1(tmp_path: Path) -> None:
    result = run("compare", "--data", "cifar")
    assert result.exit_code == 1
    assert "expected 'mnist', 'fashion' or a folder, got 'cifar'" in result.stderr
    assert "Traceback" not in result.output
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"junk")
    result = run("compare", "--data", tmp_path)
    assert result.exit_code == 1
    assert "expected a whole gzip file" in result.stderr


def test_a_missing_library_ends_with_1_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("compare", "--plot", "p.png")
    assert result.exit_code == 1
    assert "This needs matplotlib. Run: pip install matplotlib\n" in result.stderr


def test_a_failed_process_ends_with_1(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    def fail(*_: object) -> Comparison:
        raise ProcessError("dense: its process died, exit code 7.")

    monkeypatch.setattr("sparsetrain.cli.compare.run", fail)
    result = run("compare", "--data", folder, "--batch", BATCH, "--json", tmp_path / "r.json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: dense: its process died, exit code 7." in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def interrupt(*_: object) -> Comparison:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsetrain.cli.compare.run", interrupt)
    result = run("compare", "--data", folder, "--batch", BATCH)
    assert result.exit_code == 130
    assert "Interrupted." in result.stderr


# ---- the other commands ---------------------------------------------------------------------------------------------


def test_info_says_what_is_used() -> None:
    result = run("info")
    assert result.exit_code == 0
    for word in ("torch", "numba", "CPU", "vector width", "backend on cpu", "threads", "kernel cache"):
        assert word in result.stdout
    facts = json.loads(run("info", "--json").stdout)
    assert facts["backends"] == {"cpu": "numba", "cuda": "torch"}
    assert facts["cpu"]["vector_bytes"] in (16, 32, 64)
    assert facts["threads"]["numba_layer"] in ("omp", "tbb", "workqueue")
    assert Path(facts["kernel_cache"]["folder"]).is_absolute()


def test_info_says_what_computes_a_layer() -> None:
    said = run("info", "--layer", "512x512x64", "--density", "0.05").stdout
    assert said.split() == [
        *("forward", "numba", "backward", "numba", "because"),
        *[
            "at",
            "density",
            "0.05",
            "and",
            "a",
            "batch",
            "of",
            "64,",
            "kernels",
            "over",
            "the",
            "edges",
            "take",
            "less",
            "time",
            "than",
            "blocks",
        ],
    ]
    facts = json.loads(run("info", "--layer", "64x64x64", "--density", "1", "--dtype", "bfloat16", "--json").stdout)
    assert facts["backend"] == facts["gradients"] == "blocks"
    for wrong in (
        ("--layer", "64x64"),
        ("--layer", "4x4x4", "--device", "abacus"),
        ("--layer", "4x4x4", "--density", "2"),
    ):
        assert run("info", *wrong).exit_code == 2


def test_version_and_help() -> None:
    assert run("--version").output.startswith("sparsetrain, version ")
    assert "compare" in run("--help").output
    text = run("compare", "--help").output
    assert isinstance(main, click.Group)
    shape, training = ("density", "hidden", "dtype"), ("epochs", "batch", "optimizer", "lr", "data", "seed")
    for name in (*shape, *training, "threads", "precision"):
        assert f"--{name} " in text
