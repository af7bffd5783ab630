"""LazyUpdates: the steps that are pending for unused rows of one table under ``unused="dense"``."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from ..backends.row_gradient import RowGradient
from .interrupts import held_back

LIMIT = 1 << 15  # steps after which all rows are brought up to date, so that what must be remembered stays bounded
NUMBERS = 5  # that describe a step with a gradient of zero


class Idle(NamedTuple):
    """A step as rows saw it that it did not use."""

    numbers: tuple[float, ...]  # that describe it: NUMBERS of them
    catch_up: "partial[None]"  # of (rows, behind, steps, table): gives rows their last steps
    moves_weights: bool


class LazyUpdates:
    """What a dense optimizer would have done to rows in the steps that did not use them, done when it matters.

    Every step of the table is described by a few numbers (learning rate and decay rates as they were then), and every
    row remembers the step up to which it is up to date. The table itself comes as an argument: what is kept for as long
    as a table lives must not keep it alive.
    """

    def __init__(self, owner: Any, former: Any = None) -> None:
        self.owner = ref(owner)
        self.former: Callable[[], Any] = ref(former) if former is not None else lambda: None  # owner
        self._idle: Idle | None = None
        self._steps = torch.empty(16, NUMBERS, dtype=torch.float64)
        self._count = 0
        self._last = torch.empty(0, dtype=torch.int32)  # (rows,) steps that each row has had
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Of the table, once it has been stepped."""
        return self._last.numel()

    def were_read(self, g: RowGradient) -> bool:
        """Whether the rows of a gradient were up to date when the forward pass read them."""
        return (
            self._idle is None
            or not self._idle.moves_weights
            or not self._count
            or bool((self._last[g.used] == self._count).all())
        )

    def stepped(self, table: Tensor, g: RowGradient, idle: Idle) -> None:
        """A step was made that used the rows of g, and was idle to others."""
        if self._idle is not None and not _alike(self._idle.catch_up.keywords, idle.catch_up.keywords):
            self.bring_up_to_date(table)  # as the steps were until now: another eps, momentum switched on or off
        if not self._last.numel():
            self._last = torch.zeros(g.rows, dtype=torch.int32, device=g.values.device)
        if self._count == len(self._steps):
            self._steps = torch.cat([self._steps, torch.empty_like(self._steps)])
        self._steps[self._count] = torch.tensor(idle.numbers, dtype=torch.float64)
        self._count += 1
        self._last[g.used] = self._count
        moved = self._idle is not None and self._idle.moves_weights and self._count > 1
        self._idle = idle._replace(moves_weights=idle.moves_weights or moved)
        if self._count == LIMIT:
            self.bring_up_to_date(table)

    @torch.no_grad()
    def bring_up_to_date(self, table: Tensor, rows: Tensor | None = None) -> None:
        """Give these rows, in any order, or all of them their pending steps."""
        if not self._count or self._idle is None:
            return
        dim = self._idle.catch_up.keywords["dim"]
        if table.numel() != self.rows * dim:
            raise RuntimeError(
                f"flush: expected the table of {self.rows} rows of {dim} that updates are pending for, it has shape "
                f"{tuple(table.shape)} now. Call flush() before a table is resized, and make a new optimizer for it."
            )
        with self._lock, held_back():
            late = (self._last < self._count).nonzero().flatten() if rows is None else self._late(rows)
            if late.numel():
                self._idle.catch_up(late, (self._count - self._last[late]).long(), self._steps[: self._count], table)
                self._last[late] = self._count
            if rows is None:
                self._count = 0
                self._last.zero_()

    def _late(self, rows: Tensor) -> Tensor:
        rows = rows.reshape(-1)
        late = rows[self._last[rows] < self._count]
        return torch.unique(late) if late.numel() else late


def _alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """The same tensors and equal numbers."""
    return all(
        a is b or (not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b)
        for a, b in zip(one.values(), other.values(), strict=True)
    )
