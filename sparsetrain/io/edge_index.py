"""Edges of PyTorch Geometric: two rows of node numbers."""

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from .. import checks
from ..extras import needed
from ..structure.edge_list import WEIGHT, named_nodes
from ..structure.names import checked


def from_edge_index(edge_index: Any, edge_attr: Any = None, names: Sequence[Hashable] | None = None) -> Any:
    """The edges of an edge_index: sources in its first row, targets in its second.

    Args:
        edge_index: integers, shape ``(2, edges)``.
        edge_attr: a weight of each edge, shape ``(edges,)`` or ``(edges, 1)``.
        names: of all nodes, by number; without them the numbers are the names.

    Returns:
        A data frame with columns source, target and, with edge_attr, weight.

    Raises:
        ValueError: another shape. TypeError: not integers, or complex weights.
        IndexError: a negative number, or one without a name.
        ModuleNotFoundError: pandas is not installed.

    Source: torch_geometric.data.Data.

    Example:
        >>> import torch
        >>> from_edge_index(torch.tensor([[0, 1], [2, 2]]), names=["TP53", "MYC", "cycle"]).values.tolist()
        [['TP53', 'cycle'], ['MYC', 'cycle']]
    """
    where = "io.from_edge_index"
    pandas = needed(where, "pandas")
    numbers = checks.numbers(where, "edge_index", edge_index)
    if numbers.ndim != 2 or numbers.shape[0] != 2:
        raise ValueError(
            f"{where}: expected edge_index of shape (2, edges), got {tuple(numbers.shape)}. Pairs one below the other "
            "need .t()."
        )
    known = None if names is None else checked(where, "names", names)
    columns: dict[str, Any] = {}
    for side, row in zip(("source", "target"), numbers, strict=True):
        ids = checks.indices(where, "edge_index", row)
        checks.within(where, "edge_index", ids, checks.LARGEST if known is None else len(known))
        columns[side] = named_nodes(known, ids.tolist())
    if edge_attr is not None:
        columns[WEIGHT] = _weights(where, edge_attr, numbers.shape[1]).tolist()
    return pandas.DataFrame(columns)


def _weights(where: str, edge_attr: Any, edges: int) -> Tensor:
    weights = checks.numbers(where, "edge_attr", edge_attr)
    if weights.shape not in ((edges,), (edges, 1)):
        raise ValueError(
            f"{where}: expected edge_attr of shape ({edges},) or ({edges}, 1), one weight for each edge, got "
            f"{tuple(weights.shape)}. Choose one column."
        )
    if weights.is_complex():
        raise TypeError(f"{where}: expected real edge_attr, got {weights.dtype}. Pass its .real, or its .abs().")
    return weights.reshape(-1)
