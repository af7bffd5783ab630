"""Topology: which edges exist. The index structure of a sparse weight matrix, without values."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from .. import checks
from ..with_data import with_data
from . import derived, living
from .constructors import TopologyForms
from .csr import check_canonical, find, row_sizes
from .derived import Transposed as Transposed
from .edge_list import named_nodes
from .index_types import column_type, pointer_type, widened
from .names import Names, checked

T = TypeVar("T")


class Unconnected(NamedTuple):
    """Nodes without edges: their names, or their numbers where nodes have no names."""

    inputs: list[Any]
    outputs: list[Any]


class Topology(TopologyForms):
    r"""The edges of a weight matrix in canonical CSR, immutable and without values.

    Edge :math:`e` of row :math:`i` (an output) joins input ``col[e]`` to it, for ``crow[i] <= e < crow[i + 1]``. Rows
    are sorted, columns are sorted within a row, and no edge is stored twice. Indices are int32 where they fit and
    int64 past that; on a CPU columns are kept in 16 bits where they fit and edges are 4 million or more. Layers share a
    topology; nothing ever writes into it. Kernels trust it: what torch's operations write into its arrays is noticed
    and refused, what is written through ``.data`` or ``.numpy()`` can't be noticed.

    Args:
        crow: row pointers, shape ``(out + 1,)``.
        col: column of each edge, shape ``(nnz,)``.
        shape: ``(out, in)``.
        inputs, outputs: names of the columns and of the rows, or None.

    Raises:
        ValueError: the arrays are not canonical CSR of this shape; the message names the first fault.
        IndexError: a column lies outside ``0..in - 1``.
        TypeError: the indices are not integers.

    Example:
        >>> t = Topology([0, 1, 3], [0, 0, 1], shape=(2, 2))
        >>> t
        Topology(shape=(2, 2), nnz=3, density=0.75)
        >>> t.row.tolist(), t.col.tolist()
        ([0, 1, 1], [0, 0, 1])
    """

    __slots__ = ("__weakref__", "_derived", "_versions", "crow", "inputs", "outputs", "shape", "stored_col")

    crow: Tensor
    stored_col: Tensor  # the columns as they are kept: uint16 where ``col`` is made of them anew
    shape: tuple[int, int]
    inputs: Names
    outputs: Names
    _derived: dict[Callable[["Topology"], Any], Any]
    _versions: int

    @with_data()
    def __init__(
        self,
        crow: Any,
        col: Any,
        shape: Sequence[int],
        *,
        inputs: Sequence[Hashable] | None = None,
        outputs: Sequence[Hashable] | None = None,
    ) -> None:
        where = "Topology"
        size = checks.shape_of_matrix(where, shape)
        crow, col = checks.indices(where, "crow", crow), checks.integers(where, "col", col)
        check_canonical(where, crow, col, size)
        inputs = None if inputs is None else checked(where, "inputs", inputs, size[1])
        outputs = None if outputs is None else checked(where, "outputs", outputs, size[0])
        kind = column_type(size, col.numel(), crow.device)
        self._set(crow, col.to(kind, copy=True), size, inputs, outputs)  # its own, and nothing wider on the way

    def _set(self, crow: Tensor, col: Tensor, shape: tuple[int, int], inputs: Names, outputs: Names) -> Self:
        types = pointer_type(shape, col.numel()), column_type(shape, col.numel(), crow.device)
        with torch.inference_mode(False):  # an inference tensor could not be used in training later
            crow, col = (
                index.clone() if index.is_inference() else index
                for index in (crow.to(types[0]).contiguous(), col.to(types[1]).contiguous())
            )
        attributes = {"crow": crow, "stored_col": col, "shape": shape, "inputs": inputs, "outputs": outputs}
        attributes["_derived"] = {}
        attributes["_versions"] = crow._version + col._version
        for name, value in attributes.items():
            object.__setattr__(self, name, value)
        living.enter(self)
        return self

    @staticmethod
    def living(crow: Tensor, col: Tensor, shape: tuple[int, int]) -> "Topology | None":
        """The existing topology of exactly these arrays, ``crow`` and ``stored_col``, if it is still in use."""
        return living.found(crow, col, shape)

    def check_untouched(self) -> None:
        """Raise an error if the arrays were written to: kernels trust them. Called before each use; costs nothing.

        Raises:
            RuntimeError: they were written to by torch's operations.
        """
        written = self.crow._version + self.stored_col._version - self._versions
        transposed = self._derived.get(derived.transposed)
        if transposed is not None:
            crow_t, col_t, perm = transposed
            written += crow_t._version + col_t._version + perm._version
        if written:
            raise RuntimeError(
                f"the index arrays of {self!r} were written to: it is immutable. Make a new one, Topology(crow, col, "
                "shape), of arrays that were cloned before they were changed."
            )

    @classmethod
    def over(cls, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> Self:
        """A topology that uses these arrays without a copy, after checking that they are canonical."""
        check_canonical("Topology", crow, col, shape)
        return cls._trusted(crow, col, shape)

    @classmethod
    def _trusted(
        cls, crow: Tensor, col: Tensor, shape: tuple[int, int], inputs: Names = None, outputs: Names = None
    ) -> Self:
        """A topology from arrays that are canonical already."""
        return cls.__new__(cls)._set(crow, col, shape, inputs, outputs)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"Topology is immutable: {name} can't be set. Make a new one, for instance with from_coo.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Topology is immutable: {name} can't be deleted.")

    # ---- what it says ----------------------------------------------------------------------------------------------

    @property
    def nnz(self) -> int:
        """Number of edges."""
        return self.stored_col.numel()

    @property
    def col(self) -> Tensor:
        """Column of each edge, shape ``(nnz,)``, int32 or int64; expanded anew at each call where 16 bits are kept."""
        return widened(self.stored_col)

    @property
    def numel(self) -> int:
        """Number of positions, ``out * in``."""
        return self.shape[0] * self.shape[1]

    @property
    def density(self) -> float:
        """``nnz / numel``; 0 for an empty shape."""
        return self.nnz / self.numel if self.numel else 0.0

    @property
    @with_data()
    def row(self) -> Tensor:
        """Row of each edge, shape ``(nnz,)``, expanded anew from ``crow`` at each call."""
        rows = torch.arange(self.shape[0], dtype=self.crow.dtype, device=self.device)
        return rows.repeat_interleave(self.fan_in, output_size=self.nnz)

    @property
    def fan_in(self) -> Tensor:
        """Edges of each row, shape ``(out,)``."""
        return self.crow.diff()

    @property
    def fan_out(self) -> Tensor:
        """Edges of each column, shape ``(in,)``."""
        return row_sizes(self.stored_col, self.shape[1]).to(self.crow.dtype)

    @property
    def unconnected(self) -> Unconnected:
        """Inputs that no edge leaves and outputs that no edge reaches.

        Example:
            >>> Topology.from_edges([("a", "x")], inputs=["a", "b"]).unconnected
            Unconnected(inputs=['b'], outputs=[])
        """
        ends = ((self.inputs, self.fan_out), (self.outputs, self.fan_in))
        return Unconnected(*(named_nodes(names, (fan == 0).nonzero()[:, 0].tolist()) for names, fan in ends))

    @property
    def device(self) -> torch.device:
        """The device of the indices."""
        return self.crow.device

    @property
    def nbytes(self) -> int:
        """Bytes of the indices, and of the plans that were derived from them so far; shared arrays count once."""
        return sum(derived.memory(self).values())

    @property
    def digest(self) -> str:
        """SHA-256 of shape and edges in hexadecimal, equal exactly when these are, on any device and index type."""
        return self.derived(derived.digest)

    def position(self, row: Any, col: Any) -> Tensor:
        """Index of each edge (row, col) in the value array.

        Args:
            row, col: integers or integer tensors that broadcast together.

        Returns:
            int64 tensor of the broadcast shape.

        Raises:
            IndexError: an edge is not stored, or lies outside the shape; the message names it.
            TypeError: row or col does not hold integers.
            ValueError: their shapes do not broadcast together.

        Example:
            >>> t = Topology([0, 1, 3], [0, 0, 1], shape=(2, 2))
            >>> t.position(1, 1).item()
            2
        """
        where = "Topology.position"
        rows, cols = checks.numbers(where, "row", row), checks.numbers(where, "col", col)
        shape = checks.broadcast_shape(where, rows, cols)
        rows = checks.indices(where, "row", rows.expand(shape).reshape(-1)).to(self.device)
        cols = checks.indices(where, "col", cols.expand(shape).reshape(-1)).to(self.device)
        checks.within(where, "row", rows, self.shape[0])
        checks.within(where, "col", cols, self.shape[1])
        place = find(self.crow, self.stored_col, rows, cols)
        if bool((place < 0).any()):
            k = int((place < 0).nonzero()[0])
            raise IndexError(f"{where}: edge (row {int(rows[k])}, column {int(cols[k])}) is not stored.")
        return place.reshape(shape)

    # ---- other forms of the same edges -----------------------------------------------------------------------------

    def to_mask(self) -> Tensor:
        """Boolean matrix (out, in), true at the edges. Dense: for small matrices and for tests."""
        mask = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        mask[self.row.long(), self.col.long()] = True
        return mask

    @with_data()
    def to(self, device: torch.device | str) -> "Topology":
        """The same topology on a device: the same object for the same device, as long as that is in use."""
        device = torch.empty(0, device=device).device  # "cuda" is the current one
        copies = self.derived(derived.copies)
        copy = copies.get(device)
        if copy is None:
            crow, col = self.crow.to(device), self.stored_col.to(device)
            copy = copies[device] = Topology._trusted(crow, col, self.shape, self.inputs, self.outputs)
            copy._derived[derived.copies] = copies
        return copy

    def transpose(self) -> "Topology":
        """The topology of the transposed matrix, shape (in, out): inputs become outputs.

        Its value array is ``values[t.transposed.perm]``.
        """
        return self.derived(derived.transpose)

    @property
    def transposed(self) -> Transposed:
        """The transpose plan, made at first use and kept."""
        return self.derived(derived.transposed)

    def derived(self, build: Callable[["Topology"], T]) -> T:
        """``build(self)``, cached: for everything else that depends only on the structure."""
        kept: T | None = self._derived.get(build)
        if kept is None:
            with with_data():
                kept = self._derived[build] = build(self)
        return kept

    def forget(self, *builds: Callable[["Topology"], Any]) -> None:
        """Free the memory of everything derived; it is computed again when it is needed."""
        for build in builds:
            self._derived.pop(build, None)

    def __repr__(self) -> str:
        return f"Topology(shape={self.shape}, nnz={self.nnz}, density={self.density:.4g})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # immutable, and shared between layers on purpose

    def __reduce__(self) -> tuple[Any, ...]:
        narrow = self.stored_col.dtype is torch.uint16  # which torch writes and can't read
        col = self.stored_col.view(torch.int16) if narrow else self.stored_col
        return _restored, (self.crow, col, self.shape, self.inputs, self.outputs)


def _restored(crow: Tensor, col: Tensor, shape: tuple[int, int], inputs: Names, outputs: Names) -> Topology:
    """From a pickle, which may hold anything."""
    col = col.view(torch.uint16) if col.dtype is torch.int16 else col
    if not crow.is_meta:
        check_canonical("Topology (unpickled)", crow, col, shape)
    return Topology._trusted(crow, col, shape, inputs, outputs)
