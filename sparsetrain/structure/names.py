"""Names of a layer's inputs and outputs, and the one rule for what a name is.

A name is text. A number is the text that it has in Python, and a whole one that of the integer: 3.0 is 3, as columns of
integers become floats where a data frame lacks one. Scalars of numpy and torch are what they hold; bytes are UTF-8.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .. import checks

Names = tuple[str, ...] | None
Ids = npt.NDArray[np.int64]
LARGEST_WHOLE = 2**53  # past which floats skip integers


def checked(where: str, side: str, names: Iterable[Hashable], size: int | None = None) -> tuple[str, ...]:
    """The names as distinct strings, as many as ``size``."""
    listed = None if isinstance(names, str) else checks.listed(names)
    if listed is None:
        raise TypeError(f"{where}: expected {side} to be a sequence of names, got {names!r}.")
    given = [plain(name) for name in listed]
    if size is not None and len(given) != size:
        raise ValueError(f"{where}: expected {size} names in {side}, got {len(given)}.")
    seen: dict[str, Hashable] = {}
    for k, name in enumerate(given):
        _check(where, side, name, f"position {k}. Give it a name.")
        text = str(name)
        if text in seen:
            raise ValueError(
                f"{where}: expected distinct names in {side}, got {seen[text]!r} and {name!r}, "
                f"both of which read {text!r} as text. Rename one."
            )
        seen[text] = name
    return tuple(seen)


def numbered(
    where: str, side: str, labels: list[Any], names: Sequence[Hashable] | None, remembered: Sequence[Hashable] | None
) -> tuple[Ids, tuple[str, ...]]:
    """The position of each label among the names, and the names: given, else remembered by the frame, else the labels
    in order of appearance."""
    labels = [plain(label) for label in labels]
    for k, label in enumerate(labels):
        _check(where, side, label, f"edge {k}. Drop that edge.")
    if names is None and remembered is not None:
        side, names = f"frame.attrs[{side!r}]", remembered
    # True and 1 are one key of a dict, and two names
    known = checked(where, side, _distinct(labels) if names is None else names)
    position = {name: i for i, name in enumerate(known)}
    ids = [position.get(str(label), -1) for label in labels]
    unknown = list(dict.fromkeys(str(label) for label, i in zip(labels, ids, strict=True) if i < 0))
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ValueError(
            f"{where}: expected every edge to use names in {side}, got {len(unknown)} unknown: {shown}. "
            f"Add them to {side}, or drop their edges."
        )
    return np.asarray(ids, dtype=np.int64), known


def _distinct(labels: list[Any]) -> list[Any]:
    """The labels in order of appearance, each once, where equal ones read alike as text."""
    return list({(label, str(label)): label for label in labels}.values())


def plain(name: Any) -> Any:
    """A name as Python has it; what is equal and reads alike is one name."""
    if type(name) is str:
        return name
    if isinstance(name, str | bytes):
        return _decoded(name)
    if isinstance(name, np.integer | np.bool_):
        return name.item()
    if isinstance(name, np.ndarray | Tensor) and name.ndim == 0 and not getattr(name, "is_meta", False):
        return plain(name[()] if isinstance(name, np.ndarray) else name.item())
    if isinstance(name, float | np.floating | Decimal | Fraction):
        return int(name) if _is_whole(name) else name
    return tuple(map(plain, name)) if type(name) is tuple else name


def _is_whole(number: Any) -> bool:
    return math.isfinite(number) and abs(number) <= LARGEST_WHOLE and int(number) == number


def text(name: Any) -> str:
    """A name as text."""
    return str(plain(name))


def _decoded(name: str | bytes) -> Any:
    try:
        return name.decode() if isinstance(name, bytes) else str.__str__(name)
    except UnicodeDecodeError:
        return name


def _check(where: str, side: str, name: Any, place: str) -> None:
    """It is something, and one thing."""
    if type(name) is str:
        return
    try:
        hash(name)
        one = getattr(name, "ndim", 0) == 0 and not getattr(name, "is_meta", False)
    except TypeError:
        one = False
    if not one:
        raise TypeError(f"{where}: expected text or numbers as names in {side}, got {name!r} at {place}")
    if is_missing(name):
        raise ValueError(f"{where}: expected a name in {side}, got {name!r} at {place}")


def is_missing(name: Any) -> bool:
    """None, and what data frames hold where there is no name: NaN, NaT (neither equals itself) and NA."""
    if name is None:
        return True
    try:
        return bool(name != name)
    except TypeError:  # NA is neither true nor false
        return True
