"""Names of a layer's inputs and outputs, and edge lists that use them."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

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


def linked(
    where: str, pairs: Any, inputs: Sequence[Hashable] | None, outputs: Sequence[Hashable] | None
) -> tuple[Tensor, Tensor, tuple[str, ...], tuple[str, ...]]:
    """row and col of (source, target) pairs in canonical order, and the names of all inputs and outputs."""
    sources, targets = edge_columns(where, pairs)
    col, known_inputs = numbered(where, "inputs", sources, inputs)
    row, known_outputs = numbered(where, "outputs", targets, outputs)
    order = np.lexsort((col, row))
    row, col = row[order], col[order]
    twice = (np.diff(row) == 0) & (np.diff(col) == 0)
    if twice.any():
        k = order[twice.argmax()]
        raise ValueError(
            f"{where}: expected distinct edges, got ({sources[k]!r}, {targets[k]!r}) more than once. Drop the repeats."
        )
    return torch.from_numpy(row), torch.from_numpy(col), known_inputs, known_outputs


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
    if not isinstance(pairs, Iterable):
        raise TypeError(f"{where}: expected pairs (source, target) or a data frame, got {type(pairs).__name__}.")
    sources, targets = [], []
    for k, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Iterable) or len(ends := list(pair)) != 2:
            raise ValueError(f"{where}: expected pairs (source, target), got {pair!r} at position {k}.")
        sources.append(ends[0])
        targets.append(ends[1])
    return sources, targets


def numbered(where: str, side: str, labels: list[Any], names: Sequence[Hashable] | None) -> tuple[Ids, tuple[str, ...]]:
    """The position of each label among ``names``, and the names; without names, the labels in order of appearance."""
    missing = next((k for k, label in enumerate(labels) if is_missing(label)), None)
    if missing is not None:
        raise ValueError(
            f"{where}: expected a name in {side}, got {labels[missing]!r} at edge {missing}. Drop that edge."
        )
    known = checked(where, side, dict.fromkeys(labels) if names is None else names)
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


def is_missing(name: Any) -> bool:
    """None, and what data frames hold where there is no name: NaN, NaT (neither equals itself) and NA."""
    if name is None:
        return True
    try:
        return bool(name != name)
    except TypeError:  # NA is neither true nor false
        return True
