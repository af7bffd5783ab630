"""Rows of tables that an optimizer still owes steps. A table asks for them before it reads: floors above need not know
each other."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Debtor(Protocol):
    """Who owes steps to the rows of one table."""

    def bring_up_to_date(self, table: Tensor, rows: Tensor | None = None) -> None:
        """Give these rows (all of them, without) the steps they are owed; ids in any order, any number of times."""


_debtors: Any = WeakIdKeyDictionary()


def debtor_of(table: Tensor) -> Debtor | None:
    """Who owes steps to rows of this table, if anybody does."""
    debtor: Debtor | None = _debtors.get(table)
    return debtor


def owe(table: Tensor, debtor: Debtor | None) -> None:
    """From now on this debtor, or nobody, owes steps to rows of the table."""
    if debtor is not None:
        _debtors[table] = debtor
    elif table in _debtors:
        del _debtors[table]


def bring_up_to_date(table: Tensor, rows: Tensor | None = None) -> None:
    """Called before rows of a table (all of them, without) are read, saved or copied.

    A compiled graph can't ask, and reads a table as it stands: its caller flushes the optimizer before.
    """
    if torch.compiler.is_compiling():
        return
    debtor = debtor_of(table)
    if debtor is not None:
        debtor.bring_up_to_date(table, rows)
