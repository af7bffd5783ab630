"""A Topology from other forms of the same edges: index pairs, a mask, scipy's matrices, named edges."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..with_data import with_data
from .csr import compressed, coordinates, masked, row_pointers
from .edge_list import EdgeList, edge_list
from .names import Names, numbered


class TopologyForms(ABC):
    """The constructors; the class itself makes an object of arrays that are canonical CSR already."""

    __slots__ = ()

    @classmethod
    @abstractmethod
    def _trusted(
        cls, crow: Tensor, col: Tensor, shape: tuple[int, int], inputs: Names = None, outputs: Names = None
    ) -> Self:
        """A topology from arrays that are canonical already."""

    @classmethod
    @with_data()
    def from_coo(
        cls, row: Any, col: Any, shape: Sequence[int], *, duplicates: Literal["error", "merge"] = "error"
    ) -> Self:
        """The edges (row, col) = (output, input), in any order.

        Args:
            row, col: indices, shape ``(nnz,)`` each.
            shape: ``(out, in)``.
            duplicates: ``"error"`` refuses an edge that is given twice, ``"merge"`` keeps it once.

        Raises:
            IndexError: an index is negative or too large.
            ValueError: an edge is given twice, or the lengths differ.
            TypeError: the indices are not integers.

        Example:
            >>> from sparsetrain import Topology
            >>> Topology.from_coo(row=[1, 0], col=[1, 0], shape=(2, 2)).col.tolist()
            [0, 1]
        """
        where = "Topology.from_coo"
        size = checks.shape_of_matrix(where, shape)
        return cls._trusted(*compressed(where, row, col, size, duplicates), size)

    @classmethod
    @with_data()
    def from_mask(cls, mask: Any) -> Self:
        """The edges where a matrix of zeros and ones is one.

        Args:
            mask: tensor or array, shape ``(out, in)``, of booleans or of numbers 0 and 1.

        Raises:
            ValueError: the mask holds another value, or is not a matrix.
            TypeError: the mask does not hold numbers.

        Example:
            >>> from sparsetrain import Topology
            >>> Topology.from_mask([[1, 0], [1, 1]]).nnz
            3
        """
        return cls._trusted(*masked("Topology.from_mask", mask))

    @classmethod
    @with_data()
    def from_scipy(cls, matrix: Any, *, duplicates: Literal["error", "merge"] = "error") -> Self:
        """The stored entries of a scipy sparse matrix or array of any format, explicit zeros among them.

        Args:
            matrix: shape ``(out, in)``.
            duplicates: ``"error"`` refuses an entry that is stored twice, ``"merge"`` keeps its edge once.

        Raises:
            TypeError: the matrix is not a sparse one, or not two-dimensional.
            ValueError: an entry is stored twice.

        Example:
            >>> from sparsetrain import Topology
            >>> from scipy.sparse import eye_array
            >>> Topology.from_scipy(eye_array(3)).nnz
            3
        """
        where = "Topology.from_scipy"
        if not hasattr(matrix, "tocoo") or len(matrix.shape) != 2:
            raise TypeError(
                f"{where}: expected a two-dimensional scipy.sparse matrix or array, got {type(matrix).__name__}."
            )
        coo = coordinates(where, matrix)
        size = checks.shape_of_matrix(where, coo.shape)
        return cls._trusted(*compressed(where, coo.row, coo.col, size, duplicates), size)

    @classmethod
    @with_data()
    def from_edges(
        cls, pairs: Any, *, inputs: Sequence[Hashable] | None = None, outputs: Sequence[Hashable] | None = None
    ) -> Self:
        """Edges (source, target) = (input, output) between named nodes; the topology keeps the names.

        Args:
            pairs: pairs, or a data frame with columns ``source`` and ``target``.
            inputs, outputs: names of all columns and of all rows, in order. Without them, ``inputs`` and
                ``outputs`` of ``frame.attrs``, where layer.edges() keeps them, else the names that occur, in order of
                appearance. Names are kept as text.

        Raises:
            ValueError: a name is unknown or missing, two names read alike as text, an edge is given twice or is no
                pair, or the frame lacks a column.
            TypeError: pairs, inputs or outputs can't be iterated over.

        Example:
            >>> from sparsetrain import Topology
            >>> t = Topology.from_edges([("TP53", "apoptosis"), ("MYC", "cycle")])
            >>> t.inputs, t.outputs
            (('TP53', 'MYC'), ('apoptosis', 'cycle'))
        """
        where = "Topology.from_edges"
        return cls.linked(where, edge_list(where, pairs), inputs, outputs)[0]

    @classmethod
    @with_data()
    def linked(
        cls, where: str, edges: EdgeList, inputs: Sequence[Hashable] | None, outputs: Sequence[Hashable] | None
    ) -> tuple[Self, Tensor]:
        """The topology of named edges, and for each of its edges the number of that edge in the list."""
        col, inputs = numbered(where, "inputs", edges.sources, inputs, edges.inputs)
        row, outputs = numbered(where, "outputs", edges.targets, outputs, edges.outputs)
        order = np.lexsort((col, row))
        row, col = row[order], col[order]
        twice = (np.diff(row) == 0) & (np.diff(col) == 0)
        if twice.any():
            edge = edges.name(order[twice.argmax()])
            raise ValueError(f"{where}: expected distinct edges, got {edge} more than once. Drop the repeats.")
        crow = row_pointers(torch.from_numpy(row), len(outputs))
        topology = cls._trusted(crow, torch.from_numpy(col), (len(outputs), len(inputs)), inputs, outputs)
        return topology, torch.from_numpy(order)
