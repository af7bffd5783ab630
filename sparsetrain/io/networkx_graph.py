"""Edges of networkx graphs."""

from collections import Counter
from collections.abc import Hashable
from typing import Any

from ..extras import needed
from ..structure.edge_list import CONSTRAINT, WEIGHT


def from_networkx(graph: Any, *, weight: str = WEIGHT, constraint: str = CONSTRAINT) -> Any:
    """The edges of a directed graph, from source to target, with their weights and constraints where they have any.

    Args:
        graph: a networkx.DiGraph, or a MultiDiGraph without parallel edges. Nodes without edges are not in the frame.
        weight, constraint: names of the attributes of edges; weights are on all edges or on none.

    Returns:
        A data frame with columns source, target and, where edges have them, weight and constraint.

    Raises:
        TypeError: it is no networkx graph. ModuleNotFoundError: pandas is not installed.
        ValueError: the graph is undirected, has parallel edges, or some of its edges have no weight.

    Example:
        >>> import networkx
        >>> graph = networkx.DiGraph([("TP53", "apoptosis", {"weight": 0.5})])
        >>> from_networkx(graph).values.tolist()
        [['TP53', 'apoptosis', 0.5]]
    """
    where = "io.from_networkx"
    pandas = needed(where, "pandas")
    if not hasattr(graph, "is_directed") or not hasattr(graph, "edges"):
        raise TypeError(f"{where}: expected a networkx.DiGraph, got {type(graph).__name__}.")
    if not graph.is_directed():
        raise ValueError(
            f"{where}: expected a directed graph, got an undirected {type(graph).__name__}, whose edges have no source "
            "and target. Call .to_directed() if each edge is meant to lead both ways."
        )
    for name in (weight, constraint):
        if not isinstance(name, Hashable):
            raise TypeError(f"{where}: expected names of attributes as weight and constraint, got {name!r}.")
    edges = [(source, target) for source, target, *_ in graph.edges]
    edge, times = Counter(edges).most_common(1)[0] if edges else (None, 0)
    if times > 1:
        raise ValueError(
            f"{where}: expected one edge between two nodes, got {edge} more than once. Make a networkx.DiGraph of the "
            "graph, with the weights that you want."
        )
    frame = pandas.DataFrame({"source": [a for a, _ in edges], "target": [b for _, b in edges]})
    data = [values for _, _, values in graph.edges(data=True)]
    for name, usual in ((weight, WEIGHT), (constraint, CONSTRAINT)):
        if name != usual and data and not any(name in values for values in data):
            raise ValueError(f"{where}: expected edges with the attribute {name!r}, none has it.")
    if any(weight in values for values in data):
        for edge, values in zip(edges, data, strict=True):
            if values.get(weight) is None:
                raise ValueError(f"{where}: expected {weight!r} on all edges or on none, edge {edge} has none.")
        frame[WEIGHT] = [values[weight] for values in data]
    if any(constraint in values for values in data):
        frame[CONSTRAINT] = [values.get(constraint) for values in data]
    return frame
