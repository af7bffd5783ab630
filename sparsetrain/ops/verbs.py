"""The public operations: what they accept is checked here, once, and put in the form that the code below expects."""

import math

import torch
from torch import Tensor

from .. import tracing
from ..backends.choice import asked_for, is_plain_matrix
from ..edges.pending import bring_up_to_date
from ..structure.topology import Topology
from . import autograd, library, used_columns, used_operators
from .gradient_factors import listening
from .operands import check_dense, check_order, check_values, in_graph, operands, ready

SPARSE = (torch.sparse_csr, torch.sparse_coo, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)


def spmm(t: Topology, values: Tensor, x: Tensor, transpose: bool = False) -> Tensor:
    r"""Sparse times dense, :math:`Y = W X`, with :math:`W_{ij}` = ``values[e]`` at edge e = (i, j), nothing elsewhere.

    Args:
        t: which edges exist, shape ``(out, in)``.
        values: shape ``(nnz,)``, in the order of ``t``.
        x: shape ``(in, batch)``, any strides; ``(out, batch)`` with transpose.
        transpose: multiply by :math:`W^T` instead.

    Returns:
        Shape ``(out, batch)``, or ``(in, batch)`` with transpose, in the layout of x. Differentiable any number of
        times.

    Raises:
        ValueError: a shape does not fit. TypeError: a dtype or device does not.

    Example:
        >>> t = Topology([0, 1, 3], [0, 0, 1], shape=(2, 2))
        >>> spmm(t, torch.tensor([1.0, 2.0, 3.0]), torch.eye(2))
        tensor([[1., 0.],
                [2., 3.]])
    """
    where = "spmm"
    check_order(where, "t, values, x", t, values=values, x=x)
    features = t.shape[0] if transpose else t.shape[1]
    check_values(where, t, values)
    values, x = operands(where, t, {"values": values, "x": x})
    if x.ndim != 2 or x.shape[0] != features:
        raise ValueError(
            f"{where}: expected x of shape ({features}, batch), got {tuple(x.shape)}. Samples are columns here."
        )
    return _spmm(t, values, x, None, transpose)


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    r"""Sampled dense-dense product, :math:`s_e = \sum_n a_{in} b_{jn}` at each edge e = (i, j), nowhere else.

    Args:
        t: which edges exist, shape ``(out, in)``.
        a: shape ``(out, batch)``, any strides.
        b: shape ``(in, batch)``, any strides.

    Returns:
        Shape ``(nnz,)``, in the order of ``t``. Differentiable any number of times.

    Raises:
        ValueError: a shape does not fit. TypeError: a dtype or device does not.

    Example:
        >>> t = Topology([0, 1, 3], [0, 0, 1], shape=(2, 2))
        >>> sddmm(t, torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
        tensor([3., 6., 8.])
    """
    where = "sddmm"
    check_order(where, "t, a, b", t, a=a, b=b)
    a, b = operands(where, t, {"a": a, "b": b})
    for name, tensor, features in (("a", a, t.shape[0]), ("b", b, t.shape[1])):
        if tensor.ndim != 2 or tensor.shape[0] != features:
            raise ValueError(f"{where}: expected {name} of shape ({features}, batch), got {tuple(tensor.shape)}.")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{where}: expected a and b of one batch size, got {a.shape[1]} and {b.shape[1]}.")
    backend = asked_for(a.device)
    if in_graph():
        return library.Operators(backend).sddmm(t, a, b)
    return autograd.sddmm(t, a, b, backend)


def linear(x: Tensor, t: Topology, values: Tensor, bias: Tensor | None = None, *, transpose: bool = False) -> Tensor:
    r"""A sparse linear map of the last dimension, :math:`y = x W^T + b`, by the shape rules of torch's F.linear.

    Args:
        x: shape ``(..., in)``, any strides; or sparse, which is made dense.
        t: which edges exist, shape ``(out, in)``.
        values: shape ``(nnz,)``, in the order of ``t``.
        bias: shape ``(out,)``, or None.
        transpose: apply :math:`W^T` in place of :math:`W`; in and out change places.

    Returns:
        Shape ``(..., out)``, row-major for row-major x, feature-major for feature-major x.

    Raises:
        ValueError: a shape does not fit. TypeError: a dtype or device does not.

    Example:
        >>> t = Topology([0, 1, 3], [0, 0, 1], shape=(2, 2))
        >>> linear(torch.tensor([1.0, 10.0]), t, torch.tensor([1.0, 2.0, 3.0]))
        tensor([ 1., 32.])
    """
    given = {"x": x, "values": values} | ({} if bias is None else {"bias": bias})
    check_order("linear", "x, t, values, bias", t, **given)
    return checked_linear("linear", x, t, values, bias, transpose)


def checked_linear(
    where: str,
    x: Tensor,
    t: Topology,
    values: Tensor,
    bias: Tensor | None,
    transpose: bool,
    sparse_grad: bool = False,
) -> Tensor:
    """``linear`` in the name of a layer, which is where its messages say they come from. With ``sparse_grad`` only the
    edges of columns are read in which x is not zero throughout, and the gradient of the values names them alone."""
    if sparse_grad and transpose:
        raise ValueError(f"{where}: sparse_grad is for products that are not transposed.")
    if isinstance(x, Tensor) and x.layout is not torch.strided and x.layout in SPARSE:
        x = x.to_dense()  # as nn.Linear takes it; the batch is dense inside
    inputs, outputs = (t.shape[0], t.shape[1]) if transpose else (t.shape[1], t.shape[0])
    as_expected = ready(t, x, values, bias)  # as most calls are: call overhead dominates small layers
    if not as_expected:
        check_dense(where, {"x": x})
    check_values(where, t, values)
    if x.ndim == 0 or x.shape[-1] != inputs:
        got = "none" if x.ndim == 0 else x.shape[-1]
        raise ValueError(f"{where}: expected {inputs} input features, got {got} (x has shape {tuple(x.shape)}).")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"{where}: expected bias of shape ({outputs},), got {tuple(bias.shape)}.")
    if not as_expected:
        named = {"x": x, "values": values} | ({} if bias is None else {"bias": bias})
        x, values, *rest = operands(where, t, named)
        bias = rest[0] if rest else None
    if as_expected and not sparse_grad and not tracing.compiling() and _as_linear(t, x, values):
        weight = autograd.as_matrix(t, values)
        return torch.nn.functional.linear(x, weight.t() if transpose else weight, bias)
    leading = x.shape[:-1]
    # math.prod and not leading.numel(), which would fix the batch size of an exported program
    columns = x.t() if x.ndim == 2 else x.reshape(math.prod(leading), inputs).t()
    if sparse_grad and not tracing.transforming():
        product = used_columns.spmm_used if tracing.readable(x, values) else used_operators.spmm_used
        y = product(t, values, columns, bias, asked_for(x.device))
    else:
        if sparse_grad:
            bring_up_to_date(values)  # all of them are read
        y = _spmm(t, values, columns, bias, transpose)
    return y.t() if x.ndim == 2 else y.t().reshape(*leading, outputs)


def _as_linear(t: Topology, x: Tensor, values: Tensor) -> bool:
    """Whether torch's own linear function over the values as a matrix will do, with its gradients. Its result is
    row-major whatever x is."""
    row_major = x.stride(-1) == 1
    return row_major and x.dtype is values.dtype and is_plain_matrix(t, x.device) and not listening(t)


def _spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    backend = asked_for(x.device)
    if in_graph():
        return library.Operators(backend).spmm(t, values, x, bias, transpose)
    return autograd.spmm(t, values, x, bias, transpose, backend)
