"""Lightning: edges that change while a Trainer fits, in its logs and in its checkpoints."""

import copy
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer

from .. import evolve, io
from ..convert.summaries import summary
from ..evolve import Change, Evolver, Rule, Schedule
from ..evolve.chosen import check_kinds, chosen
from ..evolve.numbers import trained
from ..extras import needed

NAMES = "lightning.pytorch", "pytorch_lightning"


def _lightning() -> Any:
    """Lightning by the name that has been imported already, or by the one that is installed."""
    for name in sorted(NAMES, key=lambda name: name not in sys.modules):
        try:
            return import_module(name)
        except ModuleNotFoundError:
            continue
    return needed("sparsetrain.trainers.lightning", NAMES[-1])


_Callback: Any = _lightning().Callback


class EvolverCallback(_Callback):
    """Changes the edges of a LightningModule while it trains.

    The Evolver is made when training starts, of the optimizer that has the values, and steps after each step of it:
    with accumulated gradients, under a GradScaler and in manual optimization too. Each Change goes to all loggers of
    the Trainer under ``evolve/``, with the step of the optimizer; ``st.summary`` is written as the fit starts.

    Checkpoints of the Trainer hold the Evolver. ``fit``, ``validate``, ``test`` and ``predict`` with ``ckpt_path`` go
    on with the edges that the checkpoint has. ``load_from_checkpoint`` knows no callbacks: there the module needs
    ``on_load_checkpoint``, see the guide.

    Args:
        rule: which edges go and come, see evolve.
        schedule: when, and how many.
        on_change: gets each Change, for instance to let an average of weights follow (``change.follow``).
        layers: which ones change, by their names in the LightningModule; as Evolver takes them, and so are
            distribution, warm_up, generator and group.

    Attributes:
        evolver: the Evolver, from the start of the training on.

    Raises:
        TypeError: no rule, no schedule. ValueError: as training starts, what Evolver raises; or the layers' values are
            in several optimizers.

    Example:
        >>> from sparsetrain import evolve
        >>> from sparsetrain.trainers.lightning import EvolverCallback  # doctest: +SKIP
        >>> callback = EvolverCallback(evolve.RigL(), evolve.Cosine(interval=100, stop=10_000))  # doctest: +SKIP
        >>> trainer = pytorch_lightning.Trainer(callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self, rule: Rule, schedule: Schedule, *, on_change: Callable[[Change], Any] | None = None, layers: Any = None,
        distribution: str = "uniform", warm_up: int = 0, generator: torch.Generator | None = None, group: Any = None,
    ) -> None:  # fmt: skip
        check_kinds("EvolverCallback", rule=(rule, Rule), schedule=(schedule, Schedule))
        self.rule, self.schedule, self.on_change, self.layers = rule, schedule, on_change, layers
        self.options = {"distribution": distribution, "warm_up": warm_up, "generator": generator, "group": group}
        self.evolver: Evolver | None = None
        self._saved: Mapping[str, Any] | None = None  # the state of an Evolver that is yet to be made
        self._handles: list[Any] = []
        self._loggers: list[Any] = []

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint, which differs for callbacks of other layers."""
        return str(self._generate_state_key(layers=repr(self.layers)))

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Edges of the checkpoint that is loaded next are those that the module goes on with."""
        self._release()
        self._saved = None  # of a checkpoint that was loaded to validate or to test
        self._handles.append(io.adopt_on_load(pl_module))

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Write the summary of the model, where Lightning writes its own."""
        from lightning_utilities.core.rank_zero import rank_zero_info

        rank_zero_info(f"\n{summary(pl_module)}")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the Evolver: model and optimizers are as the checkpoint has them."""
        saved = self.evolver.state_dict() if self.evolver and not self._saved else self._saved  # fitted once more
        optimizer = _optimizer(pl_module, trainer.optimizers, self.layers)
        rule = copy.deepcopy(self.rule)  # which may keep something of a training
        self.evolver = Evolver(pl_module, optimizer, rule, self.schedule, layers=self.layers, **self.options)
        if saved is not None:
            self.evolver.load_state_dict(saved)
        self._saved, self._loggers = None, trainer.loggers
        self._handles.append(evolve.attach(self.evolver, self._changed))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Edges stay as they are from now on."""
        self._release()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Loading is as it was before."""
        self._release()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An interrupted training leaves no hooks."""
        self._release()

    def state_dict(self) -> dict[str, Any]:
        """The state of the Evolver, for a checkpoint."""
        return {} if self.evolver is None else {"evolver": self.evolver.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until the Evolver is made."""
        self._saved = state_dict["evolver"]

    def _changed(self, change: Change) -> None:
        for logger in self._loggers:
            logger.log_metrics(change.scalars(), step=change.step)
        if self.on_change is not None:
            self.on_change(change)

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _optimizer(model: Any, optimizers: list[Optimizer], layers: Any) -> Optimizer:
    """The one that has the values of the layers that change."""
    where = "EvolverCallback"
    values = {id(trained(module)): name for name, (module, _) in chosen(where, model, layers).items()}
    having = {
        k: [values[id(p)] for group in optimizer.param_groups for p in group["params"] if id(p) in values]
        for k, optimizer in enumerate(optimizers)
    }
    found = [k for k, names in having.items() if names]
    if len(found) != 1:
        got = "; ".join(f"optimizer {k} has those of {having[k]}" for k in found) or "none of them has any"
        raise ValueError(
            f"{where}: expected one optimizer with the values of layers {list(values.values())}, among "
            f"{len(optimizers)} of configure_optimizers {got}. Put them into one, or pass layers= and use a callback "
            "for each."
        )
    return optimizers[found[0]]
