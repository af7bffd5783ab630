"""Convolutions as an autograd function. One form, linear in each of values, input and output gradient,

    L(v, x, y) = sum over samples and positions of y · conv(x, W(v)),

has all of its operations: what it leaves when one of the three is missing. Without y that is the convolution, without
x the gradient of the input, without v that of the values. So its derivatives are of the same form again.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends.convolution.choice import WAYS, way_for
from ..backends.convolution.geometry import Geometry
from ..backends.convolution.layout import in_format_of, sum_over_positions
from ..backends.convolution.protocol import Convolution
from ..dtypes import widened
from ..structure.topology import Topology
from ..tracing import mapped_by_autograd, primal, seen_from_without, transforming, unwrap_if_dead, watched
from . import convolution_operators
from .autograd import check_edges, differentiating
from .gradient_factors import tell

VALUES, X, Y = 0, 1, 2
Operands = tuple[Tensor | None, Tensor | None, Tensor | None]  # values, x and y, of which one is missing


class Form(NamedTuple):
    """What a convolution is made of, but for the operands."""

    t: Topology
    g: Geometry
    size: tuple[int, ...]  # of the input in space
    request: str  # what use_backend asked for

    def way(self, x: Tensor, gradients: bool) -> Convolution:
        """What computes it for an input, or an output gradient, of this kind."""
        shape = (x.shape[0], self.g.channels_in(self.t), *self.size)
        return WAYS[way_for(self.t, shape, self.g, x.dtype, x.device, gradients, self.request)]


def contract(
    form: Form, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """What the form leaves for the operand that is missing; plus bias, where that is y."""
    operands = (values, x, y)
    if differentiating(*operands, bias):
        function = Contraction if transforming() else RecordedContraction
        return function.apply(form, *operands, bias)  # type: ignore[no-untyped-call,no-any-return]
    return _computed(form, *operands, bias)


def _computed(form: Form, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None) -> Tensor:
    """The same, recorded nowhere."""
    present = (values, x, y, bias)
    if watched(*present) or any(map(mapped_by_autograd, present)):
        return convolution_operators.convolution(form, *present)
    if values is None:
        x, y = cast(Tensor, x), cast(Tensor, y)
        return form.way(x, gradients=True).value_gradient(form.t, x, y, form.g)
    if x is None:
        y = cast(Tensor, y)
        return form.way(y, gradients=True).input_gradient(form.t, values, y, form.size, form.g)
    return form.way(x, gradients=False).forward(form.t, values, x, bias, form.g)


class Contraction(Function):
    """The form without one of its operands, which is given as None."""

    @staticmethod
    def forward(form: Form, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None) -> Tensor:
        return _computed(form, values, x, y, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.form, *operands, _ = inputs
        ctx.missing = next(k for k, operand in enumerate(operands) if operand is None)
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        form, missing = ctx.form, ctx.missing
        all_three: list[Any] = [None if each is None else unwrap_if_dead(each) for each in ctx.saved_tensors]
        all_three[missing] = cotangent
        values, x, y = all_three
        check_edges(form.t, values)
        _, *needed, for_bias = ctx.needs_input_grad
        if missing == Y and needed[VALUES] and needed[X] and not differentiating(values, x, y):
            grad, dx, dbias = backward_at_once(form, values, x, y, for_bias)
            return None, grad, dx, None, dbias
        if missing == Y and needed[VALUES]:
            tell(form.t, y, x, form.g)
        gradients = [contract(form, *_without(all_three, k)) if needed[k] else None for k in (VALUES, X, Y)]
        return None, *gradients, sum_over_positions(widened(y)) if for_bias else None

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor | None:
        *of_operands, of_bias = tangents
        terms = []
        with seen_from_without():
            operands: list[Any] = [None if each is None else primal(each) for each in ctx.saved_tensors]
            for k, tangent in enumerate(of_operands):
                if tangent is not None:
                    terms.append(contract(ctx.form, *_without(operands, k, tangent)))
            like = operands[X if operands[X] is not None else Y]
            if of_bias is not None:
                shape = (like.shape[0], -1, *ctx.form.g.output_size(ctx.form.size))
                terms.append(of_bias.view(-1, *[1] * len(ctx.form.size)).expand(shape).to(like.dtype))
            if not terms:
                return None
            total = terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)
            return total if ctx.missing == VALUES else in_format_of(like, total)  # a tangent is laid out as its primal

    @staticmethod
    def vmap(
        info: Any,
        dims: Any,
        form: Form,
        values: Tensor | None,
        x: Tensor | None,
        y: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        _, of_values, of_x, of_y, of_bias = dims
        if values is not None and of_values is None and of_bias is None:  # the mapped dimension joins the batch
            dense, dim = (x, of_x) if x is not None else (y, of_y)
            joined = cast(Tensor, dense).movedim(dim, 0).flatten(0, 1)
            result = contract(form, values, None if x is None else joined, None if y is None else joined, bias)
            return result.reshape(size, joined.shape[0] // size, *result.shape[1:]), 0
        many: list[list[Any]] = [
            [each] * size if each is None or dim is None else list(each.unbind(dim))
            for each, dim in zip((values, x, y, bias), dims[1:], strict=True)
        ]
        each_of = zip(*many, strict=True)
        return torch.stack([contract(form, v, p, q, b) for v, p, q, b in each_of]), 0


class RecordedContraction(Function):
    """Contraction where no transform is at work, as RecordedSpMM: a call takes less time."""

    @staticmethod
    def forward(
        ctx: Any, form: Form, values: Tensor | None, x: Tensor | None, y: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        ctx.form, ctx.missing = form, VALUES if values is None else X if x is None else Y
        ctx.save_for_backward(values, x, y)
        return _computed(form, values, x, y, bias)

    backward = Contraction.backward


def backward_at_once(
    form: Form, values: Tensor, x: Tensor, y: Tensor, bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both gradients of a convolution, and that of its bias, which nobody differentiates again."""
    if watched(values, x, y) or any(map(mapped_by_autograd, (values, x, y))):  # where operators tell by themselves
        return convolution_operators.backward(form, values, x, y, bias)
    tell(form.t, y, x, form.g)
    return form.way(x, gradients=True).backward(form.t, values, x, y, form.g, bias)


def _without(operands: list[Any], k: int, instead: Any = None) -> tuple[Any, Any, Any]:
    """The operands with another one, or none, in the place of one."""
    values, x, y = (instead if place == k else each for place, each in enumerate(operands))
    return values, x, y
