"""Convolutions as torch.library operators, for what traces: the form of ``convolution_autograd.py`` with one of values,
x and y left out, and both gradients at once."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..backends.convolution.choice import WAYS, way_for
from ..backends.convolution.geometry import Geometry
from ..backends.convolution.layout import format_of, sum_over_positions
from ..dtypes import wide, widened
from ..structure.topology import Topology
from ..tracing import beside
from .gradient_factors import tell
from .library import topology_of

_library = torch.library.Library("sparsetrain", "FRAGMENT")
_GEOMETRY = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups"
_PLACE = f"SymInt[] size, int columns, {_GEOMETRY}, str backend"
_library.define(
    f"convolution(Tensor crow, Tensor col, Tensor? values, Tensor? x, Tensor? y, Tensor? bias, {_PLACE}, "
    "bool of_backward) -> Tensor"
)
_library.define(
    f"convolution_backward(Tensor crow, Tensor col, Tensor values, Tensor x, Tensor y, bool bias, {_PLACE})"
    " -> (Tensor, Tensor, Tensor)"
)
_ops = torch.ops.sparsetrain


def convolution(
    form: Any,
    values: Tensor | None,
    x: Tensor | None,
    y: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """The operator of a Form."""
    like = x if x is not None else y
    assert like is not None
    crow, col = beside((form.t.crow, form.t.col), like)
    return _ops.convolution(crow, col, values, x, y, bias, *_place(form), False)  # type: ignore[no-any-return]


def backward(form: Any, values: Tensor, x: Tensor, y: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operator of both gradients."""
    crow, col = beside((form.t.crow, form.t.col), x)
    grad, dx, dbias = _ops.convolution_backward(crow, col, values, x, y, bias, *_place(form))
    return grad, dx, dbias if bias else None


def _place(form: Any) -> tuple[Any, ...]:
    g = form.g
    padding = [side for pair in g.padding for side in pair]
    return form.size, form.t.shape[1], g.kernel, g.stride, padding, g.dilation, g.groups, form.request


def _geometry(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Geometry:
    pairs = zip(padding[::2], padding[1::2], strict=True)
    return Geometry(tuple(kernel), tuple(stride), tuple(pairs), tuple(dilation), groups)


def _check(t: Topology, g: Geometry, size: Sequence[int], **operands: Tensor | None) -> None:
    """Anybody can call an operator with anything, and kernels check nothing."""
    where, channels = "sparsetrain::convolution", g.channels_in(t)
    shapes = {
        "values": (t.nnz,),
        "x": (channels, *size),
        "y": (t.shape[0], *g.output_size(tuple(size))),
        "bias": (t.shape[0],),
    }
    if g.groups < 1 or t.shape[1] % g.volume or t.shape[0] % g.groups:
        raise ValueError(f"{where}: expected groups and a kernel that divide {t!r}, got {g}.")
    for name, operand in operands.items():
        if operand is None:
            continue
        shape = tuple(operand.shape if name in ("values", "bias") else operand.shape[1:])
        if shape != shapes[name]:
            batch = "" if name in ("values", "bias") else "(batch, ...) + "
            raise ValueError(f"{where}: expected {name} of shape {batch}{shapes[name]}, got {tuple(operand.shape)}.")
    dense = {operand.dtype for name, operand in operands.items() if operand is not None and name in ("x", "y")}
    flat = {operand.dtype for name, operand in operands.items() if operand is not None and name in ("values", "bias")}
    if len(dense) != 1 or not flat <= {wide(dtype) for dtype in dense}:
        raise TypeError(
            f"{where}: expected operands in one dtype, or x and y in half precision beside float32 values, got "
            f"{sorted(map(str, dense | flat))}."
        )


@torch.library.impl(_library, "convolution", "CompositeExplicitAutograd")
def _convolution(
    crow: Tensor, col: Tensor, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None,
    size: Sequence[int], columns: int, *rest: Any,
) -> Tensor:  # fmt: skip
    *geometry, backend, of_backward = rest
    t, g = topology_of(crow, col, columns), _geometry(*geometry)
    _check(t, g, size, values=values, x=x, y=y, bias=bias)
    like: Any = x if x is not None else y
    shape = (like.shape[0], g.channels_in(t), *size)
    way = WAYS[way_for(t, shape, g, like.dtype, like.device, values is None or x is None, backend)]
    if values is None:
        if of_backward:
            tell(t, y, x, g)  # type: ignore[arg-type]
        return way.value_gradient(t, x, y, g)  # type: ignore[arg-type]
    if x is None:
        return way.input_gradient(t, values, like, tuple(size), g)
    return way.forward(t, values, x, bias, g)


@torch.library.impl(_library, "convolution_backward", "CompositeExplicitAutograd")
def _backward(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, y: Tensor, bias: bool, size: Sequence[int], columns: int,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    *geometry, backend = rest
    t, g = topology_of(crow, col, columns), _geometry(*geometry)
    _check(t, g, size, values=values, x=x, y=y)
    tell(t, y, x, g)
    way = WAYS[way_for(t, tuple(x.shape), g, x.dtype, x.device, True, backend)]
    grad, dx, of_bias = way.backward(t, values, x, y, g, bias)
    return grad, dx, values.new_empty(0) if of_bias is None else of_bias


@torch.library.register_fake("sparsetrain::convolution", lib=_library)
def _fake_convolution(
    crow: Tensor, col: Tensor, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None,
    size: Sequence[int], columns: int, *rest: Any,
) -> Tensor:  # fmt: skip
    g, like = _geometry(*rest[:5]), x if x is not None else y
    assert like is not None
    if values is None:
        return like.new_empty(col.shape[0], dtype=wide(like.dtype))
    if x is None:
        shape = (like.shape[0], columns // g.volume * g.groups, *size)
    else:
        shape = (like.shape[0], crow.shape[0] - 1, *g.output_size(tuple(size)))
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=format_of(like))


@torch.library.register_fake("sparsetrain::convolution_backward", lib=_library)
def _fake_backward(
    crow: Tensor, col: Tensor, values: Tensor, x: Tensor, y: Tensor, bias: bool, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=format_of(x))
    return values.new_empty(col.shape[0]), dx, values.new_empty(crow.shape[0] - 1 if bias else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    crow, col, values, x, y, _, *place = inputs
    ctx.place = place[:8]
    ctx.save_for_backward(crow, col, values, x, y)


def _gradients(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    crow, col, *operands = ctx.saved_tensors
    _, _, *needed, for_bias = ctx.needs_input_grad[:6]
    forward = operands[2] is None
    values, x, y = (cotangent if each is None else each for each in operands)
    nothing = [None] * (len(ctx.needs_input_grad) - 6)
    if forward and needed[0] and needed[1]:
        grad, dx, dbias = _ops.convolution_backward(crow, col, values, x, y, for_bias, *ctx.place)
        return None, None, grad, dx, None, dbias if for_bias else None, *nothing
    of_values = of_x = of_y = None
    if needed[0]:
        of_values = _ops.convolution(crow, col, None, x, y, None, *ctx.place, forward)
    if needed[1]:
        of_x = _ops.convolution(crow, col, values, None, y, None, *ctx.place, False)
    if needed[2]:
        of_y = _ops.convolution(crow, col, values, x, None, None, *ctx.place, False)
    return None, None, of_values, of_x, of_y, sum_over_positions(widened(y)) if for_bias else None, *nothing


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.bias = inputs[:6]
    ctx.place = inputs[6:]
    ctx.save_for_backward(*tensors)


def _backward_gradients(ctx: Any, dgrad: Tensor, ddx: Tensor, dbias: Tensor) -> tuple[Tensor | None, ...]:
    """Of L(dgrad, x, y) + L(values, ddx, y) + <dbias, the sum of y over samples and positions>."""
    crow, col, values, x, y = ctx.saved_tensors
    _, _, for_values, for_x, for_y = ctx.needs_input_grad[:5]
    of_values = _ops.convolution(crow, col, None, ddx, y, None, *ctx.place, False) if for_values else None
    of_x = _ops.convolution(crow, col, dgrad, None, y, None, *ctx.place, False) if for_x else None
    of_y = None
    if for_y:
        of_y = _ops.convolution(crow, col, dgrad, x, None, dbias if ctx.bias else None, *ctx.place, False)
        of_y = of_y + _ops.convolution(crow, col, values, ddx, None, None, *ctx.place, False)
    return None, None, of_values, of_x, of_y, *([None] * (len(ctx.needs_input_grad) - 5))


torch.library.register_autograd("sparsetrain::convolution", _gradients, setup_context=_keep, lib=_library)
torch.library.register_autograd(
    "sparsetrain::convolution_backward", _backward_gradients, setup_context=_keep_backward, lib=_library
)


def _positions(crow: Any, size: Sequence[int], rest: Sequence[Any]) -> int:
    return prod(_geometry(*rest[:5]).output_size(tuple(size)))


def _flops(crow: Any, col: Any, values: Any, x: Any, y: Any, bias: Any, size: Any, columns: int, *rest: Any, **_: Any) -> int:  # fmt: skip  # noqa: E501
    samples = (x if x is not None else y)[0]
    return 2 * int(col[0]) * int(samples) * _positions(crow, size, rest)


def _flops_of_backward(crow: Any, col: Any, values: Any, x: Any, y: Any, bias: Any, size: Any, columns: int, *rest: Any, **_: Any) -> int:  # fmt: skip  # noqa: E501
    return 4 * int(col[0]) * int(x[0]) * _positions(crow, size, rest)


register_flop_formula(_ops.convolution)(_flops)
register_flop_formula(_ops.convolution_backward)(_flops_of_backward)
