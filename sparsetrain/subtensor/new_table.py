"""NewTable: a changed table that is made when it is read, and never where an update applies the change in place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .places import Change
from .subset import Subset, subset_of

# what a table is asked for without being made
PROPERTIES = {
    Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.ndim.__get__, Tensor.size, Tensor.dim,
    Tensor.numel, Tensor.__len__, Tensor.__hash__,
}  # fmt: skip


class NewTable(Tensor):
    """A table after a change: the value of inc_subtensor and set_subtensor.

    It behaves as the whole changed table, in every torch function. The copy of the table that this takes is made at
    the first reading; before that it costs no more than the change. A table that is about to change has its new
    tables made first, so that the time of reading makes no difference.
    """

    _base: Tensor
    _change: Change | None
    _seen: int
    _whole: Tensor | None

    @staticmethod
    def __new__(cls, base: Tensor, change: Change) -> "NewTable":
        return torch.Tensor._make_wrapper_subclass(cls, base.shape, dtype=base.dtype, device=base.device)  # type: ignore[attr-defined, no-any-return]

    def __init__(self, base: Tensor, change: Change) -> None:
        self._base, self._change, self._seen, self._whole = base, change, base._version, None

    @property
    def unread(self) -> bool:
        """The whole table has not been made."""
        return self._whole is None

    def changes(self, table: Tensor) -> bool:
        """It is this very table after one change."""
        return self._base is table and self._change is not None

    def whole(self) -> Tensor:
        """The changed table as a plain tensor, made at the first call."""
        if self._whole is None:
            self.check_current()
            table = self._base
            self._whole = table.detach().clone() if self._change is None else self._change.made(table)
        return self._whole

    def apply(self) -> None:
        """Change the table itself; from then on this reads as the table does."""
        if self._change is not None:
            self._change.apply(self._base)
        self._change, self._seen = None, self._base._version

    def check_current(self) -> None:
        """The table was changed by nothing but updates and set_value, which announce it."""
        if self._base._version != self._seen:
            raise RuntimeError(
                "inc_subtensor, set_subtensor: the table was changed in place after this new table was described and "
                "before it was read. Change tables by apply_updates or set_value, or read the new table first."
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
    def __torch_dispatch__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What torch does to a tensor without asking for __torch_function__, such as torch.tensor(new)."""
        args, kwargs = pytree.tree_map_only(NewTable, lambda new: new.whole().detach(), (args, kwargs or {}))
        return func(*args, **kwargs)
