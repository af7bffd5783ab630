"""Convolutions as torch.library operators, for what traces: the form of ``convolution_autograd.py`` with one of values,
x and y left out, and both gradients at once."""

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from ..backends.convolution.choice import WAYS, way_for
from ..backends.convolution.geometry import Geometry
from ..backends.convolution.layout import format_of, sum_over_positions
from ..dtypes import wide, widened
from ..tracing import beside
from .convolution_operands import check, geometry_of
from .flop_formulas import flop_formula
from .gradient_factors import tell
from .library import topology_of

_library = torch.library.Library("sparsetrain", "FRAGMENT")
_HOW = "int columns, int[] kernel, int[] stride, int[] padding, int[] dilation, int groups, str backend"
for _schema in (
    # size in space of an x that is missing; of_backward: whether a gradient of values is that of a backward pass
    f"convolution(Tensor crow, Tensor col, Tensor? values, Tensor? x, Tensor? y, Tensor? bias, {_HOW}, "
    "SymInt[]? size, bool of_backward) -> Tensor",
    f"convolution_backward(Tensor crow, Tensor col, Tensor values, Tensor x, Tensor y, bool bias, {_HOW})"
    " -> (Tensor, Tensor, Tensor)",
):
    _library.define(_schema)
_ops = torch.ops.sparsetrain


def convolution(form: Any, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None) -> Tensor:
    """The operator of a Form."""
    like: Any = y if x is None else x
    arrays = beside((form.t.crow, form.t.stored_col), like)
    size = form.size if x is None else None
    result: Tensor = _ops.convolution(*arrays, values, x, y, bias, *_how(form), size, False)
    return result


def backward(form: Any, values: Tensor, x: Tensor, y: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operator of both gradients."""
    arrays = beside((form.t.crow, form.t.stored_col), x)
    grad, dx, dbias = _ops.convolution_backward(*arrays, values, x, y, bias, *_how(form))
    return grad, dx, dbias if bias else None


def _how(form: Any) -> tuple[Any, ...]:
    g = form.g
    padding = [side for pair in g.padding for side in pair]
    return form.t.shape[1], g.kernel, g.stride, padding, g.dilation, g.groups, form.request


@torch.library.impl(_library, "convolution", "CompositeExplicitAutograd")
def _convolution(
    crow: Tensor, col: Tensor, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None,
    columns: int, *how: Any,
) -> Tensor:  # fmt: skip
    *geometry, backend, given, of_backward = how
    t, g = topology_of(crow, col, columns), geometry_of(*geometry)
    like: Any = y if x is None else x
    size = tuple(given if x is None else x.shape[2:])
    check(t, g, size, values=values, x=x, y=y, bias=bias)
    shape = (like.shape[0], g.channels_in(t), *size)
    way = WAYS[way_for(t, shape, g, like.dtype, like.device, values is None or x is None, backend)]
    if values is None:
        if of_backward:
            tell(t, y, x, g)  # type: ignore[arg-type]
        return way.value_gradient(t, x, y, g)  # type: ignore[arg-type]
    if x is None:
        return way.input_gradient(t, values, like, size, g)
    return way.forward(t, values, x, bias, g)


@torch.library.impl(_library, "convolution_backward", "CompositeExplicitAutograd")
def _backward(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, y: Tensor, bias: bool, columns: int, *how: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *geometry, backend = how
    t, g = topology_of(crow, col, columns), geometry_of(*geometry)
    check(t, g, tuple(x.shape[2:]), values=values, x=x, y=y)
    tell(t, y, x, g)
    way = WAYS[way_for(t, tuple(x.shape), g, x.dtype, x.device, True, backend)]
    grad, dx, of_bias = way.backward(t, values, x, y, g, bias)
    return grad, dx, values.new_empty(0) if of_bias is None else of_bias


@torch.library.register_fake("sparsetrain::convolution", lib=_library)
def _fake_convolution(
    crow: Tensor, col: Tensor, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None,
    columns: int, *how: Any,
) -> Tensor:  # fmt: skip
    *geometry, _, size, _ = how
    g, like = geometry_of(*geometry), cast(Tensor, y if x is None else x)
    if values is None:
        return like.new_empty(col.shape[0], dtype=wide(like.dtype))
    if x is None:
        shape = (like.shape[0], columns // g.volume * g.groups, *size)
    else:
        shape = (like.shape[0], crow.shape[0] - 1, *g.output_size(tuple(x.shape[2:])))
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=format_of(like))


@torch.library.register_fake("sparsetrain::convolution_backward", lib=_library)
def _fake_backward(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, y: Tensor, bias: bool, *how: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=format_of(x))
    return values.new_empty(col.shape[0]), dx, values.new_empty(crow.shape[0] - 1 if bias else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *operands, _ = inputs[:6]
    ctx.how = inputs[6:13]
    ctx.save_for_backward(*operands)


def _gradients(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, *operands = ctx.saved_tensors
    _, _, *needed, for_bias = ctx.needs_input_grad[:6]
    forward = operands[2] is None
    values, x, y = (cotangent if each is None else each for each in operands)
    nothing = [None] * (len(ctx.needs_input_grad) - 6)
    if forward and needed[0] and needed[1]:
        grad, dx, dbias = _ops.convolution_backward(crow, col, values, x, y, for_bias, *ctx.how)
        return None, None, grad, dx, None, dbias if for_bias else None, *nothing
    of_values = of_x = of_y = None
    if needed[0]:
        of_values = _ops.convolution(crow, col, None, x, y, None, *ctx.how, None, forward)
    if needed[1]:
        of_x = _ops.convolution(crow, col, values, None, y, None, *ctx.how, x.shape[2:], False)
    if needed[2]:
        of_y = _ops.convolution(crow, col, values, x, None, None, *ctx.how, None, False)
    return None, None, of_values, of_x, of_y, sum_over_positions(widened(y)) if for_bias else None, *nothing


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.bias = inputs[:6]
    ctx.how = inputs[6:]
    ctx.save_for_backward(*tensors)


def _backward_gradients(ctx: Any, dgrad: Tensor, ddx: Tensor, dbias: Tensor) -> tuple[Tensor | None, ...]:
    """Of L(dgrad, x, y) + L(values, ddx, y) + <dbias, the sum of y over samples and positions>."""
    crow, col, values, x, y = ctx.saved_tensors
    _, _, for_values, for_x, for_y = ctx.needs_input_grad[:5]
    of_values = of_x = of_y = None
    if for_values:
        of_values = _ops.convolution(crow, col, None, ddx, y, None, *ctx.how, None, False)
    if for_x:
        of_x = _ops.convolution(crow, col, dgrad, None, y, None, *ctx.how, x.shape[2:], False)
    if for_y:
        bias = dbias if ctx.bias else None
        of_y = _ops.convolution(crow, col, dgrad, x, None, bias, *ctx.how, None, False)
        of_y = of_y + _ops.convolution(crow, col, values, ddx, None, None, *ctx.how, None, False)
    return None, None, of_values, of_x, of_y, *([None] * (len(ctx.needs_input_grad) - 5))


torch.library.register_autograd("sparsetrain::convolution", _gradients, setup_context=_keep, lib=_library)
torch.library.register_autograd(
    "sparsetrain::convolution_backward", _backward_gradients, setup_context=_keep_backward, lib=_library
)


def _multiplications(edges: int, batch: int, size: Sequence[int], geometry: Sequence[Any]) -> int:
    g: Geometry = geometry_of(*geometry)
    return edges * batch * prod(g.output_size(tuple(size)))


def _flops(
    crow: Any, col: Any, values: Any, x: Any, y: Any, bias: Any, columns: int, *how: Any, **_: Any
) -> int:  # of shapes in place of tensors
    size = how[6] if x is None else x[2:]
    return 2 * _multiplications(int(col[0]), int((y if x is None else x)[0]), size, how[:5])


def _flops_of_backward(
    crow: Any, col: Any, values: Any, x: Any, y: Any, bias: Any, columns: int, *how: Any, **_: Any
) -> int:
    return 4 * _multiplications(int(col[0]), int(x[0]), x[2:], how[:5])


flop_formula(_ops.convolution, _flops)
flop_formula(_ops.convolution_backward, _flops_of_backward)
