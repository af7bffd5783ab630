"""Names of a layer's inputs and outputs, and edge lists that use them."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Names = tuple[str, ...] | None
Ids = npt.NDArray[np.int64]


def checked(where: str, side: str, names: Sequence[Hashable] | None, size: int | None = None) -> Names:
    """The names as distinct strings, as many as ``size``, or None."""
    if names is None:
        return None
    if isinstance(names, str):
        raise TypeError(f"{where}: expected {side} to be a sequence of names, got the string {names!r}.")
    given = list(names)
    strings = tuple(str(name) for name in given)
    if size is not None and len(strings) != size:
        raise ValueError(f"{where}: expected {size} names in {side}, got {len(strings)}.")
    if len(set(strings)) != len(strings):
        seen: dict[str, Any] = {}
        for name, string in zip(given, strings, strict=True):
            if string in seen:
                raise ValueError(
                    f"{where}: expected distinct names in {side}, got {seen[string]!r} and {name!r}, "
                    f"both of which read {string!r} as text. Rename one."
                )
            seen[string] = name
    return strings


def edge_columns(where: str, pairs: Any) -> tuple[list[Any], list[Any]]:
    """Sources and targets of a data frame with these columns, or of an iterable of (source, target) pairs."""
    if hasattr(pairs, "columns"):
        missing = [name for name in ("source", "target") if name not in pairs.columns]
        if missing:
            raise ValueError(
                f"{where}: expected a frame with columns 'source' and 'target', got columns "
                f"{[str(c) for c in pairs.columns]}; missing: {missing}. Rename the columns."
            )
        return list(pairs["source"]), list(pairs["target"])
    sources, targets = [], []
    for k, pair in enumerate(pairs):
        try:
            source, target = pair
        except (TypeError, ValueError):
            raise ValueError(f"{where}: expected pairs (source, target), got {pair!r} at position {k}.") from None
        sources.append(source)
        targets.append(target)
    return sources, targets


def numbered(where: str, side: str, labels: Iterable[Any], names: Sequence[Hashable] | None) -> tuple[Ids, tuple[str, ...]]:
    """The position of each label among ``names``, and the names; without names, the labels in order of appearance."""
    given = list(labels)
    missing = next((k for k, label in enumerate(given) if label is None or label != label), None)
    if missing is not None:
        raise ValueError(f"{where}: expected a name in {side}, got {given[missing]!r} at edge {missing}. Drop that edge.")
    known = checked(where, side, dict.fromkeys(given) if names is None else names)  # type: ignore[arg-type]
    position = {name: i for i, name in enumerate(known or ())}
    ids = [position.get(str(label), -1) for label in given]
    if -1 in ids:
        unknown = list(dict.fromkeys(str(label) for label, i in zip(given, ids, strict=True) if i < 0))
        shown = ", ".join(repr(name) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"{where}: expected every edge to use names in {side}, got {len(unknown)} unknown: {shown}. "
            f"Add them to {side}, or drop their edges."
        )
    return np.asarray(ids, dtype=np.int64), known or ()
