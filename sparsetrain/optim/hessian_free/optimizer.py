"""Hessian-free optimization of dense parameters, values of edges, and used rows of tables."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...curvature.entries import Entries
from ...curvature.passes import Forward, GaussNewtonPass, GradientPass, HessianPass, Loss
from ..interrupts import held_back
from ..state import State
from . import checks
from .conjugate_gradients import Solution, minimize
from .preconditioner import diagonal
from .same_draws import SameDraws
from .search import best_iterate, line_search
from .trial import Trial
from .warm_start import recalled, remember

FALLS, RISES, FACTOR = 0.75, 0.25, 1.5  # reduction ratios beyond which the damping falls or rises, and by how much


@dataclass(frozen=True)
class Report:
    """What a step of HessianFree did.

    Attributes:
        before, after: the loss on the batch of the gradient.
        entries: how many numbers were trained: of parameters, and of used rows.
        iterations: of conjugate gradients, each one product with the curvature.
        damping: that of the first group in this step.
        ratio: of the reduction of the loss to that of the quadratic, by which the damping is set; NaN where the
            gradient is zero, and the damping stays.
        rate: by which the direction was scaled; 0 where no step lowers the loss, and nothing changed.
        negative_curvature: conjugate gradients ended at a direction of negative curvature.
    """

    before: float
    after: float
    entries: int
    iterations: int
    damping: float
    ratio: float
    rate: float
    negative_curvature: bool


class HessianFree(Optimizer):
    r"""Minimizes a quadratic model of the loss, :math:`g^T x + x^T (G + \lambda I) x / 2`, by conjugate gradients.

    G is the Gauss-Newton matrix or the Hessian of a batch, over the entries that the batch trains: dense parameters,
    values of edges, and of tables (LookupTable, nn.Embedding, layers with ``sparse_grad=True``) the rows that are used.
    Time and memory follow these, and not the sizes of tables. Rows that no batch of a step uses, and what is remembered
    of them, stay as they are, bit for bit.

    As published, conjugate gradients are preconditioned by :math:`(d + \lambda)^{3/4}`, with d the mean square of the
    gradients of samples (estimated by signed sums here), and stop by relative progress. Of the iterates, which are kept
    at growing distances, the one is taken from which going back no longer lowers the loss; a line search then asks for
    sufficient decrease. The damping rises by 3/2 where the loss fell by less than a quarter of what the quadratic
    promised, and falls by 2/3 above three quarters. The search starts from the direction of the last step, times
    ``decay``: that of a row is the one of the last step that used the row, and zero for new rows.

    Args:
        params: parameters, or groups of them; ``damping`` may differ between groups.
        damping: :math:`\lambda` of the first step.
        curvature: ``"ggn"``, or ``"hessian"``, which may be indefinite.
        iterations: of conjugate gradients, at most.
        tolerance: relative progress of an iteration below which they stop.
        decay: of the start.
        probes: backward passes that estimate the preconditioner; 0 for none. The Hessian has none.
        adapt_damping: set the damping after each step; else it stays.

    Attributes:
        report: what the last step did, a Report; None before.

    Raises:
        ValueError: damping <= 0, an option out of range.

    Source: Martens (2010), Deep learning via Hessian-free optimization; Chapelle and Erhan (2011), Improved
    preconditioner for Hessian free optimization.

    Example:
        >>> from sparsetrain.nn import LookupTable
        >>> model = torch.nn.Sequential(LookupTable(1000, 4), torch.nn.Linear(4, 3))
        >>> optimizer = HessianFree(model.parameters(), damping=0.1)
        >>> ids, y = torch.tensor([3, 7, 7, 9]), torch.tensor([0, 1, 1, 2])
        >>> first = optimizer.step(lambda: model(ids), lambda z: torch.nn.functional.cross_entropy(z, y))
        >>> optimizer.report.after < float(first), optimizer.report.entries
        (True, 27)
    """

    STATE: ClassVar[State] = {"direction": ("each", 0.0)}
    report: Report | None = None

    def __init__(
        self,
        params: Iterable[Any],
        damping: float = 1.0,
        *,
        curvature: str = "ggn",
        iterations: int = 250,
        tolerance: float = 5e-4,
        decay: float = 0.95,
        probes: int = 4,
        adapt_damping: bool = True,
    ) -> None:
        options = {
            "damping": damping, "curvature": curvature, "iterations": iterations, "tolerance": tolerance,
            "decay": decay, "probes": probes, "adapt_damping": adapt_damping, "steps": 0,
        }  # fmt: skip
        checks.options(options)
        super().__init__(params, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, which may have its own damping."""
        first = self.param_groups[0] if self.param_groups else self.defaults
        given = {**self.defaults, **{name: first[name] for name in checks.SHARED}, **param_group}
        checks.groups([*self.param_groups, given])
        super().add_param_group(given)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, forward: Forward, loss: Loss, *, curvature_batch: tuple[Forward, Loss] | None = None
    ) -> Tensor:
        """Take one step, and return the loss before it.

        Random numbers are drawn alike in all evaluations of a step, so that dropout is one function in all of them;
        the next step draws others. Layers that keep statistics of what they see, such as batch normalization in
        training mode, update them at each evaluation.

        Args:
            forward: runs the model and gives its outputs. It is called for the gradient, and once or more to try steps.
            loss: of the outputs, a scalar, such as ``lambda z: cross_entropy(z, y)``. It may read parameters.
            curvature_batch: ``(forward, loss)`` of another batch, of which the curvature is taken. Rows that either
                batch uses are trained.

        Raises:
            ValueError: a loss that is no finite scalar or has no graph, or a gradient that is not finite. Whatever is
                raised, no parameter has changed.
        """
        checks.functions(forward, loss, curvature_batch)
        checks.groups(self.param_groups)
        parameters = self._parameters()
        checks.whole(parameters.values())
        draws = SameDraws(next(iter(parameters.values())).device)
        of_gradient, of_curvature = self._passes(parameters, forward, loss, curvature_batch)
        draws.passed()
        entries = _entries(parameters, of_gradient, of_curvature).check(checks.WHERE).check_real(checks.WHERE)
        gradient = of_gradient.gradient(entries)
        checks.gradient(entries, gradient)
        damping = torch.empty_like(gradient)
        of_parameters = {p: group["damping"] for group in self.param_groups for p in group["params"]}
        for entry in entries:
            damping[entry.start : entry.stop] = of_parameters[entry.parameter]
        trial = Trial(entries, forward, loss, draws)
        before: Tensor = of_gradient.loss
        try:
            solution = self._solved(of_curvature, entries, gradient, damping)
            del of_gradient, of_curvature  # their graphs
            self._go(trial, entries, solution, gradient, damping, float(before))
        finally:
            trial.restore()
            draws.finish()
        return before

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state and its options. Everything is checked before anything is changed.

        Raises:
            ValueError: it is the state of another optimizer, or of parameters of other shapes.
        """
        checks.state(self, state_dict)
        super().load_state_dict(state_dict)
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for index, p in zip(saved["params"], group["params"], strict=True):
                kept = state_dict["state"].get(index, {})
                if "rows" in kept:  # which torch loads in the dtype of the parameter
                    self.state[p]["rows"] = kept["rows"].to(p.device, torch.int64, copy=True)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _parameters(self) -> dict[str, Tensor]:
        parameters = {
            f"parameter {place} of group {number}": p
            for number, group in enumerate(self.param_groups)
            for place, p in enumerate(group["params"])
            if p.requires_grad
        }
        if not parameters:
            raise ValueError("HessianFree: expected parameters with requires_grad, got none.")
        return parameters

    def _passes(
        self, parameters: dict[str, Tensor], forward: Forward, loss: Loss, batch: tuple[Forward, Loss] | None
    ) -> tuple[Any, Any]:
        """Of the gradient, and of the curvature; the same where the batch is."""
        curved = GaussNewtonPass if self.param_groups[0]["curvature"] == "ggn" else HessianPass
        if batch is None:
            run = curved("HessianFree", parameters, forward, loss)
            return run, run
        return GradientPass("HessianFree", parameters, forward, loss), curved("HessianFree", parameters, *batch)

    def _solved(self, run: Any, entries: Entries, gradient: Tensor, damping: Tensor) -> Solution:
        options = self.param_groups[0]
        preconditioner = None
        if options["probes"] and isinstance(run, GaussNewtonPass):
            preconditioner = diagonal(run, entries, damping, options["probes"], seed=options["steps"])
        start = recalled(self.state, entries, gradient, options["decay"])
        return minimize(
            lambda v: run.product(entries, v) + damping * v,
            gradient, start, preconditioner, options["iterations"], options["tolerance"],
        )  # fmt: skip

    def _go(
        self, trial: Trial, entries: Entries, solution: Solution, gradient: Tensor, damping: Tensor, before: float
    ) -> None:
        """As far along the solution as the loss falls; and what follows for the next step."""
        place, reached = best_iterate(trial.loss_at, solution.iterates)
        direction = solution.iterates[place]
        promised = solution.values[place] - 0.5 * float((damping * direction).dot(direction))
        # nothing was promised where the gradient is zero, and says nothing about the damping
        ratio = math.nan if promised == 0 else (reached - before) / promised if promised < 0 else -math.inf
        rate, after = line_search(trial.loss_at, direction, before, reached, float(gradient.dot(direction)))
        with held_back():
            trial.accept(rate * direction if rate else None)
            remember(self.state, entries, direction if rate else torch.zeros_like(direction))
            self.report = Report(
                before, after, entries.size, solution.iterations, self.param_groups[0]["damping"], ratio, rate,
                solution.negative,
            )  # fmt: skip
            for group in self.param_groups:
                group["steps"] += 1
                if group["adapt_damping"]:
                    group["damping"] *= FACTOR if ratio < RISES else 1 / FACTOR if ratio > FALLS else 1


def _entries(parameters: dict[str, Tensor], *runs: Any) -> Entries:
    inputs = {id(run): run.inputs for run in runs}.values()
    whole = [p for each in inputs for p in each.whole]
    return Entries(parameters, whole, [read for each in inputs for read in each.reads])
