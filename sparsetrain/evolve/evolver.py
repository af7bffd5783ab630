"""Evolver: edges that change while a model trains."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .. import checks
from ..edges.module import EdgeModule
from ..optim import carry
from ..optim.wrapped import unwrapped
from ..structure.edit import Edit
from . import budget, checkpoint, evidence
from . import chosen as of_model
from .agreement import Agreement
from .change import Change, LayerChange
from .history import History
from .layers import Layer
from .numbers import values_of
from .recorder import Recorder
from .rule import Rule
from .schedules import Schedule
from .static import Static
from .trial import check_constraints
from .warm_up import WarmUp


class Evolver:
    r"""Changes the edges of a model while it trains, by a rule and a schedule.

    Call ``step()`` after each ``optimizer.step()``. When an update is due it lets edges go and come by the rule, and
    carries everything along: values, gradients, the optimizer's state, plans, names (optim.carry). Where the number of
    edges stays, every tensor stays in its memory, so that compiled graphs and DistributedDataParallel go on.

    Args:
        model: whose layers over edges (or masked layers) change; may be wrapped by torch.compile or
            DistributedDataParallel.
        optimizer: of their values; may be wrapped by Lightning or accelerate.
        rule: which edges go and come: Static, SET, RigL, SNFS, TopKAST, CHT, GMP, GlobalMagnitude, or one of
            your own.
        schedule: when, and how many: Constant, Cosine, Linear, Cubic.
        layers: which layers change: None for all; a name, a glob, a regular expression (compiled, or a string after
            ``re:``) or a class, or a list of such; or a dict from such to rates from 0 to 1 by which the schedule's
            fraction is multiplied. The first that matches counts.
        distribution: of a final density over the layers, ``"uniform"``, ``"er"`` or ``"erk"``, see patterns.allocate.
        warm_up: steps over which the updates of newborn edges grow from none to whole.
        generator: of everything that is drawn; by default one that follows ``torch.manual_seed``.
        group: of processes that train this model together; by default all, where torch.distributed is initialized.

    Raises:
        ValueError: the optimizer does not have the values, they are frozen (``requires_grad=False``), layers share
            values with something that can't change along, their constraints do not say what holds for newborn edges, no
            layer matches, or the rule refuses the schedule.
            TypeError: something of another kind.

    Warns:
        UserWarning: the final density leaves a layer fewer edges than outputs; it keeps one for each.

    Source: Mocanu et al. (2018) and Evci et al. (2020), for the loop; SMET (2026), arXiv 2606.00888, for the steps of
    newborn edges and their warm-up.

    Example: two lines in a loop.
        >>> from sparsetrain import evolve, optim
        >>> from sparsetrain.nn import SparseLinear
        >>> first, last = SparseLinear(20, 40, density=0.2), SparseLinear(40, 3, density=0.5)
        >>> model = nn.Sequential(first, nn.ReLU(), last)
        >>> optimizer = optim.Adam(model.parameters(), lr=0.01)
        >>> schedule = evolve.Cosine(interval=10, stop=80, prune_fraction=0.3)
        >>> layers = {"0": 1.0, "2": 0.5}
        >>> evolver = evolve.Evolver(model, optimizer, evolve.RigL(), schedule, layers=layers)
        >>> x, y = torch.randn(64, 20), torch.randint(3, (64,))
        >>> for _ in range(100):
        ...     loss = nn.functional.cross_entropy(model(x), y)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     if change := evolver.step():
        ...         numbers = change.scalars()
        >>> change is None, numbers["evolve/edges"]
        (True, 220.0)
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, rule: Rule, schedule: Schedule, *, layers: Any = None,
        distribution: str = "uniform", warm_up: int = 0, generator: torch.Generator | None = None, group: Any = None,
    ) -> None:  # fmt: skip
        where = "Evolver"
        of_model.check_kinds(where, optimizer=(optimizer, Optimizer), rule=(rule, Rule), schedule=(schedule, Schedule))
        layers_of = of_model.chosen(where, model, layers)
        of_model.check(where, model, optimizer, layers_of)
        self.model, self.optimizer = model, unwrapped(optimizer)
        self.rule, self.schedule, self.distribution = rule, schedule, distribution
        self.modules: dict[str, Any] = {name: module for name, (module, _) in layers_of.items()}
        self.rates = {name: rate for name, (_, rate) in layers_of.items()}
        self.warm_up = WarmUp(where, warm_up)
        self._agreement = Agreement(group)
        self.generator = self._agreement.generator(checks.generator(where, generator))
        self.histories = {name: History(module.topology) for name, module in self.modules.items()}
        self.recorders = {name: Recorder(module, rule.steps) for name, module in self.modules.items()}
        self.steps = 0  # training steps so far
        self.late = 0  # steps for which an update has waited for finite gradients
        views = self._views()
        rule.check(schedule, views)
        check_constraints(where, views, grows=not (rule.only_prunes or isinstance(rule, Static)))
        budget.check(views, schedule, distribution, rule)
        if rule.steps:
            of_model.unshare(self.modules)
            for name, module in self.modules.items():
                self.histories[name].topology = module.topology
        with torch.no_grad():
            rule.begin(self.modules)
        self.record()

    @torch.no_grad()
    def step(self) -> Change | None:
        """Count a training step, and change edges if an update is due.

        Call it when all backward passes of the step are done. A graph that was recorded before a change can't be gone
        back through: its ``backward()`` raises a RuntimeError. That is not refused here, since a graph that still
        waits for its backward pass looks like one that never gets any, such as a loss that is kept for a log.

        Returns:
            What has changed, or None.

        Raises:
            RuntimeError: called inside of a backward pass; an input was changed in place after it; or processes would
                go on with different edges.
            ValueError: values are NaN or frozen, gradients were NaN for several steps, or something else has changed
                edges. Edges are as they were then.
        """
        if torch._C._current_graph_task_id() != -1:
            raise RuntimeError("Evolver.step: called inside of a backward pass. Call it after optimizer.step().")
        for name, module in self.modules.items():
            if isinstance(module, EdgeModule):  # the edges of a masked layer are compared in an update
                self.histories[name].check(name, module.topology)
        self.steps += 1
        for recorder in self.recorders.values():
            recorder.end_step()
        self.warm_up.apply(self.modules)
        self.rule.after_step(self.modules)
        change = None
        try:
            change = self._update() if self.late or self.schedule.due(self.steps) else None
        finally:
            self.record()
            self.warm_up.remember(self.modules, self.histories, self.steps, changed=change is not None)
        return change

    def lr_factor(self, exponent: float = -1.0) -> Callable[[int], float]:
        r"""A factor of the learning rate that follows the density, :math:`(d / d_0)^{exponent}`, for torch's LambdaLR.

        Fewer edges into a neuron want larger steps; with -1 the sum of their updates stays about as large. It is 1 as
        long as the number of edges is what it was at first.

        Example:
            >>> from sparsetrain import evolve
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear(100, 50, density=1.0)
            >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
            >>> falls = evolve.Linear(interval=1, stop=3, final_density=0.5)
            >>> evolver = Evolver(layer, optimizer, evolve.GMP(), falls)
            >>> scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, evolver.lr_factor())
            >>> for _ in range(3):
            ...     optimizer.step()
            ...     _ = evolver.step()
            ...     scheduler.step()
            >>> round(scheduler.get_last_lr()[0], 4)
            0.2
        """

        def factor(_: int) -> float:
            now = sum(history.born.numel() for history in self.histories.values())
            at_first = sum(history.initial for history in self.histories.values())
            return float((now / max(1, at_first)) ** exponent) if now else 1.0

        return factor

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, beside model and optimizer: for io.save(path, model, optimizer, evolver)."""
        return checkpoint.state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was saved; the model and the optimizer are loaded before.

        Raises:
            ValueError: it is of another rule, schedule or model, or of an Evolver with other rates, another
                distribution or warm-up. Nothing is changed then.
        """
        checkpoint.load(self, state)
        self.warm_up.remember(self.modules, self.histories, self.steps, changed=True)

    def __repr__(self) -> str:
        names = list(self.modules)
        return f"Evolver({self.rule!r}, {self.schedule!r}, layers={names if len(names) <= 5 else len(names)})"

    # ---- an update ---------------------------------------------------------------------------------------------------

    def _update(self) -> Change | None:
        views = self._views()
        if not self._usable(views):
            return None
        initial = [history.initial for history in self.histories.values()]
        counts = budget.totals(views, self.schedule, self.steps, initial, self.distribution)
        before = self.generator.get_state()
        try:
            plan = self.rule.plan(views, counts, self.schedule.fraction(self.steps))
            edits = {view.name: self.rule.edit(view, *amounts) for view, amounts in zip(views, plan, strict=True)}
            values = {view.name: self.rule.start(view, edits[view.name]) for view in views}
            self._agreement.check(edits)
            carry(
                self.optimizer,
                {self.modules[name]: edit for name, edit in edits.items()},
                values={self.modules[name]: start for name, start in values.items() if start is not None},
            )
        except BaseException:
            self.generator.set_state(before)
            raise
        return self._changed(edits)

    def _changed(self, edits: Mapping[str, Edit]) -> Change:
        changes = {}
        for name, edit in edits.items():
            self.recorders[name].stop()
            history = self.histories[name]
            history.update(edit, self.steps)
            changes[name] = LayerChange(edit, history.explored, history.age(self.steps))
        self.rule.after_change(self.modules, edits)
        return Change(self.steps, changes)

    def _usable(self, views: list[Layer]) -> bool:
        """Whether there is all that the rule looks at. Gradients that are infinite are waited for."""
        evidence.check_values(views)
        if self.rule.steps:
            evidence.hear(views, self.recorders, self._agreement)
        self.late = 0 if evidence.is_finite(views) else self.late + 1
        evidence.check_patience(self.late, self.rule.steps)
        return not self.late

    def _views(self) -> list[Layer]:
        """The layers as a rule sees them."""
        views = []
        for name, module in self.modules.items():
            t = module.topology
            history, values = self.histories[name], values_of(module, t)
            history.check(name, t)
            views.append(
                Layer(
                    name, module, t, values, self.rates[name], history.born, self.steps, self.generator, self.optimizer
                )
            )
        initial = [history.initial for history in self.histories.values()]
        if not self.rule.shares_budget:
            fewest = budget.floors(views, self.schedule, initial, self.distribution)
            for view, floor in zip(views, fewest, strict=True):
                view.floor = floor
        return views

    def record(self) -> None:
        """Note gradients in the last steps before an update."""
        if not self.rule.steps:
            return
        due = self.steps + 1 if self.late else self.schedule.next_due(self.steps + 1)
        for recorder in self.recorders.values():
            if due is not None and due - self.steps <= self.rule.steps:
                recorder.start()
            else:
                recorder.stop()
