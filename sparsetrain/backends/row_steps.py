"""Steps over the rows that a sparse gradient names, and the backend that makes them: kernels on a CPU, torch elsewhere
and by request. Both are modules of the same functions, which update tables in place."""

from types import ModuleType

import torch
from torch import Tensor

from ..arrays import lends_memory
from .choice import AUTOMATIC, asked_for, backend_for
from .numba import rows as numba_rows
from .row_gradient import RowGradient, sparse_rows
from .torch import rows as torch_rows
from .triton import rows as triton_rows
from .triton.available import usable

FUSED = (AUTOMATIC, "triton", "blocks")  # what is asked for where rows are stepped by Triton's kernels


def backend_of(parameter: Tensor) -> ModuleType:
    """Where rows of this parameter are stepped: on CPUs by kernels, which need its memory as it is, on CUDA by Triton's
    where it is installed."""
    if backend_for(parameter.device, parameter.dtype) != "numba":
        return triton_rows if usable(parameter.device) and asked_for(parameter.device) in FUSED else torch_rows
    return numba_rows if parameter.is_sparse or lends_memory(parameter) else torch_rows


def coalesced(gradient: Tensor) -> Tensor:
    """A sparse gradient in which each row occurs once, with the sum of its occurrences, in memory of its own."""
    if gradient.dtype not in (torch.float32, torch.float64):
        return gradient.clone().coalesce()
    ids, values = backend_of(gradient).total(RowGradient.of_sparse(gradient))
    return sparse_rows(ids, values, gradient.shape, gradient.sparse_dim())


def catch_up_linear(
    rows: Tensor, behind: Tensor, steps: Tensor, table: Tensor, *, buffer: Tensor | None, squares: Tensor | None,
    means: Tensor | None, dim: int,
) -> None:  # fmt: skip
    """Give rows of a table the last steps in which they were idle, under SGD or RMSprop."""
    backend_of(table).idle_linear(rows, behind, steps, table, buffer, squares, means, dim)


def catch_up_adam(
    rows: Tensor, behind: Tensor, steps: Tensor, table: Tensor, *, exp_avg: Tensor, exp_avg_sq: Tensor,
    max_exp_avg_sq: Tensor | None, dim: int, eps: float,
) -> None:  # fmt: skip
    """Give rows of a table the last steps in which they were idle, under Adam or AdamW."""
    backend_of(table).idle_adam(rows, behind, steps, table, exp_avg, exp_avg_sq, max_exp_avg_sq, dim, eps)
