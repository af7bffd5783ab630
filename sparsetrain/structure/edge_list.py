"""Edges as users bring them, with what is said of each: pairs, or a data frame whose columns have the known names."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .. import checks
from .names import Names, is_missing

WEIGHT, CONSTRAINT = "weight", "constraint"


@dataclass(frozen=True)
class EdgeList:
    """Sources and targets in the order given, and the optional columns in the same order."""

    sources: list[Any]
    targets: list[Any]
    weights: list[Any] | None = None
    constraints: list[Any] | None = None
    inputs: Sequence[Any] | None = None  # all names in order, as frames of layer.edges() keep them in frame.attrs
    outputs: Sequence[Any] | None = None

    def name(self, k: int) -> str:
        """An edge, for a message."""
        return f"({self.sources[k]!r}, {self.targets[k]!r})"

    def take(self, chosen: Sequence[int]) -> Self:
        """The edges with these numbers."""
        columns = (self.sources, self.targets, self.weights, self.constraints)
        return type(self)(*(None if column is None else [column[k] for k in chosen] for column in columns))  # type: ignore[arg-type]


def edge_list(where: str, edges: Any) -> EdgeList:
    """The edges of a data frame with columns source and target, or of an iterable of (source, target) pairs."""
    if isinstance(edges, EdgeList):
        return edges
    if hasattr(edges, "columns"):
        return _of_frame(where, edges)
    matrix = hasattr(edges, "tocoo") or (isinstance(edges, Tensor) and edges.ndim != 2)
    if isinstance(edges, Mapping | str | bytes) or not isinstance(edges, Iterable) or matrix:
        raise TypeError(
            f"{where}: expected pairs (source, target) or a data frame, got {type(edges).__name__}. Weights come in a "
            "frame with columns source, target and weight; io.from_sets takes a dict of lists."
        )
    if isinstance(edges, Tensor):
        edges = checks.numbers(where, "pairs (source, target)", edges).tolist()
    sources, targets = [], []
    for k, pair in enumerate(edges):
        ends = None if isinstance(pair, str | bytes | Mapping | Set) else checks.listed(pair)
        if ends is None or len(ends) != 2:
            raise ValueError(f"{where}: expected pairs (source, target), got {pair!r} at position {k}.")
        sources.append(ends[0])
        targets.append(ends[1])
    return EdgeList(sources, targets)


def edge_weights(where: str, edges: EdgeList) -> npt.NDArray[np.float64] | None:
    """The finite weight of each edge, or None where the edges have no weights."""
    if edges.weights is None:
        return None
    numbers = np.empty(len(edges.weights))
    for k, weight in enumerate(edges.weights):
        try:
            numbers[k] = np.nan if is_missing(weight) or isinstance(weight, str) else weight
        except (TypeError, ValueError):
            numbers[k] = np.nan
    check_finite(where, numbers, edges)
    return numbers


def check_finite(where: str, weights: npt.NDArray[Any], edges: EdgeList) -> None:
    """No weight is missing or too large; the message names the first edge where one is."""
    wrong = ~np.isfinite(weights)
    if wrong.any():
        k = int(wrong.argmax())
        got = weights[k] if edges.weights is None else edges.weights[k]
        raise ValueError(
            f"{where}: expected a finite number as the weight of every edge, got {got!r} for edge {edges.name(k)}. "
            "Give it a number, or drop that edge."
        )


def named_nodes(names: Names, numbers: Iterable[int]) -> list[Any]:
    """Names of these nodes, or their numbers where nodes have no names."""
    return [k if names is None else names[k] for k in numbers]


def _of_frame(where: str, frame: Any) -> EdgeList:
    missing = [name for name in ("source", "target") if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{where}: expected a frame with columns 'source' and 'target', got columns "
            f"{[str(c) for c in frame.columns]}; missing: {missing}. Rename the columns."
        )
    columns = {name: frame[name] for name in ("source", "target", WEIGHT, CONSTRAINT) if name in frame.columns}
    for name, column in columns.items():
        if getattr(column, "ndim", 1) != 1:
            raise ValueError(f"{where}: expected one column {name!r}, got several of that name. Drop all but one.")
    lists: dict[str, Any] = {name: list(column) for name, column in columns.items()}
    names = getattr(frame, "attrs", {})
    return EdgeList(
        lists["source"], lists["target"], lists.get(WEIGHT), lists.get(CONSTRAINT),
        names.get("inputs"), names.get("outputs"),
    )  # fmt: skip
