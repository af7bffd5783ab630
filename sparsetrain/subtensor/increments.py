"""inc_subtensor and set_subtensor: a table after some of its places changed."""

from typing import Any, Literal

import torch
from torch import Tensor

from .. import checks
from ..tracing import transforming
from .new_table import NewTable
from .places import Change
from .shared import Shared
from .subset import Subset

Casting = Literal["same_kind", "unsafe"]


def inc_subtensor(subset: Tensor, y: Any, ignore_duplicates: bool = False, *, casting: Casting = "same_kind") -> Tensor:
    r"""The whole new table in which ``y`` is added at the places of a subset; the old table stays as it is.

    A place that the index selects several times gets the sum of all its entries, :math:`T_i + \sum_{k: ids_k = i} y_k`,
    as ``numpy.add.at`` gives. Gradients: to the table as it comes, to ``y`` that of the places.

    Nothing is copied where the result is the update of its own table (apply_updates, function): the change is then
    made in place. Read anywhere else, it is a tensor like any other, made at the first reading. The table is the one
    at the time of this call.

    Args:
        subset: ``table[index]`` itself; arithmetic on it loses the table.
        y: broadcasts to the subset's shape. It is copied.
        ignore_duplicates: of several entries for one place, add the last alone, as ``table[index] += y`` does in numpy.
        casting: ``"same_kind"`` refuses y of a kind that the table's dtype cannot hold, such as 0.7 for integers;
            ``"unsafe"`` casts as Theano does, silently. The result always has the table's dtype.

    Raises:
        TypeError: not a subset, y of more dimensions than it, or of a kind that does not fit.
        ValueError: y does not broadcast, or the table has other sizes by now.

    Source: Theano's tensor.inc_subtensor; ignore_duplicates is PyTensor's.

    Example:
        >>> from sparsetrain.subtensor import shared
        >>> table = shared([[0.0, 1.0], [2.0, 3.0]])
        >>> inc_subtensor(table[[1, 1]], 10.0).tolist()
        [[0.0, 1.0], [22.0, 23.0]]
    """
    return _changed("inc_subtensor", subset, y, casting, add=True, last_wins=ignore_duplicates)


def set_subtensor(subset: Tensor, y: Any, *, casting: Casting = "same_kind") -> Tensor:
    r"""The whole new table in which the places of a subset hold ``y``; the old table stays as it is.

    Of several entries for one place the last wins, in C order of the index, always. Gradients: to the table zero at the
    places, to ``y`` that of the place that an entry ended up in, and zero for entries that a later one overwrote.

    Arguments, errors, and what is copied when: as inc_subtensor.

    Source: Theano's tensor.set_subtensor, which leaves duplicates to the mode and gives overwritten entries a
    gradient.

    Example:
        >>> from sparsetrain.subtensor import shared
        >>> table = shared([[0.0, 1.0], [2.0, 3.0]])
        >>> set_subtensor(table[[1, 1]], [[10.0, 10.0], [20.0, 20.0]]).tolist()
        [[0.0, 1.0], [20.0, 20.0]]
    """
    return _changed("set_subtensor", subset, y, casting, add=False, last_wins=True)


def _changed(where: str, subset: Tensor, y: Any, casting: Casting, *, add: bool, last_wins: bool) -> Tensor:
    if not isinstance(subset, Subset):
        raise TypeError(
            f"{where}: x must be the result of a subtensor operation, table[index] of a shared variable; got "
            f"{type(subset).__name__}. Arithmetic on a subset gives a plain tensor: pass the subset itself, and put "
            "the arithmetic into y."
        )
    base, places = subset.base, subset.places
    if tuple(base.shape) != places.table:
        raise ValueError(
            f"{where}: expected the table of shape {places.table} that the subset was taken of, got "
            f"{tuple(base.shape)}: set_value changed it. Index it again."
        )
    change = Change.at(places, _fitted(where, y, subset, casting), add=add, last_wins=last_wins)
    if transforming():  # torch.func and forward mode look into tensors from below, where a NewTable is empty
        return change.made(base.whole() if isinstance(base, NewTable) else base)
    new = NewTable.described(base, change)
    return base.watch(new) if isinstance(base, Shared) else new


def _fitted(where: str, y: Any, subset: Subset, casting: Casting) -> Tensor:
    """y in the subset's dtype and shape, safe from later changes of y."""
    if casting not in ("same_kind", "unsafe"):
        raise ValueError(f'{where}: expected casting to be "same_kind" or "unsafe", got {casting!r}.')
    y = y if isinstance(y, Tensor) else checks.numbers(where, "y", y)
    if casting == "same_kind" and not torch.can_cast(y.dtype, subset.dtype):
        raise TypeError(
            f"{where}: expected y of a kind that fits into the table's {subset.dtype}, got {y.dtype}. Convert it, or "
            'pass casting="unsafe" to have it cast silently.'
        )
    verb = "increment" if where == "inc_subtensor" else "set"
    if y.ndim > subset.ndim:
        raise TypeError(
            f"{where}: Trying to {verb} a {subset.ndim}-dimensional subtensor with a {y.ndim}-dimensional value. The "
            f"subset has shape {tuple(subset.shape)}, y {tuple(y.shape)}."
        )
    sizes = tuple(subset.shape[subset.ndim - y.ndim :])
    if any(have not in (1, want) for have, want in zip(y.shape, sizes, strict=True)):
        raise ValueError(
            f"{where}: y is not broadcastable to the correct shape: expected {tuple(subset.shape)}, got "
            f"{tuple(y.shape)}."
        )
    if y.device != subset.device and y.ndim:
        raise ValueError(f"{where}: expected y on {subset.device}, where the table is, got {y.device}. Move it.")
    own: Tensor = y.to(subset.device, subset.dtype, copy=True)
    return own.expand(subset.shape)
