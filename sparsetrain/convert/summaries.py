"""What a model is made of: its weights, the edges among them, their memory, and why others are dense."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..nn.convolution_edges import matrix_shape
from ..structure.derived import memory
from ..structure.topology import Topology
from ..text_table import aligned, size
from .dense_reasons import NO_EDGES, Reasons
from .held_weights import Held, Once, held_weights
from .kinds import sparse_kind
from .ties import turns

HEADER = ("name", "kind", "shape", "edges", "density", "values", "indices", "note")
LEFT = (0, 1, 2, 7)  # columns that begin at the left


@dataclass(frozen=True)
class SummaryRow:
    """One weight of a model, sparse or dense.

    Attributes:
        name: of the layer; of the parameter, where a layer has several weights.
        kind: the class of the layer.
        shape: of the weight, ``(out, in)`` of a linear layer and ``(out, in / groups, *kernel)`` of a convolution;
            empty while a lazy layer has none.
        edges: how many of its positions are stored or, under a mask, count; all of them where it is dense.
        density: edges / positions.
        value_bytes: of the weights that are stored, with what constraints and parametrizations keep for them.
        index_bytes: of the index arrays or the mask, with what kernels have derived from them so far.
        sparse: whether there are edges: of a layer over edges, or of a masked one.
        note: why the weight is dense; or what else is to be known.
        shared: the earlier row whose numbers these are, and where they count; empty for numbers of its own.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    edges: int
    density: float
    value_bytes: int
    index_bytes: int
    sparse: bool
    note: str = ""
    shared: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of values and indices; what is shared with an earlier row counts there."""
        return self.value_bytes + self.index_bytes

    @property
    def positions(self) -> int:
        """Size of the whole weight."""
        return _product(self.shape)


@dataclass(frozen=True)
class Summary:
    """A table of the weights of a model. ``print`` shows it.

    Attributes:
        rows: a SummaryRow for each weight, in the order of the model.
        other_bytes: of biases, norms, buffers and whatever else has less than two dimensions.
    """

    rows: tuple[SummaryRow, ...]
    other_bytes: int

    @property
    def edges(self) -> int:
        """Stored weights of all rows; shared ones count once. Edges of a SparseDeltaLinear and the frozen weight beside
        them are two rows, and both count, as both are held."""
        return sum(row.edges for row in self.rows if not row.shared)

    @property
    def density(self) -> float:
        """Edges / positions of all rows; shared ones count once."""
        positions = sum(row.positions for row in self.rows if not row.shared)
        return self.edges / positions if positions else 0.0

    @property
    def bytes(self) -> int:
        """Bytes of everything in the model, including what is in no row."""
        return sum(row.bytes for row in self.rows) + self.other_bytes

    def __repr__(self) -> str:
        total = ("total", "", "", f"{self.edges:,}", f"{self.density:.4g}")
        memory = (size(sum(row.value_bytes for row in self.rows)), size(sum(row.index_bytes for row in self.rows)))
        note = f"and {size(self.other_bytes)} of biases and others"
        return "\n".join(aligned([HEADER, None, *map(_cells, self.rows), None, (*total, *memory, note)], LEFT))


def summary(model: nn.Module) -> Summary:
    """The weights of a model as a table: kind, shape, edges, density and bytes of each, and why it is dense, if it is.

    Nothing is computed or changed; bytes are those that are held now, with what forward and backward passes have
    derived from the edges so far. Numbers that several layers share count in the first of them.

    Args:
        model: any module, on any device.

    Returns:
        A Summary, which prints as the table; its ``rows`` are for code.

    Raises:
        TypeError: it is no module.

    Example:
        >>> import sparsetrain as st
        >>> first = st.nn.SparseLinear(784, 300, density=0.05)
        >>> st.summary(nn.Sequential(first, nn.ReLU(), nn.Linear(300, 10)))
        name    kind           shape        edges   density    values   indices   note
        ----------------------------------------------------------------------------------------------------------
        0       SparseLinear   300 x 784   11,760      0.05   47.0 kB   48.2 kB
        2       Linear         10 x 300     3,000         1   12.0 kB       0 B   not converted
        ----------------------------------------------------------------------------------------------------------
        total                              14,760   0.06196   59.0 kB   48.2 kB   and 1.24 kB of biases and others
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"summary: expected a module, got {type(model).__name__}.")
    return summarized(model, {}, {})


def summarized(
    model: nn.Module,
    wanted: Mapping[nn.Module, Any],
    reasons: Mapping[nn.Module, str],
    follow: Mapping[nn.Module, nn.Module] | None = None,
) -> Summary:
    """The summary of a model after these layers were replaced by layers over edges.

    Args:
        model: as it is before.
        wanted: what each layer gets, a topology or a density.
        reasons: why others stay dense.
        follow: layers that have the weight of one of these, which is named.
    """
    follow = {} if follow is None else follow
    once, why = Once(), Reasons(model, reasons)
    rows = []
    for held in held_weights(model):
        leader = follow.get(held.module, held.module)
        if leader in wanted:
            turned = leader is not held.module and turns(leader, held.module)
            rows.append(_planned_row(held, wanted[leader], once, turned))
        else:
            rows.append(_row(held, once, why))
    rest = [*model.parameters(), *model.buffers()]
    others = sum(once.bytes_of(tensor) for tensor in rest)
    return Summary(tuple(rows), others)


def _row(held: Held, once: Once, why: Reasons) -> SummaryRow:
    shared = next(filter(None, map(once.owner, held.tensors)), "") or why.origin(held.module)
    values = sum(once.bytes_of(tensor, held.name) for tensor in held.tensors)
    indices = sum(once.bytes_of(tensor) for tensor in held.masks)
    if held.topology is not None:
        indices += once.bytes_of_arrays(memory(held.topology))
    note = why.note(held)
    if shared and "tied" not in note:
        note = "; ".join(filter(None, [f"numbers of {shared}", note]))
    return SummaryRow(
        held.name, held.kind, held.shape, held.edges, _density(held.edges, held.shape), values, indices, held.sparse,
        note, shared,
    )  # fmt: skip


def _planned_row(held: Held, edges: Any, once: Once, turned: bool) -> SummaryRow:
    shared = once.owner(held.tensors[0])
    for tensor in (*held.tensors, *held.module._buffers.values()):  # they would be gone, masks of biases as well
        if tensor is not None:
            once.bytes_of(tensor, held.name)
    shape = held.shape
    if isinstance(edges, Topology):
        nnz, indices = edges.nnz, once.bytes_of_arrays(memory(edges))
    else:
        nnz = round(edges * _product(shape))
        indices = (shape[0] + 1 + nnz) * (4 if max(*matrix_shape(shape), nnz) < 2**31 else 8)
    kind = sparse_kind(held.module).__name__
    values = nnz * max(4, held.tensors[0].element_size())  # half precision becomes float32
    note = "" if nnz else NO_EDGES
    if turned:
        kind = "TransposedSparseLinear"
    if shared:
        values, indices, note = 0, 0, f"numbers of {shared}"
    return SummaryRow(held.name, kind, shape, nnz, _density(nnz, shape), values, indices, True, note, shared)


def _density(edges: int, shape: tuple[int, ...]) -> float:
    positions = _product(shape)
    return edges / positions if positions else 0.0


def _product(shape: tuple[int, ...]) -> int:
    return math.prod(shape) if shape else 0


def _cells(row: SummaryRow) -> tuple[str, ...]:
    shape = " x ".join(map(str, row.shape)) or "?"
    numbers = (f"{row.edges:,}", f"{row.density:.4g}", size(row.value_bytes), size(row.index_bytes))
    return (row.name or "(the model)", row.kind, shape, *numbers, row.note)
