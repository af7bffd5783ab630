"""Canonical CSR arrays: making them from edges in any order, proving that they are canonical, finding edges in them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checks
from ..arrays import array
from .index_types import pieces, taken

COUNTABLE = 2**63  # positions of a matrix that int64 numbers: 0 to rows * columns - 1, row by row


def check_canonical(where: str, crow: Tensor, col: Tensor, shape: tuple[int, int]) -> None:
    """Rows sorted, columns rising within a row, every index in range; the message names the first fault."""
    rows, columns = shape
    if crow.numel() != rows + 1:
        raise ValueError(f"{where}: expected crow of length out + 1 = {rows + 1}, got {crow.numel()}.")
    if int(crow[0]) != 0 or int(crow[-1]) != col.numel():
        raise ValueError(
            f"{where}: expected crow to run from 0 to nnz = {col.numel()}, got {int(crow[0])} to {int(crow[-1])}."
        )
    falls = crow.diff() < 0
    if bool(falls.any()):
        i = int(falls.nonzero()[0])
        raise ValueError(
            f"{where}: expected crow not to fall, got crow[{i}] = {int(crow[i])} > crow[{i + 1}] = {int(crow[i + 1])}."
        )
    for first, piece in pieces(col):
        checks.within(where, "col", piece, columns, first)
    for first, piece in pieces(col, overlap=1):
        wrong = (piece.diff() <= 0) & ~_starts(crow, first + 1, piece.numel() - 1)
        if not bool(wrong.any()):
            continue
        k = first + int(wrong.nonzero()[0])
        i = int(torch.searchsorted(crow, torch.tensor(k, device=crow.device), right=True)) - 1
        fault = "twice" if int(col[k]) == int(col[k + 1]) else f"before {int(col[k + 1])}"
        raise ValueError(
            f"{where}: expected columns to rise within a row, got column {int(col[k])} {fault} in row {i}. "
            "Topology.from_coo sorts edges."
        )


def _starts(crow: Tensor, first: int, count: int) -> Tensor:
    """Which of so many edges, from the first on, begin a row."""
    bounds = torch.tensor([first, first + count], dtype=crow.dtype, device=crow.device)
    low, high = torch.searchsorted(crow, bounds).tolist()
    return torch.zeros(count, dtype=torch.bool, device=crow.device).index_fill_(0, crow[low:high].long() - first, True)


def compressed(
    where: str,
    row: Any,
    col: Any,
    shape: tuple[int, int],
    duplicates: str,
    advice: str = 'Pass duplicates="merge" to keep each edge once.',
) -> tuple[Tensor, Tensor]:
    """crow and col of edges (row, col) in any order."""
    if not isinstance(duplicates, str) or duplicates not in ("error", "merge"):
        raise ValueError(f"{where}: expected duplicates to be 'error' or 'merge', got {duplicates!r}.")
    row, col = checks.indices(where, "row", row), checks.indices(where, "col", col)
    if row.numel() != col.numel():
        raise ValueError(f"{where}: expected as many rows as columns, got {row.numel()} and {col.numel()}.")
    checks.within(where, "row", row, shape[0])
    checks.within(where, "col", col, shape[1])
    row, col = sorted_edges(row, col, shape)
    twice = (row.diff() == 0) & (col.diff() == 0)
    if bool(twice.any()):
        if duplicates == "error":
            k = int(twice.nonzero()[0])
            raise ValueError(
                f"{where}: expected distinct edges, got edge (row {int(row[k])}, column {int(col[k])}) more than "
                f"once. {advice}"
            )
        keep = torch.cat([twice.new_ones(1), ~twice])
        row, col = row[keep], col[keep]
    return row_pointers(row, shape[0]), col


def coordinates(where: str, matrix: Any) -> Any:
    """A scipy matrix in COO form, its arrays checked before: scipy trusts them, and writes past their ends."""
    try:
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)
        return matrix.tocoo()
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{where}: expected a whole scipy matrix, the arrays of this {type(matrix).__name__} do not fit together "
            f"({error})."
        ) from None


def masked(where: str, mask: Any) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """crow, col and shape of the edges where a matrix of zeros and ones is one."""
    mask = checks.comparable(checks.numbers(where, "mask", mask))
    if mask.ndim != 2:
        raise ValueError(f"{where}: expected a matrix (out, in), got shape {tuple(mask.shape)}.")
    if mask.dtype is not torch.bool:
        other = (mask != 0) & (mask != 1)  # NaN is neither
        if bool(other.any()):
            i, j = (int(k) for k in other.nonzero()[0])
            raise ValueError(
                f"{where}: expected only 0 and 1, got {mask[i, j].item()} at ({i}, {j}). A mask says which edges "
                "exist, it does not scale them; pass mask != 0 if that is meant."
            )
    row, col = mask.nonzero().T
    return row_pointers(row, mask.shape[0]), col, (mask.shape[0], mask.shape[1])


def sorted_edges(row: Tensor, col: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The edges by row, then by column."""
    if shape[0] * shape[1] < COUNTABLE:
        position = row * shape[1] + col
        if not bool((position.diff() < 0).any()):
            return row, col
        position = ascending(position)
        return position.div(shape[1], rounding_mode="floor"), position.remainder(shape[1])
    order = col.argsort()  # two stable sorts
    order = order[row[order].argsort(stable=True)]
    return row[order], col[order]


def from_positions(position: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """crow and col of edges given as rising positions, ``row * columns + col``."""
    rows, columns = shape
    firsts = torch.arange(rows + 1, device=position.device) * columns
    return torch.searchsorted(position, firsts), position % columns


def row_pointers(row: Tensor, rows: int) -> Tensor:
    """crow of edges in the order of their rows, shape (rows + 1,)."""
    crow = torch.zeros(rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(row_sizes(row, rows), 0, out=crow[1:])
    return crow


def row_sizes(row: Tensor, rows: int) -> Tensor:
    """How many edges each row has, of the rows of all edges; or each column, of their columns. int64."""
    sizes = torch.zeros(rows, dtype=torch.int64, device=row.device)
    for _, piece in pieces(row):
        sizes += torch.bincount(piece, minlength=rows)
    return sizes


def find(crow: Tensor, col: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Index of each edge (row, column), -1 where it is not stored: a binary search in all the rows at once."""
    low, stop = crow[rows].long(), crow[rows + 1].long()
    high = stop
    longest = int((stop - low).max()) if rows.numel() else 0
    for _ in range(longest.bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (taken(col, middle.clamp(max=col.numel() - 1)).long() < columns)
        low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
    found = low < stop
    found[found.clone()] = taken(col, low[found]).long() == columns[found]
    return torch.where(found, low, -1)


def ascending(numbers: Tensor) -> Tensor:
    """The numbers, sorted."""
    if numbers.device.type == "cpu":
        return torch.from_numpy(np.sort(array(numbers)))  # vectorized, and several times as fast as torch's
    return numbers.sort().values
