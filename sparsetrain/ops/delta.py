"""A dense product and a sparse one into the same output: a frozen weight of which some entries move.

    y = x (W + S)' + b    dx = dy (W + S)    dv = sddmm(dy', x')    db = 1' dy

The sparse products are made for a part of the samples at a time and added where they belong: beside the dense ones they
are so cheap that a second output or gradient of x of full size, fresh from the system, would cost as much again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import linear

from ..backends.choice import BACKENDS, asked_for
from ..backends.dense_products import dense_product
from ..backends.layout import sum_over_batch
from ..dtypes import HALVES, widened
from ..structure.topology import Topology
from ..tracing import transforming, watched
from .autograd import backend_of, check_edges, differentiating, sddmm, spmm
from .gradient_factors import tell
from .verbs import SPARSE, checked_linear

PART = 2**22  # bytes of a sparse product at a time; twice as many are no faster, and malloc keeps more of them
TILE = 128  # samples that the kernels work on together


def delta_linear(where: str, x: Tensor, weight: Tensor, bias: Tensor | None, t: Topology, values: Tensor) -> Tensor:
    """``x (weight + S(values))' + bias`` in the name of a layer."""
    if isinstance(x, Tensor) and x.layout in SPARSE:
        x = x.to_dense()
    if isinstance(x, Tensor) and _is_narrower(x, weight, t):
        return delta_linear(where, x.float(), weight, bias, t, values).to(x.dtype)
    if not _in_parts(x, weight, t):
        delta = checked_linear(where, _wide(x), t, values, None, transpose=False)
        if x.dtype is not weight.dtype and not torch.is_autocast_enabled(t.device.type):
            raise TypeError(
                f"{where}: expected x in {weight.dtype}, as the frozen weight, got {x.dtype}. Convert with .to(dtype)."
            )
        y = linear(x, weight, bias)
        return (y + delta).to(y.dtype)
    if x.ndim == 0 or x.shape[-1] != t.shape[1] or values.shape != (t.nnz,):
        checked_linear(where, _wide(x), t, values, None, transpose=False)  # which says what is wrong
    samples = x.reshape(x.shape[:-1].numel(), t.shape[1])
    y = DeltaLinear.apply(samples, weight, bias, t, values, asked_for(x.device))  # type: ignore[no-untyped-call]
    result: Tensor = y.reshape(*x.shape[:-1], t.shape[0])
    return result


def _is_narrower(x: Tensor, weight: Tensor, t: Topology) -> bool:
    """Whether x is in half precision beside a weight in float32, which torch refuses unless autocast is at work."""
    narrower = x.dtype in HALVES and weight.dtype is torch.float32
    return narrower and not torch.is_autocast_enabled(t.device.type)


def _in_parts(x: Any, weight: Tensor, t: Topology) -> bool:
    """Whether DeltaLinear will do: a frozen weight, x as it should be, and no transform, trace or autocast at work."""
    traced = watched(x) or transforming()
    usual = isinstance(x, Tensor) and x.layout is torch.strided and x.dtype is weight.dtype and x.device == t.device
    return usual and not (weight.requires_grad or traced or torch.is_autocast_enabled(t.device.type))


class DeltaLinear(Function):
    """y = x (W + S)' + b for samples x (batch, in) and a frozen W."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, t: Topology, values: Tensor, backend: str
    ) -> Tensor:
        ctx.t, ctx.backend = t, backend
        ctx.save_for_backward(x, weight, values)
        y = dense_product(x, weight, bias)
        for part, of_x in zip(_parts(y, t), _parts(x, t), strict=True):
            part.add_(BACKENDS[backend].spmm(t, values, _columns(of_x, values), None, False).t())
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, values = ctx.saved_tensors
        for_x, _, for_bias, _, for_values, _ = ctx.needs_input_grad
        t, backend = ctx.t, ctx.backend
        check_edges(t, values)
        dvalues = dx = None
        if for_values:
            tell(t, dy.t(), x.t())
        if differentiating(x, values, dy) or backend_of(backend, x, values, dy) is not BACKENDS[backend]:
            if for_values:
                dvalues = sddmm(t, _columns(dy, values), _columns(x, values), backend)
            if for_x:
                dx = dy @ weight + spmm(t, values, _columns(dy, values), None, True, backend).t().to(dy.dtype)
        elif for_x:
            dx = dense_product(dy, weight.t())
            dvalues = values.new_zeros(t.nnz)
            for part, of_x, of_dy in zip(_parts(dx, t), _parts(x, t), _parts(dy, t), strict=True):
                operands = _columns(of_x, values), _columns(of_dy, values)
                of_values, sparse, _ = BACKENDS[backend].backward(t, values, *operands, False)
                part.add_(sparse.t())
                dvalues += of_values
        elif for_values:
            dvalues = values.new_zeros(t.nnz)
            for of_x, of_dy in zip(_parts(x, t), _parts(dy, t), strict=True):
                dvalues += BACKENDS[backend].sddmm(t, _columns(of_dy, values), _columns(of_x, values))
        return dx, None, sum_over_batch(dy.t()) if for_bias else None, None, dvalues if for_values else None, None


def _parts(samples: Tensor, t: Topology) -> tuple[Tensor, ...]:
    """Samples (batch, features), so many at a time that a product of them is PART bytes."""
    size = PART // (4 * max(*t.shape, 1)) // TILE * TILE
    return torch.split(samples, max(size, TILE))


def _columns(samples: Tensor, values: Tensor) -> Tensor:
    """Samples as the kernels take them: columns, in the dtype of the values."""
    return samples.t().to(values.dtype)


def _wide(x: Any) -> Any:
    return widened(x) if isinstance(x, Tensor) else x
