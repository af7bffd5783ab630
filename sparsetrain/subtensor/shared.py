"""Shared variables: tables that keep a value between calls."""

import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from .new_table import NewTable
from .subset import Subset, subset_of

REFUSED = (torch.uint16, torch.uint32, torch.uint64)  # torch has no index_add for them


class Shared(Tensor):
    """A tensor that keeps its value between calls; see shared, which makes one.

    In an expression it is its value, and ``table[index]`` is a Subset that remembers the table.

    Attributes:
        name: as users call it, or None; it stands in messages.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    name: str | None = None  # torch has a property of this name, which is deprecated

    _new_tables: "list[weakref.ref[NewTable]]"

    def __getitem__(self, index: Any) -> Subset:
        return subset_of(self, self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "table[index] = value: a shared variable is changed by updates. Write "
            "apply_updates([(table, set_subtensor(table[index], value))]), or use set_value."
        )

    def get_value(self, borrow: bool = False) -> Tensor:
        """The value, a plain tensor without gradient.

        A copy of the whole table, O(rows * columns); with ``borrow=True`` the table's own memory, in which later
        updates show.

        Example:
            >>> table = shared([1, 2])
            >>> table.get_value().tolist()
            [1, 2]
        """
        return self.detach() if borrow else self.detach().clone()

    def set_value(self, value: Any, borrow: bool = False) -> None:
        """Replace the value by one of the same dtype and number of dimensions, of any sizes.

        Args:
            value: a tensor or an array; a list or a number takes the table's dtype where that loses no kind.
            borrow: use the memory of ``value`` itself. What borrowed the old value keeps the old value.

        Raises:
            TypeError: another dtype or number of dimensions. ValueError: memory that cannot be borrowed.

        Example:
            >>> table = shared([1, 2])
            >>> table.set_value([3, 4, 5])
            >>> table.get_value().tolist()
            [3, 4, 5]
        """
        where = "set_value"
        new = _strided(where, value, borrow)
        if not isinstance(value, (Tensor, np.ndarray, np.generic)) and torch.can_cast(new.dtype, self.dtype):
            new = new.to(self.dtype)
        if new.dtype != self.dtype or new.ndim != self.ndim:
            raise TypeError(
                f"{where}: expected {self.ndim} dimensions of {self.dtype}, as the shared variable has, got {new.ndim} "
                f"of {new.dtype}. Convert the value first."
            )
        self.settle()
        if new.shape != self.shape:
            self.grad = None
        self.data = new.to(self.device)
        torch.autograd.graph.increment_version(self)

    @property
    def called(self) -> str:
        """How a message calls it."""
        return f"of shape {tuple(self.shape)}" if self.name is None else f"{self.name} of shape {tuple(self.shape)}"

    def __repr__(self) -> str:  # type: ignore[override]
        if self.name is None:
            return str(Tensor.__repr__(self))  # type: ignore[no-untyped-call]
        return f"Shared({self.name}, shape={tuple(self.shape)}, dtype={self.dtype})"

    def watch(self, new: NewTable) -> NewTable:
        """Have this new table made before the table changes."""
        self._new_tables = [ref for ref in getattr(self, "_new_tables", []) if ref() is not None]
        self._new_tables.append(weakref.ref(new))
        return new

    def settle(self, applied: NewTable | None = None) -> None:
        """Make all new tables but the one that is to be applied: the value that they build on is about to change."""
        for ref in getattr(self, "_new_tables", []):
            new = ref()
            if new is not None and new is not applied:
                new.whole()
        self._new_tables = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        if id(self) not in memo:
            memo[id(self)] = shared(self, name=self.name)
        copy: Shared = memo[id(self)]
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _named, (self.detach(), self.name)


def _named(value: Tensor, name: str | None) -> Shared:
    return shared(value, borrow=True, name=name)


def shared(value: Any, borrow: bool = False, *, name: str | None = None) -> Shared:
    """A shared variable of this value: a lookup table, or any other parameter or state.

    Floating point and complex tables can be differentiated with respect to, whole or by subsets.

    Args:
        value: a tensor, an array, a list or a number. Its dtype stays; lists take numpy's dtype (float64, int64).
        borrow: use the memory of the tensor or array instead of a copy. Updates then write into it, and what is
            written into it shows in the table.
        name: what it is called when it is printed, instead of its numbers, and in messages.

    Raises:
        TypeError: not numbers, borrow or name of another type, or numbers of a dtype that torch cannot index-add
            (uint16, uint32, uint64).
        ValueError: the memory cannot be borrowed: read-only, not contiguous, or a list's.

    Source: Theano's shared variables.

    Example:
        >>> table = shared(np.arange(6.0).reshape(3, 2))
        >>> table.shape, table[[2, 0]].tolist()
        (torch.Size([3, 2]), [[4.0, 5.0], [0.0, 1.0]])
        >>> shared(np.zeros((1000, 50)), name="W")
        Shared(W, shape=(1000, 50), dtype=torch.float64)
    """
    if not isinstance(borrow, bool):
        hint = f" A name is given as name={borrow!r}." if isinstance(borrow, str) else ""
        raise TypeError(f"shared: expected borrow to be a bool, got {borrow!r}.{hint}")
    if not isinstance(name, str | None):
        raise TypeError(f"shared: expected name to be text or None, got {name!r}.")
    data = _strided("shared", value, borrow)
    if data.dtype in REFUSED or data.is_quantized:
        raise TypeError(f"shared: expected floating point, complex, signed integers, uint8 or bool, got {data.dtype}.")
    made: Shared = torch.Tensor._make_subclass(Shared, data, data.is_floating_point() or data.is_complex())
    made.name = name
    return made


def _strided(where: str, value: Any, borrow: bool) -> Tensor:
    """The value as a contiguous tensor without gradient, in memory of its own unless it is borrowed."""
    if isinstance(value, Tensor) and value.layout != torch.strided:
        raise TypeError(f"{where}: expected a dense tensor, got layout {value.layout}. Convert with .to_dense().")
    if not borrow and isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if not borrow:
        return checks.numbers(where, "the value", value).contiguous()
    if isinstance(value, Tensor):
        lent = value.detach()
        reason = "" if lent.is_contiguous() else "it is not contiguous"
    elif isinstance(value, np.ndarray):
        usable = value.flags.c_contiguous and value.flags.writeable
        lent = torch.from_numpy(value) if usable else torch.empty(0)
        reason = "" if usable else "it is read-only" if value.flags.c_contiguous else "it is not contiguous"
    else:
        lent, reason = torch.empty(0), f"a {type(value).__name__} has none"
    if reason:
        raise ValueError(f"{where}: expected memory that can be borrowed, but {reason}. Pass borrow=False.")
    return lent
