"""Convolutions as layers call them: checked, and in the form that the code below expects."""

from torch import Tensor

from ..backends.choice import asked_for
from ..backends.convolution.geometry import Geometry
from ..structure.topology import Topology
from . import convolution_operators
from .convolution_autograd import Form, contract
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
    form = Form(t, g, tuple(batch.shape[2:]), asked_for(x.device))
    compute = convolution_operators.convolution if in_graph() else contract
    y = compute(form, values, batch, None, bias)
    return y[0] if single else y


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
