"""Sets of edges of a layer: the one place that says what ``edges=`` may be, and the topology that a set makes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from .csr import find
from .index_types import taken
from .topology import Topology

NAMED = "Edges by name are Topology.from_edges(pairs, inputs=topology.inputs, outputs=topology.outputs)."
Edges = Tensor | Sequence[int] | Sequence[bool] | Topology | None
# stored edges, or every position of a matrix (out, in), or so many values of which nothing else is known
Structure = Topology | tuple[int, int] | int


def positions(where: str, edges: Any, structure: Structure, device: torch.device | str = "cpu") -> Tensor | None:
    """Places in the value array of the edges in a set, or None for all of them.

    Args:
        where: who asks, for messages.
        edges: None; integers, the places themselves, each once; booleans, one for each edge of the layer; or a Topology
            of the layer's shape, every edge of which the layer has.
        structure: what the layer has: a Topology; (out, in) where every position is a value; or the number of values,
            where nothing is known of their edges.
        device: of the values.

    Returns:
        int64 tensor (k,), in the order of the integers, and ascending for booleans and a topology.

    Raises:
        IndexError: a place out of range, or an edge that the layer does not have; named. ValueError: a place that
            occurs twice, a wrong shape, other names. TypeError: numbers that are neither integers nor booleans.

    Example:
        >>> t = Topology.from_mask([[1, 0], [1, 1]])
        >>> positions("here", Topology.from_mask([[0, 0], [1, 1]]), t)
        tensor([1, 2])
        >>> positions("here", [True, False, True], t)
        tensor([0, 2])
    """
    if edges is None:
        return None
    if isinstance(edges, Topology):
        return _of_topology(where, edges, structure).to(device)
    count = _count(structure)
    try:
        tensor = checks.numbers(where, "edges", edges)
    except TypeError as error:
        raise TypeError(f"{error} {NAMED}") from None
    if tensor.dtype is torch.bool:
        if tensor.shape != (count,):
            raise ValueError(
                f"{where}: expected edges as booleans of shape ({count},), one for each edge, got "
                f"{tuple(tensor.shape)}. For a mask of the whole matrix pass Topology.from_mask(mask)."
            )
        return tensor.nonzero().flatten().to(device)
    if tensor.is_floating_point() and tensor.numel():
        raise TypeError(
            f"{where}: expected edges as integers (places in the value array), booleans or a Topology, got "
            f"{tensor.dtype}. Convert with .long(), or compare with != 0."
        )
    place = checks.indices(where, "edges", tensor)
    checks.within(where, "edges", place, count)
    _check_distinct(where, place)
    return place.to(device)


def part(t: Topology, keep: Tensor) -> Topology:
    """The topology of the edges where ``keep``, booleans (nnz,), is true; with the same names.

    Example:
        >>> part(Topology.from_mask([[1, 0], [1, 1]]), torch.tensor([True, False, True])).to_mask().int().tolist()
        [[1, 0], [0, 1]]
    """
    before = torch.zeros(t.nnz + 1, dtype=torch.int64, device=t.device)
    torch.cumsum(keep, 0, out=before[1:])
    return Topology._trusted(before[t.crow.long()], taken(t.stored_col, keep), t.shape, t.inputs, t.outputs)


def _count(structure: Structure) -> int:
    if isinstance(structure, Topology):
        return structure.nnz
    return structure if isinstance(structure, int) else structure[0] * structure[1]


def _of_topology(where: str, edges: Topology, structure: Structure) -> Tensor:
    if isinstance(structure, int):
        raise TypeError(
            f"{where}: expected edges as integers or booleans, got a Topology: a tensor of values does not say which "
            "edges they are of. Pass the layer, or topology.position(row, col)."
        )
    shape = structure if isinstance(structure, tuple) else structure.shape
    if edges.shape != shape:
        raise ValueError(f"{where}: expected edges as a Topology of shape {shape}, got {edges.shape}.")
    if isinstance(structure, tuple):
        return edges.row.long() * shape[1] + edges.col.long()
    for side in ("inputs", "outputs"):
        names, others = getattr(structure, side), getattr(edges, side)
        if names is not None and others is not None and names != others:
            k = next(k for k, pair in enumerate(zip(names, others, strict=True)) if pair[0] != pair[1])
            raise ValueError(
                f"{where}: expected edges with the layer's names, got {others[k]!r} where the layer has {names[k]!r} "
                f"({side}, number {k}). Pass inputs=topology.inputs, outputs=topology.outputs to Topology.from_edges."
            )
    edges = edges.to(structure.device)
    row = edges.row
    place = find(structure.crow, structure.stored_col, row.long(), edges.col.long())
    if bool((place < 0).any()):
        k = int((place < 0).nonzero()[0])
        raise IndexError(
            f"{where}: expected edges that the layer has, got (row {int(row[k])}, column {int(edges.col[k])}), which "
            "it does not store."
        )
    return place


def _check_distinct(where: str, place: Tensor) -> None:
    ordered, order = place.sort(stable=True)
    again = ordered.diff() == 0
    if bool(again.any()):
        k = int(order[1:][again].min())
        raise ValueError(f"{where}: expected each edge once, got {int(place[k])} again at position {k}.")
