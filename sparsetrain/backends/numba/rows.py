"""Row steps on a CPU: tensors as flat arrays, and the kernels of sparsetrain_kernels.rows."""

from typing import Any

import numpy as np
import torch
from sparsetrain_kernels import rows as kernels
from torch import Tensor

from ...arrays import Array, array, flat
from ..row_gradient import RowGradient


def gather(ids: Tensor, table: Tensor) -> Tensor:
    if not table.is_contiguous():
        return table.index_select(0, ids)
    out = table.new_empty(ids.numel(), table.shape[1])
    kernels.gather(flat(ids), flat(table), flat(out), table.shape[1], torch.get_num_threads())
    return out


def total(g: RowGradient) -> tuple[Tensor, Tensor]:
    out = g.values.new_empty(g.groups.rows.size, g.dim)
    kernels.total(g.groups, flat(g.values), flat(out), g.dim, torch.get_num_threads())
    return g.used, out


def sgd(
    g: RowGradient, weights: Tensor, momentum_buffer: Tensor | None, counts: Tensor | None, l1: float | Tensor,
    **numbers: Any,
) -> None:  # fmt: skip
    _step(kernels.sgd, g, (weights, momentum_buffer), l1, counts=_counts(counts), **numbers)


def rmsprop(
    g: RowGradient, weights: Tensor, square_avg: Tensor, grad_avg: Tensor | None, momentum_buffer: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, **numbers: Any,
) -> None:  # fmt: skip
    tables = (weights, square_avg, grad_avg, momentum_buffer)
    _step(kernels.rmsprop, g, tables, l1, counts=_counts(counts), **numbers)


def adagrad(g: RowGradient, weights: Tensor, sums: Tensor, l1: float | Tensor, **numbers: Any) -> None:
    _step(kernels.adagrad, g, (weights, sums), l1, rowwise=sums.numel() != weights.numel(), **numbers)


def adam(
    g: RowGradient, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor | None,
    counts: Tensor | None, l1: float | Tensor, **numbers: Any,
) -> None:  # fmt: skip
    tables = (weights, exp_avg, exp_avg_sq, max_exp_avg_sq)
    _step(kernels.adam, g, tables, l1, counts=_counts(counts), **numbers)


def adam_rounded(
    gradients: Tensor, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, counts: Tensor | None, **numbers: Any
) -> None:
    means, squares = (array(moment.view(torch.uint16).view(-1)) for moment in (exp_avg, exp_avg_sq))
    kernels.adam_rounded(
        flat(gradients), flat(weights), means, squares, _counts(counts), threads=torch.get_num_threads(), **numbers
    )
    _announce(weights, exp_avg, exp_avg_sq)


def idle_linear(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, buffer: Tensor | None, squares: Tensor | None,
    means: Tensor | None, dim: int,
) -> None:  # fmt: skip
    _idle(kernels.idle_linear, rows, behind, steps, (weights, buffer, squares, means), dim=dim)


def idle_adam(
    rows: Tensor, behind: Tensor, steps: Tensor, weights: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None, dim: int, eps: float,
) -> None:  # fmt: skip
    _idle(kernels.idle_adam, rows, behind, steps, (weights, exp_avg, exp_avg_sq, max_exp_avg_sq), dim=dim, eps=eps)


def _step(kernel: Any, g: RowGradient, tables: tuple[Tensor | None, ...], l1: float | Tensor, **numbers: Any) -> None:
    arrays = _tables(*tables)
    one = arrays[0][:0] if not isinstance(l1, Tensor) else flat(l1.to(g.values))
    kernel(
        g.groups, flat(g.values), *arrays, dim=g.dim, l1_values=one,
        l1=0.0 if isinstance(l1, Tensor) else float(l1), threads=torch.get_num_threads(), **numbers,
    )  # fmt: skip
    _announce(*tables)


def _idle(
    kernel: Any, rows: Tensor, behind: Tensor, steps: Tensor, tables: tuple[Tensor | None, ...], **numbers: Any
) -> None:
    arrays = (array(rows), array(behind), array(steps), *_tables(*tables))
    kernel(*arrays, threads=torch.get_num_threads(), **numbers)
    _announce(*tables)


def _tables(weights: Tensor | None, *states: Tensor | None) -> list[Array]:
    """Tables as arrays; one that is not kept is an array of size 0."""
    nothing = flat(weights)[:0]  # type: ignore[arg-type]  # weights always are
    return [nothing if table is None else flat(table) for table in (weights, *states)]


def _counts(counts: Tensor | None) -> Array:
    return np.empty(0, np.int32) if counts is None else array(counts)


def _announce(*tensors: Tensor | None) -> None:
    """Tell autograd what the kernels wrote, so that a graph that still needs the old numbers says so."""
    for tensor in tensors:
        if tensor is not None:
            torch.autograd.graph.increment_version(tensor)
