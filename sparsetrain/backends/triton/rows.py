"""Row steps by Triton's kernels, one for each optimizer: float32 tables without gaps. Others are stepped by torch."""

from typing import Any

import torch
from torch import Tensor

from ..row_gradient import RowGradient
from ..torch import rows as torch_rows

WIDEST = 4096  # row with one sum of squares, which one program adds

gather = torch_rows.gather
total = torch_rows.total
adam_rounded = torch_rows.adam_rounded


def sgd(
    g: RowGradient, weights: Tensor, momentum_buffer: Tensor | None, counts: Tensor | None, l1: float | Tensor,
    **numbers: Any,
) -> None:  # fmt: skip
    _step("sgd", g, (weights, momentum_buffer), (counts,), l1, numbers)


def rmsprop(
    g: RowGradient, weights: Tensor, square_avg: Tensor, grad_avg: Tensor | None, momentum_buffer: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, **numbers: Any,
) -> None:  # fmt: skip
    _step("rmsprop", g, (weights, square_avg, grad_avg, momentum_buffer), (counts,), l1, numbers)


def adagrad(g: RowGradient, weights: Tensor, sums: Tensor, l1: float | Tensor, **numbers: Any) -> None:
    if sums.numel() != weights.numel() and g.dim > WIDEST:
        torch_rows.adagrad(g, weights, sums, l1, **numbers)
    else:
        _step("adagrad", g, (weights, sums), (), l1, numbers)


def adam(
    g: RowGradient, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, **numbers: Any,
) -> None:  # fmt: skip
    _step("adam", g, (weights, exp_avg, exp_avg_sq, max_exp_avg_sq), (counts,), l1, numbers)


def idle_linear(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, buffer: Tensor | None, squares: Tensor | None,
    means: Tensor | None, dim: int,
) -> None:  # fmt: skip
    _catch_up("idle_linear", rows, behind, steps, (weights, buffer, squares, means), dim)


def idle_adam(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None, dim: int, eps: float,
) -> None:  # fmt: skip
    _catch_up("idle_adam", rows, behind, steps, (weights, exp_avg, exp_avg_sq, max_exp_avg_sq), dim, eps)


def _step(
    name: str, g: RowGradient, tables: tuple[Tensor | None, ...], counts: tuple[Tensor | None, ...], l1: float | Tensor,
    numbers: dict[str, Any],
) -> None:  # fmt: skip
    if not _suit(*tables) or g.values.dtype is not torch.float32:
        getattr(torch_rows, name)(g, *tables, *counts, l1, **numbers)
        return
    kernels = _kernels()
    segments = kernels.segments(g.ids, g.values.detach().contiguous(), g.places, g.rising)
    l1 = l1.detach().to(g.values).contiguous() if isinstance(l1, Tensor) else float(l1)
    getattr(kernels, name)(segments, *_plain(tables), *counts, l1, dim=g.dim, **numbers)
    _announce(tables)


def _catch_up(
    name: str, rows: Tensor, behind: Tensor, steps: Tensor, tables: tuple[Tensor | None, ...], dim: int, *numbers: float
) -> None:
    if not _suit(*tables):
        getattr(torch_rows, name)(rows, behind, steps, *tables, dim, *numbers)
        return
    # all of them: to ask for the longest delay would wait for the device
    there = steps.to(rows.device, torch.float32 if name == "idle_adam" else torch.float64, non_blocking=True)
    getattr(_kernels(), name)(rows.contiguous(), behind.contiguous(), there, *_plain(tables), dim, *numbers)
    _announce(tables)


def _suit(*tables: Tensor | None) -> bool:
    return all(table is None or (table.dtype is torch.float32 and table.is_contiguous()) for table in tables)


def _plain(tables: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [None if table is None else table.detach() for table in tables]


def _announce(tables: tuple[Tensor | None, ...]) -> None:
    """Tell autograd what the kernels wrote, so that a graph that still needs the old numbers says so."""
    for table in tables:
        if table is not None:
            torch.autograd.graph.increment_version(table)


def _kernels() -> Any:
    from sparsetrain_triton import rows

    return rows
