"""Edges that change under the Trainer of transformers."""

from collections.abc import Callable
from typing import Any

from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback
from transformers.utils import logging

from ... import evolve, io
from ...convert.summaries import summary
from ...evolve import Change, Evolver
from ...evolve.chosen import check_kinds
from ...optim.wrapped import unwrapped
from .optimizer_state import keep_in_optimizer_state

_log = logging.get_logger(__name__)


class EvolverCallback(TrainerCallback):
    """Lets an Evolver step while a Trainer trains, after each step of the optimizer.

    Make the Evolver of the model and of an optimizer, and pass the Trainer that optimizer. Checkpoints of the Trainer
    hold the Evolver, in the state of the optimizer. ``resume_from_checkpoint`` and the best model at the end bring
    their edges with them, whichever the model had: its ``load_state_dict`` adopts edges from now on.

    Args:
        evolver: of the Trainer's model and optimizer.
        log: gets the numbers of each Change, at the end of the step: ``lambda numbers: trainer.log(numbers)`` sends
            them where the Trainer's own go. By default they are in ``trainer.state.log_history`` alone.
        on_change: gets each Change itself.

    Raises:
        TypeError: it is no Evolver. ValueError: as training starts, the Trainer has another optimizer.

    Example:
        >>> from sparsetrain.trainers.transformers import EvolverCallback  # doctest: +SKIP
        >>> optimizer = st.optim.AdamW(model.parameters(), lr=1e-4)  # doctest: +SKIP
        >>> evolver = st.evolve.Evolver(model, optimizer, st.evolve.RigL(), schedule)  # doctest: +SKIP
        >>> Trainer(model, ..., optimizers=(optimizer, None), callbacks=[EvolverCallback(evolver)])  # doctest: +SKIP
    """

    def __init__(
        self,
        evolver: Evolver,
        log: Callable[[dict[str, float]], Any] | None = None,
        on_change: Callable[[Change], Any] | None = None,
    ) -> None:
        check_kinds("EvolverCallback", evolver=(evolver, Evolver))
        self.evolver, self.log, self.on_change = evolver, log, on_change
        self._changes: list[Change] = []
        self._attached: RemovableHandle | None = None
        io.adopt_on_load(evolver.model, evolver.optimizer)
        keep_in_optimizer_state(evolver)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Step from now on; the summary of the model is logged."""
        if unwrapped(kwargs.get("optimizer")) is not self.evolver.optimizer:
            raise ValueError(
                "EvolverCallback: expected a Trainer with the optimizer that the Evolver has, got another one. Pass "
                "optimizers=(optimizer, None) to the Trainer."
            )
        if state.is_world_process_zero:
            _log.info(f"\n{summary(self.evolver.model)}")
        self._stop()
        self._attached = evolve.attach(self.evolver, self._changes.append)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log what has changed in the step."""
        for change in self._changes:
            numbers = change.scalars()
            if self.log is not None:
                self.log(numbers)
            else:
                state.log_history.append({**numbers, "step": state.global_step})
            if self.on_change is not None:
                self.on_change(change)
        self._changes.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Edges stay as they are from now on."""
        self._stop()

    def _stop(self) -> None:
        if self._attached is not None:
            self._attached.remove()
            self._attached = None
