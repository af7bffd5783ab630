"""EvolverCallback under Lightning: the same training as in a loop of one's own, from checkpoints too."""

import copy
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsetrain as st

lightning = pytest.importorskip("pytorch_lightning", reason="needs the extra test")

from sparsetrain.trainers.lightning import EvolverCallback  # noqa: E402

X, Y = torch.randn(40, 12, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 3
BATCH = 4
SCHEDULE = st.evolve.Constant(interval=3, prune_fraction=0.3)


@pytest.fixture(autouse=True)
def _warnings_of_theirs() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        st.nn.SparseLinear(12, 20, density=0.3), nn.ReLU(), st.nn.SparseLinear(20, 10, density=0.4), nn.Linear(10, 3)
    )


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Any, _: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("loss", functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return st.optim.Adam(self.parameters(), lr=0.05)


class Notes(lightning.loggers.Logger):  # type: ignore[misc, name-defined]
    """A logger that keeps what it gets."""

    name, version = "notes", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "evolve/edges" in metrics:
            self.lines.append((int(step or 0), metrics))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def batches() -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=BATCH)


def trainer(folder: Path, callback: Any, **options: Any) -> Any:
    usual = {
        "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False,
        "enable_progress_bar": False, "default_root_dir": folder,
    }  # fmt: skip
    return lightning.Trainer(callbacks=[callback], **{**usual, **options})


def by_hand(net: nn.Module, rule: Any, schedule: Any, epochs: int, accumulate: int = 1) -> Any:
    """The loop that Lightning makes, with evolver.step() in it."""
    optimizer = st.optim.Adam(net.parameters(), lr=0.05)
    evolver = st.evolve.Evolver(net, optimizer, rule, schedule, generator=seeded())
    for _ in range(epochs):
        places = range(0, len(X), BATCH)
        for k, start in enumerate(places):
            loss = functional.cross_entropy(net(X[start : start + BATCH]), Y[start : start + BATCH]) / accumulate
            loss.backward()
            if (k + 1) % accumulate == 0 or k + 1 == len(places):
                optimizer.step()
                evolver.step()
                optimizer.zero_grad()
    return evolver


def assert_same(one: nn.Module, other: nn.Module) -> None:
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    for key, tensor in states[0].items():
        assert torch.equal(tensor, states[1][key]), key


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("rule", [st.evolve.SET(), st.evolve.RigL(batches=2), st.evolve.TopKAST()], ids=repr)
def test_it_trains_as_a_loop_of_ones_own(tmp_path: Path, rule: Any, accumulate: int) -> None:
    net = network(0)
    twin, first = copy.deepcopy(net), net[0].topology.digest
    evolver = by_hand(twin, copy.deepcopy(rule), SCHEDULE, 2, accumulate)
    callback = EvolverCallback(rule, SCHEDULE, generator=seeded())
    fitted = trainer(tmp_path, callback, max_epochs=2, accumulate_grad_batches=accumulate)
    fitted.fit(Module(net), batches())
    assert callback.evolver is not None
    assert callback.evolver.steps == evolver.steps == fitted.global_step
    assert_same(net, twin)
    assert net[0].topology.digest != first


@pytest.mark.parametrize(
    ("rule", "schedule"),
    [
        (st.evolve.RigL(batches=3), st.evolve.Constant(interval=4, prune_fraction=0.3)),  # it notes steps 10 to 12
        (st.evolve.TopKAST(), SCHEDULE),
        (st.evolve.GMP(), st.evolve.Linear(interval=2, stop=16, final_density=0.1)),
    ],
    ids=repr,
)
def test_a_training_that_was_interrupted_goes_on(tmp_path: Path, rule: Any, schedule: Any) -> None:
    """From a model of other edges, in the middle of what a rule notes, to the same bits."""

    def fitted(net: nn.Module, epochs: int, checkpoint: Path | None = None) -> tuple[Any, Any]:
        callback = EvolverCallback(rule, schedule, generator=seeded())
        one = trainer(tmp_path, callback, max_epochs=epochs)
        one.fit(Module(net), batches(), ckpt_path=checkpoint)
        return one, callback

    whole, half, resumed = network(0), network(0), network(3)
    fitted(whole, 2)
    one, _ = fitted(half, 1)
    one.save_checkpoint(tmp_path / "half.ckpt")
    before = resumed[0].topology.digest
    _, callback = fitted(resumed, 2, tmp_path / "half.ckpt")
    assert callback.evolver.steps == 20
    assert resumed[0].topology.digest not in (before, half[0].topology.digest)
    assert_same(resumed, whole)

    other, callback = network(4), EvolverCallback(rule, schedule)
    one = trainer(tmp_path, callback, max_epochs=1)
    one.validate(Module(other), batches(), ckpt_path=tmp_path / "half.ckpt", verbose=False)
    assert_same(other, half)
    one.fit(Module(network(6)), batches())  # of another model, from the beginning
    assert callback.evolver.steps == 10


def test_changes_are_logged_and_handed_on(tmp_path: Path) -> None:
    net, notes, seen = network(0), Notes(), []
    average = Module(copy.deepcopy(net))

    def follow(change: Any) -> None:
        seen.append(change.step)
        change.follow(average)

    callback = EvolverCallback(st.evolve.SET(), SCHEDULE, layers={"net.0": 1.0}, on_change=follow)
    trainer(tmp_path, callback, max_steps=7, logger=notes).fit(Module(net), batches())
    assert [step for step, _ in notes.lines] == seen == [3, 6]
    _, last = notes.lines[-1]
    assert last["evolve/edges"] == net[0].topology.nnz
    assert last["evolve/density"] == pytest.approx(net[0].topology.density)
    assert last["evolve/grown"] > 0
    assert average.net[0].topology.digest == net[0].topology.digest


def test_the_summary_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer(tmp_path, EvolverCallback(st.evolve.SET(), SCHEDULE), max_steps=1).fit(Module(network(0)), batches())
    assert "SparseLinear   20 x 12" in caplog.text


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    model = Module(network(0))
    callback = EvolverCallback(st.evolve.SET(), SCHEDULE)
    fitted = trainer(tmp_path, callback, max_steps=4)
    fitted.fit(model, batches())
    assert callback.evolver is not None
    fitted.optimizers[0].step()
    assert callback.evolver.steps == 4
    with pytest.raises(RuntimeError, match="other edges"):
        model.load_state_dict(Module(network(1)).state_dict())


def test_a_fit_after_an_error_counts_each_step_once(tmp_path: Path) -> None:
    model = Module(network(0))
    callback = EvolverCallback(st.evolve.SET(), SCHEDULE)
    step, model.training_step = model.training_step, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callback, max_steps=4).fit(model, batches())
    model.training_step = step
    trainer(tmp_path, callback, max_steps=4).fit(model, batches())
    assert callback.evolver is not None
    assert callback.evolver.steps == 4


@pytest.mark.parametrize("rule", [st.evolve.SET(), st.evolve.TopKAST()], ids=repr)
def test_a_second_fit_goes_on(tmp_path: Path, rule: Any) -> None:
    model, callback = Module(network(0)), EvolverCallback(rule, SCHEDULE)
    for _ in range(2):
        trainer(tmp_path, callback, max_steps=4).fit(model, batches())
    assert callback.evolver is not None
    assert callback.evolver.steps == 8


def test_what_is_no_rule_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"EvolverCallback: expected rule to be a Rule, got .*Pass rule=SET\(...\)"):
        EvolverCallback(st.evolve.SET, SCHEDULE)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="layer"):
        EvolverCallback(st.evolve.SET(), SCHEDULE, layer="net.0")  # type: ignore[call-arg]


@pytest.mark.parametrize(("name", "package"), [("lightning", "pytorch-lightning"), ("transformers", "transformers")])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    for missing in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, missing, None)
    for ours in [module for module in sys.modules if module.startswith("sparsetrain.trainers.")]:
        monkeypatch.delitem(sys.modules, ours)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install {package}$"):
        importlib.import_module(f"sparsetrain.trainers.{name}")


class Two(Module):
    """A table and the rest, with an optimizer each, by hand."""

    def __init__(self, split: bool = False) -> None:
        super().__init__(network(0))
        self.automatic_optimization = False
        self.table = st.nn.LookupTable(3, 12)
        self.split = split

    def training_step(self, batch: Any, _: int) -> None:  # type: ignore[override]
        x, y = batch
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(functional.cross_entropy(self.net(x + self.table(y)), y))
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> Any:
        rows = [*self.table.parameters(), *(self.net[2].parameters() if self.split else [])]
        others = [p for p in self.parameters() if all(p is not row for row in rows)]
        return st.optim.Adagrad(rows, lr=0.1), torch.optim.AdamW(others, lr=0.05)


def test_two_optimizers(tmp_path: Path) -> None:
    model, callback = Two(), EvolverCallback(st.evolve.RigL(), SCHEDULE)
    first = model.net[0].topology.digest
    trainer(tmp_path, callback, max_epochs=1).fit(model, batches())
    assert callback.evolver is not None
    assert isinstance(callback.evolver.optimizer, torch.optim.AdamW)
    assert callback.evolver.steps == 10
    assert model.net[0].topology.digest != first


def test_values_in_several_optimizers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one optimizer.*optimizer 0 has those of \['net.2'\]; optimizer 1"):
        trainer(tmp_path, EvolverCallback(st.evolve.SET(), SCHEDULE), max_steps=2).fit(Two(split=True), batches())
    each = [EvolverCallback(st.evolve.SET(), SCHEDULE, layers=name) for name in ("net.0", "net.2")]
    fitted = lightning.Trainer(
        callbacks=each, max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    fitted.fit(Two(split=True), batches())
    assert [callback.evolver.steps for callback in each if callback.evolver] == [10, 10]
