"""Updates of tables that are pending in an optimizer. A table asks for them before it reads, so that layers and
optimizers need not know each other."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..tracing import has_memory, outside_of_transforms, unwrapped


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

    The table may be another tensor over the memory of one that has pending updates: detached, or wrapped by transforms
    of torch.func or forward mode. These see the numbers that are there afterwards. A copy has those of its time.

    A compiled graph can't ask, and reads a table as it stands: its caller flushes the optimizer before.
    """
    if torch.compiler.is_compiling() or not _registered:
        return
    pending = pending_of(table)
    if pending is not None:
        found = [(table, pending, rows)]
    elif not isinstance(table, nn.Parameter):
        found = [
            (whole, each, rows if _is_all_of(table, whole) else None)
            for whole, each in _over_the_memory_of(unwrapped(table))
        ]
    else:
        return
    with outside_of_transforms():
        for whole, each, some in found:
            each.bring_up_to_date(whole, None if some is None else unwrapped(some))


def _over_the_memory_of(tensor: Tensor) -> list[tuple[Tensor, PendingUpdates]]:
    """The tables with pending updates in whose memory a tensor's numbers are."""
    if not has_memory(tensor):
        return []
    memory = tensor.untyped_storage()._cdata
    tables = [entry for entry in list(_registered.items()) if has_memory(entry[0])]
    return [(table, pending) for table, pending in tables if table.untyped_storage()._cdata == memory]


def _is_all_of(tensor: Tensor, table: Tensor) -> bool:
    """Whether rows of the tensor are those of the table."""
    numbers = unwrapped(tensor)
    as_stored = (numbers.shape, numbers.stride(), numbers.storage_offset())
    return tensor.shape == table.shape and as_stored == (table.shape, table.stride(), table.storage_offset())
