"""Names of a layer's inputs and outputs."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Names = tuple[str, ...] | None
Ids = npt.NDArray[np.int64]


def checked(where: str, side: str, names: Iterable[Hashable], size: int | None = None) -> tuple[str, ...]:
    """The names as distinct strings, as many as ``size``."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{where}: expected {side} to be a sequence of names, got {names!r}.")
    given = list(names)
    if size is not None and len(given) != size:
        raise ValueError(f"{where}: expected {size} names in {side}, got {len(given)}.")
    seen: dict[str, Hashable] = {}
    for k, name in enumerate(given):
        text = str(name)
        if is_missing(name):
            raise ValueError(f"{where}: expected a name in {side}, got {name!r} at position {k}. Give it a name.")
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
    missing = next((k for k, label in enumerate(labels) if is_missing(label)), None)
    if missing is not None:
        raise ValueError(
            f"{where}: expected a name in {side}, got {labels[missing]!r} at edge {missing}. Drop that edge."
        )
    if names is None and remembered is not None:
        side, names = f"frame.attrs[{side!r}]", remembered
    # a number and its float are one key of a dict, and two names
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


def is_missing(name: Any) -> bool:
    """None, and what data frames hold where there is no name: NaN, NaT (neither equals itself) and NA."""
    if name is None:
        return True
    try:
        return bool(name != name)
    except TypeError:  # NA is neither true nor false
        return True
