"""Convolutions as layers call them: checked, and in the form that the code below expects."""

import torch
from torch import Tensor

from .. import tracing
from ..backends.choice import AUTOMATIC, asked_for
from ..backends.convolution.geometry import Geometry
from ..structure.topology import Topology
from . import convolution_operators
from .autograd import as_matrix
from .convolution_autograd import Form, contract
from .gradient_factors import listening
from .operands import check_dense, check_values, in_graph, operands, ready

SPACE = {1: "length", 2: "height, width", 3: "depth, height, width"}


def checked_convolution(where: str, x: Tensor, t: Topology, values: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    """The convolution of x, (batch, channels, ...) or (channels, ...), by the shape rules of torch's F.conv2d.

    Raises:
        ValueError: a shape does not fit, an image is empty, or the kernel is larger than the padded input. TypeError: a
        dtype or device does not fit.
    """
    as_expected = ready(t, x, values, bias)
    if not as_expected:
        check_dense(where, {"x": x})
    check_values(where, t, values)
    check_input(where, x, g.channels_in(t), len(g.kernel))
    single = x.ndim == len(g.kernel) + 1
    padded = g.padded_size(tuple(x.shape[-len(g.kernel) :]))
    if any(size < reach for size, reach in zip(padded, g.reach, strict=True)):
        raise ValueError(
            f"{where}: expected an input that is as large as the kernel, which spans {g.reach}, got {padded} with its "
            f"padding (x has shape {tuple(x.shape)}). Pad more, or take a smaller kernel or dilation."
        )
    if 0 in x.shape[-len(g.kernel) :] and (single or x.shape[0] != 0):  # torch refuses these too
        raise ValueError(
            f"{where}: expected at least one position in each dimension, got x of shape {tuple(x.shape)}. "
            "Leave such images out of the batch."
        )
    if not as_expected:
        named = {"x": x, "values": values} | ({} if bias is None else {"bias": bias})
        x, values, *rest = operands(where, t, named)
        bias = rest[0] if rest else None
    batch = x[None] if single else x
    request = asked_for(x.device)
    if as_expected and request == AUTOMATIC and not tracing.compiling() and _as_torch(t, x, values, g):
        weight = as_matrix(t, values).view(t.shape[0], -1, *g.kernel)
        before = [first for first, _ in g.padding]
        y = torch.convolution(batch, weight, bias, g.stride, before, g.dilation, False, [0] * len(g.kernel), g.groups)
        return y[0] if single else y
    form = Form(t, g, tuple(batch.shape[2:]), request)
    compute = convolution_operators.convolution if in_graph() else contract
    y = compute(form, values, batch, None, bias)
    return y[0] if single else y


def _as_torch(t: Topology, x: Tensor, values: Tensor, g: Geometry) -> bool:
    """Whether torch's own convolution over the values as a weight will do, with its gradients."""
    full, even = t.nnz == t.numel > 0, all(before == after for before, after in g.padding)
    return full and even and x.dtype is values.dtype and not listening(t)


def check_input(where: str, x: Tensor, channels: int, dimensions: int) -> None:
    """An input of so many channels, with or without a batch."""
    if x.ndim not in (dimensions + 1, dimensions + 2):
        shape = f"channels, {SPACE[dimensions]}"
        raise ValueError(
            f"{where}: expected x of shape (batch, {shape}) or ({shape}), got {tuple(x.shape)}, {x.ndim} dimensions."
        )
    found = x.shape[-dimensions - 1]
    if found != channels:
        raise ValueError(f"{where}: expected {channels} input channels, got {found} (x has shape {tuple(x.shape)}).")
