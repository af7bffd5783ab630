"""SpMM and SDDMM as autograd functions, each the other's gradient: the two are closed under differentiation.

    y = W(v) x + b 1'     dv = sddmm(dy, x)      dx = W(v)' dy      db = dy 1
    s = sddmm(a, b)       da = W(ds) b           db = W(ds)' a

With ``transpose``, W' takes the place of W. Where nothing is differentiated a second time, both gradients of a product
come from one pass of the backend's ``backward``.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends.choice import BACKENDS
from ..backends.layout import in_layout_of, sum_over_batch
from ..backends.protocol import Backend
from ..dtypes import widened
from ..edges.weights import changed_since, edge_changes
from ..structure.topology import Topology
from ..tracing import mapped_by_autograd, primal, seen_from_without, transforming, unwrap_if_dead, watched
from . import library
from .gradient_factors import tell


def differentiating(*tensors: Tensor | None) -> bool:
    """Whether a call on these tensors must go through autograd: it is recorded, or a function transform is at work."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor is not None and tensor.requires_grad:
                return True
    return transforming()


def backend_of(name: str, *tensors: Tensor | None) -> Backend:
    """The backend, or torch's operators over it: where something must see the call, and where autograd maps a backward
    pass over many gradients, which the operators' batching rule takes apart."""
    if watched(*tensors):
        return library.Operators(name)
    for tensor in tensors:
        if mapped_by_autograd(tensor):
            return library.Operators(name)
    return BACKENDS[name]


def check_edges(t: Topology, values: Tensor) -> None:
    """A graph recorded before a change of topology must not read past the new value array."""
    if values.numel() != t.nnz:
        raise changed_since(f"expected {t.nnz} values, got {values.numel()}; ")


def as_matrix(t: Topology, values: Tensor) -> Tensor:
    """The values as the matrix that they are where each position has an edge."""
    weight = values.view(t.shape)
    if weight.grad_fn is not None and not transforming():
        changes = edge_changes(values)

        def check(_: Any) -> None:  # this graph reads no values where x has no gradient
            check_edges(t, values)
            if edge_changes(values) != changes:
                raise changed_since()

        weight.grad_fn.register_prehook(check)
    return weight


class SpMM(Function):
    """y = W x + bias, or W' x + bias."""

    @staticmethod
    def forward(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool, backend: str) -> Tensor:
        return backend_of(backend, values, x, bias).spmm(t, values, x, bias, transpose)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.t, values, x, _, ctx.transpose, ctx.backend = inputs
        ctx.save_for_backward(values, x)
        ctx.save_for_forward(values, x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        values, x = map(unwrap_if_dead, ctx.saved_tensors)
        check_edges(ctx.t, values)
        _, for_values, for_x, for_bias, *_ = ctx.needs_input_grad
        t, transpose, backend = ctx.t, ctx.transpose, ctx.backend
        dvalues = dx = dbias = None
        fused = for_values and for_x and not transpose and not differentiating(values, x, dy)
        together = backend_of(backend, values, x, dy) if fused else None
        if for_values and not isinstance(together, library.Operators):  # which tell by themselves
            tell(t, *((x, dy) if transpose else (dy, x)))
        if together is not None:
            dvalues, dx, dbias = together.backward(t, values, x, dy, for_bias)
        else:
            if for_values:
                dvalues = sddmm(t, x, dy, backend) if transpose else sddmm(t, dy, x, backend)
            if for_x:
                dx = spmm(t, values, dy, None, not transpose, backend)
            dbias = sum_over_batch(widened(dy)) if for_bias else None
        return None, dvalues, dx, dbias if for_bias else None, None, None

    @staticmethod
    def jvp(
        ctx: Any, _: None, dvalues: Tensor | None, dx: Tensor | None, dbias: Tensor | None, *__: None
    ) -> Tensor | None:
        terms = []
        with seen_from_without():
            values, x = map(primal, ctx.saved_tensors)
            if dvalues is not None:
                terms.append(spmm(ctx.t, dvalues, x, None, ctx.transpose, ctx.backend))
            if dx is not None:
                terms.append(spmm(ctx.t, values, dx, None, ctx.transpose, ctx.backend))
            if dbias is not None:
                terms.append(dbias[:, None].expand(-1, x.shape[1]).to(x.dtype))
            # a tangent has the layout of its primal
            return in_layout_of(x, torch.stack(terms).sum(0)) if terms else None

    @staticmethod
    def vmap(
        info: Any, dims: Any, t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool, backend: str
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        if dims[1] is None and dims[3] is None:  # one matrix: the mapped dimension joins the batch
            x = x.movedim(dims[2], -1)
            y = spmm(t, values, x.reshape(x.shape[0], -1), bias, transpose, backend)
            return y.reshape(y.shape[0], x.shape[1], size), 2
        many = [_slices(tensor, dim, size) for tensor, dim in ((values, dims[1]), (x, dims[2]), (bias, dims[3]))]
        return torch.stack([spmm(t, v, z, b, transpose, backend) for v, z, b in zip(*many, strict=True)]), 0


class RecordedSpMM(Function):
    """SpMM where no transform is at work: torch binds the signature of a forward with setup_context anew at each call,
    which takes longer than a small product."""

    @staticmethod
    def forward(
        ctx: Any, t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool, backend: str
    ) -> Tensor:
        ctx.t, ctx.transpose, ctx.backend = t, transpose, backend
        ctx.save_for_backward(values, x)
        return backend_of(backend, values, x, bias).spmm(t, values, x, bias, transpose)

    backward = SpMM.backward


class SDDMM(Function):
    """out[e] = a[row[e]] . b[col[e]]"""

    @staticmethod
    def forward(t: Topology, a: Tensor, b: Tensor, backend: str) -> Tensor:
        return backend_of(backend, a, b).sddmm(t, a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.t, a, b, ctx.backend = inputs
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        a, b = map(unwrap_if_dead, ctx.saved_tensors)
        da = spmm(ctx.t, dout, b, None, False, ctx.backend) if ctx.needs_input_grad[1] else None
        db = spmm(ctx.t, dout, a, None, True, ctx.backend) if ctx.needs_input_grad[2] else None
        return None, da, db, None

    @staticmethod
    def jvp(ctx: Any, _t: None, da: Tensor | None, db: Tensor | None, _: None) -> Tensor | None:
        terms = []
        with seen_from_without():
            a, b = map(primal, ctx.saved_tensors)
            if da is not None:
                terms.append(sddmm(ctx.t, da, b, ctx.backend))
            if db is not None:
                terms.append(sddmm(ctx.t, a, db, ctx.backend))
            return terms[0] + terms[1] if len(terms) > 1 else terms[0] if terms else None

    @staticmethod
    def vmap(info: Any, dims: Any, t: Topology, a: Tensor, b: Tensor, backend: str) -> tuple[Tensor, int]:
        many = [_slices(tensor, dim, info.batch_size) for tensor, dim in ((a, dims[1]), (b, dims[2]))]
        return torch.stack([sddmm(t, p, q, backend) for p, q in zip(*many, strict=True)]), 0


def _slices(tensor: Tensor | None, dim: int | None, size: int) -> list[Any]:
    return [tensor] * size if tensor is None or dim is None else list(tensor.unbind(dim))


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool, backend: str) -> Tensor:
    """SpMM, through autograd only where it is needed: the fixed cost of a call is the enemy of small layers."""
    if differentiating(values, x, bias):
        function = SpMM if transforming() else RecordedSpMM
        return function.apply(t, values, x, bias, transpose, backend)  # type: ignore[no-untyped-call,no-any-return]
    return backend_of(backend, values, x, bias).spmm(t, values, x, bias, transpose)


def sddmm(t: Topology, a: Tensor, b: Tensor, backend: str) -> Tensor:
    """SDDMM, through autograd only where it is needed."""
    if differentiating(a, b):
        return SDDMM.apply(t, a, b, backend)  # type: ignore[no-untyped-call,no-any-return]
    return backend_of(backend, a, b).sddmm(t, a, b)
