"""Matrices that bring weights, in any storage, as edges."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..edges.frames import numbers_in
from ..structure.csr import coordinates


class Entries(NamedTuple):
    """The entries of a matrix that become edges, in any order."""

    row: Tensor
    col: Tensor
    weights: Tensor
    shape: tuple[int, int]


def entries(where: str, matrix: Any) -> Entries:
    """Stored entries of a sparse matrix, explicit zeros among them; those of a dense one that are not zero."""
    if hasattr(matrix, "tocoo"):
        coo = coordinates(where, matrix)
        row, col = (checks.numbers(where, "indices", index) for index in (coo.row, coo.col))
        found = Entries(row, col, checks.numbers(where, "matrix", coo.data), _shape(where, coo.shape))
    elif isinstance(matrix, Tensor) and matrix.layout is not torch.strided:
        shape = _shape(where, matrix.shape)
        _check_whole(where, matrix)
        stored = matrix.detach().to_sparse(layout=torch.sparse_coo)
        if stored.sparse_dim() != 2:
            raise ValueError(f"{where}: expected both dimensions sparse, got {stored.sparse_dim()} sparse of 2.")
        row, col = stored._indices()
        found = Entries(row, col, stored._values(), shape)  # not coalesced: a repeat is to be refused
    else:
        dense = numbers_in(where, matrix) if hasattr(matrix, "columns") else checks.numbers(where, "matrix", matrix)
        dense = checks.comparable(dense)
        shape = _shape(where, dense.shape)
        row, col = dense.nonzero().T
        found = Entries(row, col, dense[row, col], shape)
    if found.weights.is_complex():
        raise TypeError(f"{where}: expected real weights, got {found.weights.dtype}.")
    check_finite_entries(where, *found[:3])
    return found


def _check_whole(where: str, matrix: Tensor) -> None:
    """Indices of compressed tensors are in range: torch does not ask, and converting trusts them."""
    if matrix.layout is torch.sparse_coo:
        return
    by_row = matrix.layout in (torch.sparse_csr, torch.sparse_bsr)
    first = matrix.crow_indices() if by_row else matrix.ccol_indices()
    second = matrix.col_indices() if by_row else matrix.row_indices()
    try:
        torch.sparse_compressed_tensor(
            first, second, matrix.values().detach(), matrix.shape, layout=matrix.layout, check_invariants=True
        )
    except RuntimeError as error:
        fault = str(error).splitlines()[0]
        raise ValueError(
            f"{where}: expected a whole sparse tensor, its indices do not fit together ({fault})."
        ) from None


def check_finite_entries(where: str, row: Tensor, col: Tensor, weights: Tensor) -> None:
    """No weight is NaN or too large for its type; the message names the first."""
    wrong = ~weights.isfinite()
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise ValueError(
            f"{where}: expected finite weights in {weights.dtype}, got {weights[k].item()} at row {int(row[k])}, "
            f"column {int(col[k])}."
        )


def _shape(where: str, shape: Any) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{where}: expected a matrix (out, in), got shape {tuple(shape)}.")
    return int(shape[0]), int(shape[1])
