"""NewTable: a changed table that is made when it is read, and never where an update applies the change in place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.utils import _pytree as pytree

from .places import Change
from .subset import Subset, subset_of

# what a table is asked for without being made
PROPERTIES = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.__hash__),
}


class NewTable(Tensor):
    """A table after a change: the value of inc_subtensor and set_subtensor.

    It behaves as the whole changed table, in every torch function. The copy of the table that this takes is made at
    the first reading; before that it costs no more than the change. A table that is about to change has its new
    tables made first, so that the time of reading makes no difference. Only one that was applied in place, and so is
    the table itself, can be read no longer than until the table's next change.
    """

    _table: Tensor
    _change: Change | None
    _version_seen: int
    _recorded: bool  # whether gradients were when the change was described
    _whole: Tensor | None

    @classmethod
    def described(cls, table: Tensor, change: Change) -> "NewTable":
        """The new table of this change, recorded by autograd."""
        new: NewTable = Described.apply(table, change.values, change)  # type: ignore[no-untyped-call]
        new._recorded = torch.is_grad_enabled()
        return new

    @staticmethod
    def __new__(cls, table: Tensor, change: Change) -> "NewTable":
        return torch.Tensor._make_wrapper_subclass(cls, table.shape, dtype=table.dtype, device=table.device)

    def __init__(self, table: Tensor, change: Change) -> None:
        self._table, self._change, self._whole = table, change, None
        self._version_seen = table._version

    @property
    def unread(self) -> bool:
        """The whole table has not been made."""
        return self._whole is None

    def changes(self, table: Tensor) -> bool:
        """It is this very table after one change."""
        return self._table is table and self._change is not None

    def whole(self) -> Tensor:
        """The changed table as a plain tensor, made at the first call."""
        if self._whole is None:
            self.check_current()
            table = self._table
            with torch.set_grad_enabled(self._recorded):
                self._whole = table.detach().clone() if self._change is None else self._change.made(table)
        return self._whole

    def apply(self) -> None:
        """Change the table itself; from then on this reads as the table does."""
        if self._change is not None:
            self._change.apply(self._table)
        self._change, self._version_seen = None, self._table._version

    def check_current(self) -> None:
        """The table that this builds on, or became, is what it was: updates and set_value announce changes."""
        if self._table._version != self._version_seen:
            raise RuntimeError(
                "inc_subtensor, set_subtensor: the table was changed in place before this new table was read. "
                + (
                    "The new table had become the table by an update: read the table, or read the new table earlier."
                    if self._change is None
                    else "Change tables by apply_updates or set_value, or read the new table earlier."
                )
            )

    def __getitem__(self, index: Any) -> Subset:
        return subset_of(self, self.whole(), index)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in PROPERTIES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        args, kwargs = pytree.tree_map_only(NewTable, NewTable.whole, (args, kwargs or {}))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch itself declares the one of a mode
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch does to a tensor without asking for __torch_function__, as in an autograd Function."""
        args, kwargs = pytree.tree_map_only(NewTable, lambda new: new.whole().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)


class Described(Function):
    """A new table as a function of the table and of the values, for what differentiates it without reading it first."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, values: Tensor, change: Change) -> NewTable:
        ctx.change = change
        return NewTable(table, change)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return (*ctx.change.gradients(gradient), None)
