"""The same two operations as torch.library operators, for torch.compile and torch.export, which can neither trace an
autograd function with a jvp nor carry a Topology: its arrays go in, and the plans are found again by them."""

from typing import Any

import torch
from torch import Tensor

from ..backends.choice import BACKENDS
from ..backends.layout import empty_like_layout, sum_over_batch
from ..dtypes import FLOATS, HALVES, wide, widened
from ..structure.topology import Topology
from ..tracing import beside
from .flop_formulas import flop_formula
from .gradient_factors import tell

_library = torch.library.Library("sparsetrain", "DEF")
for _schema in (
    "spmm(Tensor crow, Tensor col, Tensor values, Tensor x, Tensor? bias, int columns, bool transpose, str backend)"
    " -> Tensor",
    "sddmm(Tensor crow, Tensor col, Tensor a, Tensor b, str backend) -> Tensor",
    "gradient(Tensor crow, Tensor col, Tensor a, Tensor b, str backend) -> Tensor",  # sddmm, of a backward pass
    "backward(Tensor crow, Tensor col, Tensor values, Tensor x, Tensor dy, bool bias, str backend)"
    " -> (Tensor, Tensor, Tensor)",
):
    _library.define(_schema)
_ops = torch.ops.sparsetrain


class Operators:
    """The operators in the form of a backend, whose name they carry."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def spmm(self, t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
        crow, col = beside((t.crow, t.stored_col), x)
        return _ops.spmm(crow, col, values, x, bias, t.shape[1], transpose, self.backend)  # type: ignore[no-any-return]

    def sddmm(self, t: Topology, a: Tensor, b: Tensor) -> Tensor:
        crow, col = beside((t.crow, t.stored_col), a)
        return _ops.sddmm(crow, col, a, b, self.backend)  # type: ignore[no-any-return]

    def backward(
        self, t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        crow, col = beside((t.crow, t.stored_col), x)
        return _ops.backward(crow, col, values, x, dy, bias, self.backend)  # type: ignore[no-any-return]


def topology_of(crow: Tensor, col: Tensor, columns: int) -> Topology:
    """The topology of these arrays: the living one, or in a graph that was loaded a new one that stays with them.
    Anybody can call an operator with anything, and kernels check nothing."""
    if crow.ndim != 1 or not crow.numel():
        raise ValueError(f"Topology: expected crow of shape (out + 1,), got {tuple(crow.shape)}.")
    shape = (crow.numel() - 1, columns)
    known = Topology.living(crow, col, shape)
    if known is None:
        # over other tensors of the same memory: one that keeps itself lives until cycles are collected
        known = Topology.over(crow.detach(), col.detach(), shape)
        crow._sparsetrain = known  # type: ignore[attr-defined]
    return known


def check(where: str, t: Topology, *expected: tuple[str, Tensor | None, tuple[int, ...]]) -> None:
    """Operands of the shapes that are expected, in one dtype; matrices may be half precision beside float32 values."""
    matrices = {operand.dtype for _, operand, shape in expected if operand is not None and len(shape) == 2}
    vectors = {operand.dtype for _, operand, shape in expected if operand is not None and len(shape) == 1}
    for name, operand, shape in expected:
        if operand is not None and operand.shape != shape:
            raise ValueError(f"{where}: expected {name} of shape {shape} for {t!r}, got {tuple(operand.shape)}.")
    one = len(matrices) == 1 and matrices <= {*FLOATS, *HALVES}
    if not one or not vectors <= {wide(dtype) for dtype in matrices}:
        raise TypeError(
            f"{where}: expected operands in one dtype, float32 or float64, or matrices in half precision beside "
            f"float32 values, got {sorted(map(str, matrices | vectors))}."
        )


@torch.library.impl(_library, "spmm", "CompositeExplicitAutograd")
def _spmm(
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    x: Tensor,
    bias: Tensor | None,
    columns: int,
    transpose: bool,
    backend: str,
) -> Tensor:
    where = "sparsetrain::spmm"
    t = topology_of(crow, col, columns)
    outputs, inputs = t.shape[::-1] if transpose else t.shape
    check(where, t, ("values", values, (t.nnz,)), ("x", x, (inputs, *x.shape[1:2])), ("bias", bias, (outputs,)))
    return BACKENDS[backend].spmm(t, values, x, bias, transpose)


@torch.library.impl(_library, "sddmm", "CompositeExplicitAutograd")
def _sddmm(crow: Tensor, col: Tensor, a: Tensor, b: Tensor, backend: str) -> Tensor:
    where = "sparsetrain::sddmm"
    t = topology_of(crow, col, b.shape[0])
    check(where, t, ("a", a, (t.shape[0], *b.shape[1:2])), ("b", b, (t.shape[1], *b.shape[1:2])))
    return BACKENDS[backend].sddmm(t, a, b)


@torch.library.impl(_library, "gradient", "CompositeExplicitAutograd")
def _gradient(crow: Tensor, col: Tensor, a: Tensor, b: Tensor, backend: str) -> Tensor:
    tell(topology_of(crow, col, b.shape[0]), a, b)
    return _sddmm(crow, col, a, b, backend)


@torch.library.impl(_library, "backward", "CompositeExplicitAutograd")
def _backward(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, dy: Tensor, bias: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    where = "sparsetrain::backward"
    t = topology_of(crow, col, x.shape[0])
    batch = x.shape[1:2]
    check(where, t, ("values", values, (t.nnz,)), ("x", x, (t.shape[1], *batch)), ("dy", dy, (t.shape[0], *batch)))
    tell(t, dy, x)
    grad, dx, bias_grad = BACKENDS[backend].backward(t, values, x, dy, bias)
    return grad, dx, values.new_empty(0) if bias_grad is None else bias_grad


@torch.library.register_fake("sparsetrain::spmm", lib=_library)
def _fake_spmm(
    crow: Tensor,
    col: Tensor,
    values: Tensor,
    x: Tensor,
    bias: Tensor | None,
    columns: int,
    transpose: bool,
    backend: str,
) -> Tensor:
    return empty_like_layout(x, columns if transpose else crow.shape[0] - 1)


@torch.library.register_fake("sparsetrain::gradient", lib=_library)
@torch.library.register_fake("sparsetrain::sddmm", lib=_library)
def _fake_sddmm(crow: Tensor, col: Tensor, a: Tensor, b: Tensor, backend: str) -> Tensor:
    return a.new_empty(col.shape[0], dtype=wide(a.dtype))


@torch.library.register_fake("sparsetrain::backward", lib=_library)
def _fake_backward(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, dy: Tensor, bias: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    grad, of_bias = (values.new_empty(size) for size in (col.shape[0], dy.shape[0] if bias else 0))
    return grad, empty_like_layout(x, x.shape[0]), of_bias


def _keep_spmm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    crow, col, values, x, _, ctx.columns, ctx.transpose, ctx.backend = inputs
    ctx.save_for_backward(crow, col, values, x)


def _spmm_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, values, x = ctx.saved_tensors
    _, _, for_values, for_x, for_bias, *_ = ctx.needs_input_grad
    dvalues = dx = dbias = None
    if for_values and for_x and not ctx.transpose:
        dvalues, dx, dbias = _ops.backward(crow, col, values, x, dy, for_bias, ctx.backend)
    else:
        if for_values:
            a, b = (x, dy) if ctx.transpose else (dy, x)
            dvalues = _ops.gradient(crow, col, a, b, ctx.backend)
        if for_x:
            dx = _ops.spmm(crow, col, values, dy, None, ctx.columns, not ctx.transpose, ctx.backend)
        dbias = sum_over_batch(widened(dy)) if for_bias else None
    return None, None, dvalues, dx, dbias if for_bias else None, None, None, None


def _keep_sddmm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _sddmm_gradients(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, a, b = ctx.saved_tensors
    _, _, for_a, for_b, _ = ctx.needs_input_grad
    da = _ops.spmm(crow, col, dout, b, None, b.shape[0], False, ctx.backend) if for_a else None
    db = _ops.spmm(crow, col, dout, a, None, b.shape[0], True, ctx.backend) if for_b else None
    return None, None, da, db, None


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.bias, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward_gradients(ctx: Any, dgrad: Tensor, ddx: Tensor, dbias: Tensor) -> tuple[Tensor | None, ...]:
    """Of <dgrad, sddmm(dy, x)> + <ddx, W' dy> + <dbias, dy 1>."""
    crow, col, values, x, dy = ctx.saved_tensors
    columns, backend = x.shape[0], ctx.backend
    _, _, for_values, for_x, for_dy, *_ = ctx.needs_input_grad
    dvalues = _ops.sddmm(crow, col, dy, ddx, backend) if for_values else None
    dx = _ops.spmm(crow, col, dgrad, dy, None, columns, True, backend) if for_x else None
    ddy = None
    if for_dy:
        ddy = _ops.spmm(crow, col, dgrad, x, None, columns, False, backend) + _ops.spmm(
            crow, col, values, ddx, None, columns, False, backend
        )
        if ctx.bias:
            ddy = ddy + dbias[:, None].to(ddy.dtype)
    return None, None, dvalues, dx, ddy, None, None


for _name, _gradients, _keep in (
    ("spmm", _spmm_gradients, _keep_spmm),
    ("sddmm", _sddmm_gradients, _keep_sddmm),
    ("gradient", _sddmm_gradients, _keep_sddmm),
    ("backward", _backward_gradients, _keep_backward),
):
    torch.library.register_autograd(f"sparsetrain::{_name}", _gradients, setup_context=_keep, lib=_library)


def _flops_of_spmm(crow: Any, col: Any, values: Any, x: Any, *_: Any, **__: Any) -> int:
    return 2 * int(col[0]) * int(x[1])


def _flops_of_sddmm(crow: Any, col: Any, a: Any, *_: Any, **__: Any) -> int:
    return 2 * int(col[0]) * int(a[1])


def _flops_of_backward(crow: Any, col: Any, values: Any, x: Any, *_: Any, **__: Any) -> int:
    return 4 * int(col[0]) * int(x[1])  # a product and a sampled one


for _name, _flops in (
    ("spmm", _flops_of_spmm),
    ("sddmm", _flops_of_sddmm),
    ("gradient", _flops_of_sddmm),
    ("backward", _flops_of_backward),
):
    flop_formula(getattr(_ops, _name), _flops)
