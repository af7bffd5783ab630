"""Matrices of Binsparse, the format in which libraries of sparse matrices exchange files, in and out."""

from typing import Any

import torch
from torch import Tensor

from ..arrays import array
from ..extras import needed
from ..structure.csr import coordinates
from ..structure.topology import Topology


def from_binsparse(tensor: Any) -> tuple[Topology, Tensor]:
    """The edges of a matrix of the package binsparse, and their values.

    Rows are outputs and columns inputs. Explicit zeros stay edges.

    Args:
        tensor: of shape ``(out, in)``, compressed by rows or columns, or coordinates, as binsparse.load_binsparse
            reads it.

    Returns:
        Topology, and values of shape ``(nnz,)`` in its order.

    Raises:
        ModuleNotFoundError: binsparse is not installed. TypeError: it is no such matrix. ValueError: indices out of
            range, an entry twice, or a fill value that is not zero.

    Example:
        >>> t = Topology.from_mask([[1, 0], [1, 1]])
        >>> from_binsparse(to_binsparse(t, torch.ones(3)))
        (Topology(shape=(2, 2), nnz=3, density=0.75), tensor([1., 1., 1.]))
    """
    where = "io.from_binsparse"
    binsparse = needed(where, "binsparse")
    scipy = needed(where, "binsparse.conversions.scipy")
    if not isinstance(tensor, binsparse.BinsparseTensor):
        raise TypeError(f"{where}: expected a matrix of the package binsparse, got {type(tensor).__name__}.")
    try:
        matrix = scipy.to_scipy(tensor)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: expected a matrix of numbers at coordinates: {error}.") from None
    found = coordinates(where, matrix)
    row, col, values = (torch.from_numpy(each.copy()) for each in (found.row, found.col, found.data))
    t = Topology.from_coo(row, col, matrix.shape)
    return t, torch.empty_like(values).index_copy_(0, t.position(row, col), values)


def to_binsparse(topology: Topology, values: Tensor) -> Any:
    """The binsparse.CSRMatrix with these edges and values, rows being outputs; binsparse.save_binsparse writes it.

    Args:
        topology: of the edges; names of inputs and outputs are not in it.
        values: shape ``(nnz,)``, float32 or float64.

    Raises:
        ModuleNotFoundError: binsparse is not installed. ValueError: another number of values.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(20, 10, density=0.1)
        >>> to_binsparse(layer.topology, layer.values).format
        'CSR'
    """
    where = "io.to_binsparse"
    binsparse = needed(where, "binsparse")
    if values.shape != (topology.nnz,):
        raise ValueError(f"{where}: expected {topology.nnz} values, got shape {tuple(values.shape)}.")
    crow, col, numbers = (array(each.detach().cpu().clone()) for each in (topology.crow, topology.col, values))
    return binsparse.CSRMatrix(topology.shape, topology.nnz, pointers_to_1=crow, indices_1=col, values=numbers)
