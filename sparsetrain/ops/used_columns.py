"""Products with an input most of whose columns are zero, as one-hot codes and bags of words are: only the edges of the
other columns are read, and the gradient of the values names them alone."""

from typing import Any, NamedTuple

import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..backends.layout import is_feature_major, sum_over_batch
from ..backends.numba import products as numba_products
from ..backends.row_gradient import sparse_rows
from ..dtypes import widened
from ..edges.pending import bring_up_to_date
from ..edges.weights import changed_since, edge_changes
from ..structure.topology import Topology
from .autograd import backend_of, check_edges, sddmm, spmm
from .gradient_factors import listening, tell


class Used(NamedTuple):
    """The part of a topology that some of its columns make: shape (out, used), and where its edges are in the whole."""

    columns: Tensor  # (used,) ascending
    topology: Topology
    edges: Tensor  # (its nnz,) ascending


def used_columns(t: Topology, x: Tensor, backend: str) -> Used:
    """The part of t that the columns make in which x, (in, batch), is not zero throughout; NaN is not zero."""
    columns = (numba_products.used(x) if _by_kernels(x, backend) else (x != 0).any(1)).nonzero().flatten()
    crow_t, col_t, perm = t.transposed
    starts = crow_t[columns].long()
    counts = crow_t[columns + 1].long() - starts
    crow = torch.zeros(columns.numel() + 1, dtype=torch.int64, device=x.device)
    torch.cumsum(counts, 0, out=crow[1:])
    # edge k of the part is edge k + (start of its column in the whole - start in the part) of the transposed whole
    places = torch.arange(int(crow[-1]), device=x.device) + torch.repeat_interleave(starts - crow[:-1], counts)
    part = Topology._trusted(crow, col_t[places], (columns.numel(), t.shape[0]))
    return Used(columns, part.transpose(), perm[places][part.transposed.perm.long()].long())


def spmm_used(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    """W x + bias by the edges that x uses; outside of compiled graphs and function transforms."""
    if has_torch_function_unary(values):
        return handle_torch_function(spmm_used, (values,), t, values, x, bias, backend)
    used = used_columns(t, x, backend)
    # the gradient of x reads every edge
    bring_up_to_date(values, None if x.requires_grad else used.edges)
    return UsedSpMM.apply(t, used, values, x, bias, backend)  # type: ignore[no-untyped-call,no-any-return]


class UsedSpMM(Function):
    """y = W x + bias. The gradient of the values is sparse over edges; that of x is whole, unused inputs have one."""

    @staticmethod
    def forward(
        ctx: Any, t: Topology, used: Used, values: Tensor, x: Tensor, bias: Tensor | None, backend: str
    ) -> Tensor:
        ctx.t, ctx.used, ctx.backend = t, used, backend
        for_x = ctx.needs_input_grad[3]
        part = rows_of(x, used.columns)
        ctx.values, ctx.changes = values, edge_changes(values)
        # values only where they are read again: they may be brought up to date before that
        ctx.save_for_backward(x if for_x else part, values if for_x else None)
        return backend_of(backend, values, part, bias).spmm(used.topology, values[used.edges], part, bias, False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, values = ctx.saved_tensors
        _, _, for_values, for_x, for_bias, _ = ctx.needs_input_grad
        used = ctx.used
        if edge_changes(ctx.values) != ctx.changes:
            raise changed_since()
        dvalues = dx = None
        if for_values:
            again = torch.is_grad_enabled()  # it is differentiated again
            part = rows_of(x, used.columns) if for_x else x
            if listening(ctx.t):
                tell(ctx.t, dy, x if for_x else _whole(part, used.columns, ctx.t.shape[1]))
            if again and for_x:  # at an edge of a column of zeros it is zero, but its derivative by x is not
                edges = torch.arange(ctx.t.nnz, device=x.device)
                dvalues = _sparse(edges, sddmm(ctx.t, dy, x, ctx.backend), torch.Size([ctx.t.nnz]))
            else:
                of_edges = sddmm(used.topology, dy, part, ctx.backend)
                by_edges = _sparse if again else sparse_rows
                dvalues = by_edges(used.edges, of_edges, torch.Size([ctx.t.nnz]))
        if for_x:
            check_edges(ctx.t, values)
            dx = spmm(ctx.t, values, dy, None, True, ctx.backend)
        return None, None, dvalues, dx, sum_over_batch(widened(dy)) if for_bias else None, None


def _sparse(edges: Tensor, numbers: Tensor, shape: torch.Size) -> Tensor:
    """With a graph behind it."""
    return torch.sparse_coo_tensor(edges[None], numbers, shape, check_invariants=False)


def _by_kernels(x: Tensor, backend: str) -> bool:
    return COMPILES and x.device.type == "cpu" and backend != "torch"


def rows_of(x: Tensor, columns: Tensor) -> Tensor:
    """Some features of x, (in, batch), in its layout."""
    return x.index_select(0, columns) if is_feature_major(x) else x.t().index_select(1, columns).t()


def _whole(part: Tensor, columns: Tensor, features: int) -> Tensor:
    """All features, zero but for these rows."""
    return part.new_zeros(features, part.shape[1]).index_copy_(0, columns, part)
