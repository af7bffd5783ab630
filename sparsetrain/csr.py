"""Canonical CSR arrays: sorting edges into them, and proving that they are canonical."""

import torch
from torch import Tensor

from . import checks


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
        raise ValueError(f"{where}: expected crow not to fall, got crow[{i}] = {int(crow[i])} > crow[{i + 1}] = {int(crow[i + 1])}.")
    checks.within(where, "col", col, columns)
    starts = torch.zeros(col.numel() + 1, dtype=torch.bool, device=col.device)
    starts[crow] = True
    wrong = (col.diff() <= 0) & ~starts[1:-1] if col.numel() > 1 else starts[:0]
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        i = int(torch.searchsorted(crow, torch.tensor(k, device=crow.device), right=True)) - 1
        fault = "twice" if int(col[k]) == int(col[k + 1]) else f"before {int(col[k + 1])}"
        raise ValueError(
            f"{where}: expected columns to rise within a row, got column {int(col[k])} {fault} in row {i}. "
            "Topology.from_coo sorts edges."
        )


def sorted_edges(row: Tensor, col: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The edges by row, then by column."""
    if shape[0] * shape[1] < 2**63:
        key = row * shape[1] + col
        if not bool((key.diff() < 0).any()):
            return row, col
        key = key.sort().values
        return key.div(shape[1], rounding_mode="floor"), key.remainder(shape[1])
    order = col.argsort()  # positions that no int64 can number: two stable sorts
    order = order[row[order].argsort(stable=True)]
    return row[order], col[order]


def row_pointers(row: Tensor, rows: int) -> Tensor:
    """crow of edges in the order of their rows, shape (rows + 1,)."""
    crow = torch.zeros(rows + 1, dtype=torch.int64, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=rows), 0, out=crow[1:])
    return crow
