"""What the optimizers share: torch's own step dense gradients, and rows that a sparse gradient names step alone."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..backends.row_gradient import RowGradient
from ..edges.pending import pending_of, register
from . import checks, dense_tables, loading, shard_states
from .clipping import clip_grad_norm_
from .interrupts import held_back
from .lazy_updates import Idle, LazyUpdates
from .zero_redundancy import sends_parameters

Unused = Literal["frozen", "dense"]
Group = dict[str, Any]


class RowOptimizer(Optimizer):
    """Placed before one of torch's optimizers among the bases of a class: what is torch's contract stays torch's.

    A parameter whose gradient is sparse is a *table*: its used rows are stepped by ``_step_rows``, in one pass. All
    others are left to torch.
    """

    _torch: ClassVar[type[Optimizer]]  # the optimizer of torch that steps dense gradients
    _options: dict[str, Any]  # of ours, with their defaults
    _in_rows: frozenset[Tensor] = frozenset()  # while torch steps the rest
    clip_norm: float | None = None  # to which each step clips all gradients together, after its closure

    # ---- what a subclass says ----------------------------------------------------------------------------------------

    def _step_rows(self, group: Group, p: Tensor, g: RowGradient, numbers: dict[str, Any]) -> Idle | None:
        """One step of the rows of g; ``numbers`` holds lr, scale and l1. What comes back is what the step was to rows
        that it did not use, under ``unused="dense"``, or None where nothing happens to them."""
        raise NotImplementedError

    def _threshold(self, group: Group, p: Tensor) -> Any:
        """What a dense step divides lr l1 by."""
        raise NotImplementedError

    def _check_group(self, group: Group) -> None:
        """Options that contradict each other, beside those of every optimizer."""

    def _check_table(self, group: Group, p: Tensor, g: RowGradient) -> None:
        """What a parameter that is stepped by rows must be, beside what holds for every optimizer."""

    def _counts_rows(self, group: Group) -> bool:
        """Whether a dense gradient, too, is stepped row by row: each of its rows counts its steps."""
        return False

    def _counts_births(self, group: Group) -> bool:
        """Whether values that are born later than their parameter need a count of steps of their own."""
        return False

    # ---- torch's contract --------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own, as in torch."""
        for name, value in getattr(self, "_options", {}).items():
            param_group.setdefault(name, value)
        count = len(self.param_groups)
        try:
            checks.group(self, {**self.defaults, **param_group})
            self._check_group({**self.defaults, **param_group})
            super().add_param_group(param_group)
            checks.l1(self, param_group)
            self._claim(param_group)
        except BaseException:
            del self.param_groups[count:]
            if "unused" not in self.defaults:  # the optimizer is still being made, and will not be
                for group in self.param_groups:
                    self._release(group)
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Ctrl-C waits for its end, the closure apart.

        Raises:
            ValueError, TypeError, RuntimeError: a gradient can't be stepped; nothing has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        checks.not_sent(self)
        self._clip()
        tables = self._tables()
        with held_back():
            self._step_all(tables)
        return loss

    def _step_all(self, tables: list[tuple[Group, Tensor, RowGradient]]) -> None:
        """Step these tables by rows, and everything else by torch."""
        found = vars(self).get("found_inf")  # a GradScaler leaves its work to optimizers with fused=True
        skip = found is not None and bool(found.item())
        self._in_rows = frozenset(p for _, p, _ in tables)
        try:
            inspect.unwrap(self._torch.step)(self)  # hooks run once, around this step; what torch refuses comes first
        finally:
            del self._in_rows
        if not skip:
            for group, p, g in tables:
                self._step_table(group, p, g)
            self._shrink()
            if any(group["unused"] == "dense" for group in self.param_groups) and sends_parameters():
                self.flush()

    def _init_group(self, group: Group, *lists: Any) -> Any:
        """torch asks each group for what it is to step: rows are none of its business."""
        dense = [p for p in group["params"] if p not in self._in_rows]
        return super()._init_group({**group, "params": dense}, *lists)  # type: ignore[misc]

    def flush(self) -> None:
        """Bring every row of every table up to date, under ``unused="dense"``: before tables are read otherwise than
        through a LookupTable."""
        for p in self._parameters():
            pending = pending_of(p)
            if isinstance(pending, LazyUpdates) and pending.owner() is self:
                pending.bring_up_to_date(p)

    def resized(self, p: Tensor) -> None:
        """A parameter has other rows from now on: after ``flush()``, and with its state cut to them."""
        register(p, None)
        for group in self.param_groups:
            if any(p is each for each in group["params"]):
                self._claim({**group, "params": [p]})

    def state_dict(self) -> dict[str, Any]:
        """The state, as torch's; of tables after ``flush()``. That of a table which is spread over ranks is a
        DTensor, a part of the whole."""
        self.flush()
        return shard_states.whole(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of the same optimizer, ours or torch's, checked before anything is changed.

        Adam and AdamW take that of torch's SparseAdam too, which is Adam with ``bias_correction="global"`` and without
        weight decay.

        Raises:
            ValueError: it is the state of another optimizer, or of parameters of other shapes.
        """
        state_dict = loading.completed(self, shard_states.own(self, state_dict))
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            checks.owners(self, group["params"], saved["unused"])
            checks.modes(self, saved)
            checks.l1(self, {**saved, "params": group["params"]})
            self._check_group(saved)
        self.flush()
        super().load_state_dict(state_dict)
        loading.restore(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self.flush()
        return {**super().__getstate__(), "clip_norm": self.clip_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            checks.owners(self, group["params"], group["unused"])
        for group in self.param_groups:
            self._claim(group)

    # ---- what subclasses share ---------------------------------------------------------------------------------------

    def _refuse_coupled_decay(self, group: Group) -> None:
        if group["unused"] == "dense" and group["weight_decay"] != 0:
            raise ValueError(
                f"{type(self).__name__}: weight_decay enters the gradient here, which has no closed form under "
                'unused="dense". Use AdamW, whose decay is apart, or unused="frozen".'
            )

    def _start(self, p: Tensor, kept: dict[str, bool]) -> None:
        """The state of a table, as torch starts that of a parameter."""
        state = self.state[p]
        if "step" not in state:
            state["step"] = torch.tensor(0.0)
        for name, keep in kept.items():
            if keep and name not in state:
                state[name] = torch.zeros_like(p, memory_format=torch.contiguous_format)

    def _clip(self) -> None:
        if self.clip_norm is None:
            return
        if any(group["check_finite"] for group in self.param_groups):
            self._tables()  # names the parameter whose gradient would make the norm NaN
        scale = vars(self).get("grad_scale")  # by which gradients are still too large, with fused=True
        clip_grad_norm_(self._parameters(), self.clip_norm * (1.0 if scale is None else float(scale)))

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _parameters(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups for p in group["params"])

    def _tables(self) -> list[tuple[Group, Tensor, RowGradient]]:
        """The parameters to step by rows, all gradients checked."""
        found = []
        for group in self.param_groups:
            checks.modes(self, group)
            checks.l1(self, group)
            self._check_group(group)
            for place, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                checks.gradient(self, group, place, p)
                if p.grad.is_sparse:
                    found.append((group, p, RowGradient.of_sparse(p.grad)))
                    continue
                if group["unused"] == "frozen":
                    dense_tables.warn_once(self, group, place, p)
                if rows := self._rows_of_dense(group, p):
                    checks.whole(self, group, place, p)
                    found.append((group, p, RowGradient.of_dense(p.grad, rows)))
        for group, p, g in found:
            self._check_table(group, p, g)
            checks.rows(self, group, p, g)
        return found

    def _rows_of_dense(self, group: Group, p: Tensor) -> int:
        """Into how many rows a dense gradient falls, of what is a table all the same: else 0."""
        if "row_steps" in self.state.get(p, {}):
            return int(self.state[p]["row_steps"].numel())
        pending = pending_of(p) if group["unused"] == "dense" else None
        if isinstance(pending, LazyUpdates) and pending.rows:
            return pending.rows
        return p.shape[0] if p.ndim and p.numel() and self._counts_rows(group) else 0

    def _step_table(self, group: Group, p: Tensor, g: RowGradient) -> None:
        scale = -1.0 if group["maximize"] else 1.0
        if vars(self).get("grad_scale") is not None:
            scale /= float(vars(self)["grad_scale"])
        pending = pending_of(p) if group["unused"] == "dense" else None
        if pending is not None:
            pending.bring_up_to_date(p, g.used)
        idle = self._step_rows(group, p, g, {"lr": float(group["lr"]), "scale": scale, "l1": group["l1"]})
        if idle is not None and isinstance(pending, LazyUpdates):
            pending.stepped(p, g, idle)

    def _shrink(self) -> None:
        """The proximal step of what torch has stepped."""
        for group in self.param_groups:
            l1 = group["l1"]
            if not isinstance(l1, Tensor) and l1 == 0:
                continue
            for p in group["params"]:
                if p.grad is not None and not p.grad.is_sparse and not self._rows_of_dense(group, p):
                    threshold = float(group["lr"]) * l1 / self._threshold(group, p)
                    p.copy_(p.sign() * (p.abs() - threshold).clamp_(min=0))

    def _release(self, group: Group) -> None:
        for p in group["params"]:
            pending = pending_of(p)
            if isinstance(pending, LazyUpdates) and pending.owner() is self:
                former = pending.former()
                register(p, None if former is None else LazyUpdates(former))

    def _claim(self, group: Group) -> None:
        """Pending updates of these parameters are those of this optimizer, or of none. What is pending with another
        optimizer is applied before."""
        for p in group["params"]:
            pending = pending_of(p)
            owner = pending.owner() if isinstance(pending, LazyUpdates) else None
            if pending is not None and (owner is None or group["unused"] == "dense"):
                pending.bring_up_to_date(p)
            if group["unused"] == "dense":
                register(p, LazyUpdates(self, former=owner))
            elif owner is self or owner is None:
                register(p, None)


def row_steps(state: Group, p: Tensor, g: RowGradient) -> Tensor:
    """How many steps each row has had: those of the parameter so far, where nobody counted."""
    if "row_steps" not in state:
        state["row_steps"] = torch.full((g.rows,), int(state["step"]), dtype=torch.int32, device=p.device)
    counts: Tensor = state["row_steps"]
    return counts
