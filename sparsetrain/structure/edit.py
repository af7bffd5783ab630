"""Edit: a change of edges, which says of each new place where its edge was before."""

from typing import Any, Self

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from .. import checks
from ..arrays import array
from ..with_data import with_data
from .csr import find, row_pointers, sorted_edges
from .edge_sets import positions
from .topology import Topology


class Edit:
    r"""A change of the edges of a topology: which edges stay, and which are added.

    Place k of the new topology has the edge that was in place ``source[k]`` of the old one, or an edge that is newly
    grown, where ``source[k]`` is -1. It is all that is needed to carry anything along that has one entry for each edge:

    .. math:: w'_k = w_{s_k} \ \text{if} \ s_k \ge 0, \ \text{else a value of its own}.

    An edge that is pruned and grown in one edit is newly grown: nothing of the old one is carried along, unless
    ``revive`` is true, when it never went.

    Args:
        topology: what is changed. It stays as it is.
        kept: of its edges those that stay: booleans, one for each edge, or places in the value array, each once.
        grown: (rows, columns) of the edges that come, integers in any order, or None for none.
        revive: whether an edge that is not kept, and grown, stays what it was.

    Attributes:
        before: the topology that is changed.
        topology: the edges afterwards, with the names of the old ones.
        source: for each of them its former place or -1, integers of shape (nnz,).

    Raises:
        ValueError: an edge is grown twice, or is grown and kept; sizes that differ.
        IndexError: a place or an edge out of range. TypeError: no integers, or no topology.

    Example:
        >>> from sparsetrain import Topology
        >>> edit = Edit(Topology.from_mask([[1, 0], [1, 1]]), kept=[True, False, True], grown=([0], [1]))
        >>> edit.topology.to_mask().int().tolist(), edit.source.tolist()
        ([[1, 1], [0, 1]], [0, -1, 2])
        >>> edit.pruned.tolist(), edit.grown.tolist()
        ([1], [1])
    """

    __slots__ = ("_grown", "before", "source", "topology")

    before: Topology
    topology: Topology
    source: Tensor
    _grown: Tensor | None

    @with_data()
    def __init__(
        self, topology: Topology, kept: Any, grown: tuple[Any, Any] | None = None, *, revive: bool = False
    ) -> None:
        where = "Edit"
        if not isinstance(topology, Topology):
            raise TypeError(
                f"{where}: expected a Topology, got {type(topology).__name__}. A layer has it as .topology."
            )
        topology.check_untouched()
        keep = _as_booleans(where, topology, kept)
        crow, col = _grown(where, topology, grown)
        self._set(topology, *_merged(where, topology, keep, crow, col, revive))

    def _set(self, before: Topology, topology: Topology, source: Tensor) -> Self:
        self.before, self.topology, self.source, self._grown = before, topology, source, None
        return self

    @classmethod
    @with_data()
    def between(cls, before: Topology, topology: Topology) -> Self:
        """The edit that leads to another topology of the same shape; edges of both stay.

        Raises:
            ValueError: the shapes differ.

        Example:
            >>> from sparsetrain import Topology
            >>> old, new = Topology.from_mask([[1, 1, 0]]), Topology.from_mask([[0, 1, 1]])
            >>> Edit.between(old, new).source.tolist()
            [1, -1]
        """
        if before.shape != topology.shape:
            raise ValueError(
                f"Edit.between: expected topologies of one shape, got {before.shape} and {topology.shape}."
            )
        topology = topology.to(before.device)
        if before.device.type == "cpu" and COMPILES:
            ours, others = ((array(t.crow), array(t.stored_col)) for t in (before, topology))
            source = torch.from_numpy(kernels.former(*ours, *others))
        else:
            source = find(before.crow, before.stored_col, topology.row.long(), topology.col.long())
        return cls.__new__(cls)._set(before, topology, source.to(before.crow.dtype))

    @property
    def pruned(self) -> Tensor:
        """Positions in the old values of the removed edges, ascending, int64."""
        gone = torch.ones(self.before.nnz, dtype=torch.bool, device=self.before.device)
        gone[self.source[self.source >= 0].long()] = False
        return gone.nonzero().flatten()

    @property
    def grown(self) -> Tensor:
        """Positions in the new values of the added edges, ascending, int64."""
        if self._grown is None:
            self._grown = (self.source < 0).nonzero().flatten()
        return self._grown

    def __repr__(self) -> str:
        return f"Edit({self.before.nnz} edges, {self.pruned.numel()} pruned, {self.grown.numel()} grown)"


def _as_booleans(where: str, t: Topology, kept: Any) -> Tensor:
    if isinstance(kept, Tensor) and kept.dtype is torch.bool and kept.shape == (t.nnz,) and not kept.is_meta:
        return kept.to(t.device)
    place = positions(f"{where}: kept", kept, t, t.device)
    if place is None:
        raise TypeError(f"{where}: expected kept as booleans or places, got None. For all edges pass range(nnz).")
    return torch.zeros(t.nnz, dtype=torch.bool, device=t.device).index_fill_(0, place, True)


def _grown(where: str, t: Topology, grown: Any) -> tuple[Tensor, Tensor]:
    """crow and col of the edges that come, in order."""
    pair: Any = ([], []) if grown is None else checks.listed(grown)
    if pair is None or len(pair) != 2:
        raise TypeError(f"{where}: expected grown = (rows, columns), two sequences of integers, got {grown!r}.")
    rows = checks.indices(where, "rows of grown", pair[0]).to(t.device)
    cols = checks.indices(where, "columns of grown", pair[1]).to(t.device)
    if rows.numel() != cols.numel():
        raise ValueError(f"{where}: expected as many rows as columns in grown, got {rows.numel()} and {cols.numel()}.")
    checks.within(where, "rows of grown", rows, t.shape[0])
    checks.within(where, "columns of grown", cols, t.shape[1])
    rows, cols = sorted_edges(rows, cols, t.shape)
    twice = (rows.diff() == 0) & (cols.diff() == 0)
    if bool(twice.any()):
        k = int(twice.nonzero()[0])
        raise ValueError(
            f"{where}: expected each grown edge once, got (row {int(rows[k])}, column {int(cols[k])}) again."
        )
    return row_pointers(rows, t.shape[0]), cols


def _merged(where: str, t: Topology, keep: Tensor, crow: Tensor, col: Tensor, revive: bool) -> tuple[Topology, Tensor]:
    """The topology of what is kept and what is grown, and where each edge was."""
    edges = int(keep.count_nonzero()) + col.numel()
    if t.device.type == "cpu" and COMPILES:
        *merged, row = kernels.merge(
            array(t.crow),
            array(t.stored_col),
            array(keep),
            array(crow),
            array(col),
            edges,
            torch.get_num_threads(),
            revive,
        )
        if row < 0:
            new_crow, new_col, source = (torch.from_numpy(each) for each in merged)
            return Topology._trusted(new_crow, new_col, t.shape, t.inputs, t.outputs), source
    return _merged_by_torch(where, t, keep, crow, col, revive)


def _merged_by_torch(
    where: str, t: Topology, keep: Tensor, crow: Tensor, col: Tensor, revive: bool = False
) -> tuple[Topology, Tensor]:
    """The plain form, for other devices; it names an edge that is kept and grown."""
    rows = torch.arange(t.shape[0], device=t.device).repeat_interleave(crow.diff(), output_size=col.numel())
    place = find(t.crow, t.stored_col, rows, col)
    stays = (place >= 0) & keep[place.clamp(min=0)] if t.nnz else place >= 0
    if bool(stays.any()):
        k = int(stays.nonzero()[0])
        raise ValueError(
            f"{where}: expected to grow edges that are not there, got (row {int(rows[k])}, column {int(col[k])}), "
            "which is kept. Prune it too, if it is to start anew."
        )
    old = keep.nonzero().flatten()
    row, column = torch.cat([t.row[old].long(), rows]), torch.cat([t.col[old].long(), col])
    source = torch.cat([old, place.long() if revive else torch.full_like(col, -1)])
    order = column.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    new = Topology._trusted(row_pointers(row[order], t.shape[0]), column[order], t.shape, t.inputs, t.outputs)
    return new, source[order].to(t.crow.dtype)
