"""Updates of tables that are pending in an optimizer. A table asks for them before it reads, so that layers and
optimizers need not know each other."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class PendingUpdates(Protocol):
    """The updates that are pending for rows of one table."""

    def bring_up_to_date(self, table: Tensor, rows: Tensor | None = None) -> None:
        """Apply them to these rows (all of them, without); ids in any order, any number of times."""


_registered: Any = WeakIdKeyDictionary()


def pending_of(table: Tensor) -> PendingUpdates | None:
    """The pending updates of this table, if an optimizer registered any."""
    pending: PendingUpdates | None = _registered.get(table)
    return pending


def register(table: Tensor, pending: PendingUpdates | None) -> None:
    """From now on these are the pending updates of the table; None for no longer any."""
    if pending is not None:
        _registered[table] = pending
    elif table in _registered:
        del _registered[table]


def bring_up_to_date(table: Tensor, rows: Tensor | None = None) -> None:
    """Called before rows of a table (all of them, without) are read, saved or copied.

    A compiled graph can't ask, and reads a table as it stands: its caller flushes the optimizer before.
    """
    if torch.compiler.is_compiling():
        return
    pending = pending_of(table)
    if pending is not None:
        pending.bring_up_to_date(table, rows)
