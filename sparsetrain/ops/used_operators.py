"""Products with an input most of whose columns are zero as operators of graphs, which are traced before anybody knows
the columns: these are found each time that the graph runs, and the gradient of the values names their edges alone."""

from typing import Any

import torch
from torch import Tensor

from ..backends.choice import BACKENDS
from ..backends.layout import empty_like_layout, sum_over_batch
from ..backends.row_gradient import sparse_rows
from ..dtypes import wide, widened
from ..structure.topology import Topology
from ..tracing import beside
from . import library
from .flop_formulas import flop_formula
from .gradient_factors import tell
from .used_columns import rows_of, used_columns

_library = torch.library.Library("sparsetrain", "FRAGMENT")
_library.define("spmm_used(Tensor crow, Tensor col, Tensor values, Tensor x, Tensor? bias, str backend) -> Tensor")
_library.define("gradient_used(Tensor crow, Tensor col, Tensor a, Tensor b, str backend) -> Tensor")  # sparse
_ops = torch.ops.sparsetrain


def spmm_used(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    """W x + bias by the edges that x uses, in a graph."""
    crow, col = beside((t.crow, t.stored_col), x)
    return _ops.spmm_used(crow, col, values, x, bias, backend)  # type: ignore[no-any-return]


@torch.library.impl(_library, "spmm_used", "CompositeExplicitAutograd")
def _spmm_used(crow: Tensor, col: Tensor, values: Tensor, x: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    t = library.topology_of(crow, col, x.shape[0])
    outputs, inputs = t.shape
    expected = ("values", values, (t.nnz,)), ("x", x, (inputs, *x.shape[1:2])), ("bias", bias, (outputs,))
    library.check("sparsetrain::spmm_used", t, *expected)
    used = used_columns(t, x, backend)
    return BACKENDS[backend].spmm(used.topology, values[used.edges], rows_of(x, used.columns), bias, False)


@torch.library.impl(_library, "gradient_used", "CompositeExplicitAutograd")
def _gradient_used(crow: Tensor, col: Tensor, a: Tensor, b: Tensor, backend: str) -> Tensor:
    t = library.topology_of(crow, col, b.shape[0])
    expected = ("a", a, (t.shape[0], *b.shape[1:2])), ("b", b, (t.shape[1], *b.shape[1:2]))
    library.check("sparsetrain::gradient_used", t, *expected)
    tell(t, a, b)
    used = used_columns(t, b, backend)
    of_edges = BACKENDS[backend].sddmm(used.topology, a, rows_of(b, used.columns))
    return sparse_rows(used.edges, of_edges, torch.Size([t.nnz]))


@torch.library.register_fake("sparsetrain::spmm_used", lib=_library)
def _fake_spmm(crow: Tensor, col: Tensor, values: Tensor, x: Tensor, bias: Tensor | None, backend: str) -> Tensor:
    return empty_like_layout(x, crow.shape[0] - 1)


@torch.library.register_fake("sparsetrain::gradient_used", lib=_library)
def _fake_gradient(crow: Tensor, col: Tensor, a: Tensor, b: Tensor, backend: str) -> Tensor:
    edges = col.shape[0]  # at most; graphs depend on the shape of a sparse tensor, not on how much it holds
    indices = a.new_empty((1, edges), dtype=torch.int64)
    numbers = a.new_empty(edges, dtype=wide(a.dtype))
    return torch.sparse_coo_tensor(indices, numbers, (edges,), is_coalesced=True, check_invariants=False)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, values, x = ctx.saved_tensors
    _, _, for_values, for_x, for_bias, _ = ctx.needs_input_grad
    dvalues = _ops.gradient_used(crow, col, dy, x, ctx.backend) if for_values else None
    dx = _ops.spmm(crow, col, values, dy, None, x.shape[0], True, ctx.backend) if for_x else None
    return None, None, dvalues, dx, sum_over_batch(widened(dy)) if for_bias else None, None


def _keep_factors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _second_gradients(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, a, b = ctx.saved_tensors
    _, _, for_a, for_b, _ = ctx.needs_input_grad
    dense = dout.to_dense() if dout.is_sparse else dout
    da = _ops.spmm(crow, col, dense, b, None, b.shape[0], False, ctx.backend) if for_a else None
    db = _ops.spmm(crow, col, dense, a, None, b.shape[0], True, ctx.backend) if for_b else None
    return None, None, da, db, None


torch.library.register_autograd("sparsetrain::spmm_used", _gradients, setup_context=_keep, lib=_library)
torch.library.register_autograd(
    "sparsetrain::gradient_used", _second_gradients, setup_context=_keep_factors, lib=_library
)


def _flops_of_spmm(crow: Any, col: Any, values: Any, x: Any, *_: Any, **__: Any) -> int:
    return 2 * int(col[0]) * int(x[1])  # at most: of all edges


def _flops_of_gradient(crow: Any, col: Any, a: Any, *_: Any, **__: Any) -> int:
    return 2 * int(col[0]) * int(a[1])


flop_formula(_ops.spmm_used, _flops_of_spmm)
flop_formula(_ops.gradient_used, _flops_of_gradient)
