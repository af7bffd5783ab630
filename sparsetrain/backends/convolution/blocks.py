"""Convolutions through dense blocks: some rows of W are written out with their zeros, torch convolves with them, and
they are forgotten. Of the gradient of such a block the stored positions are kept. Values, gradients and optimizer state
stay as small as the edges. Where each position has an edge, the values are the weight.

A zero that is not stored is multiplied here, as in nn.Conv2d: an infinity or NaN of the input reaches all outputs.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...dtypes import widened
from ...structure.topology import Topology
from ..blocks.expand import expand, gather
from ..blocks.precision import computed, without_autocast
from ..blocks.scratch import block_bytes, block_memory, row_blocks
from ..layout import no_view
from .geometry import Geometry
from .layout import format_of, in_format_of, sum_over_positions


class Part(NamedTuple):
    """Rows of W whose convolution is made at once: some of one group, or all of several."""

    first: int
    last: int
    groups: int
    channels: slice  # of the input, that they read


def forward(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, g: Geometry) -> Tensor:
    t.check_untouched()
    with without_autocast(x):
        operand = _padded(computed(x), g)
        whole = None if bias is None else bias.detach().to(operand.dtype)
        parts = _parts(t, g, operand)
        results = (_convolved(t, values, operand, whole, g, part) for part in parts)
        if len(parts) == 1:
            return no_view(in_format_of(x, next(results)).to(x.dtype))
        size = (x.shape[0], t.shape[0], *g.output_size(tuple(x.shape[2:])))
        y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=format_of(x))
        for part, result in zip(parts, results, strict=True):
            y[:, part.first : part.last] = result
        return y


def input_gradient(t: Topology, values: Tensor, dy: Tensor, size: tuple[int, ...], g: Geometry) -> Tensor:
    t.check_untouched()
    with without_autocast(dy):
        operand = computed(dy)
        shape = (dy.shape[0], g.channels_in(t), *_inner_size(size, g))
        like = operand.new_empty(1).expand(shape)  # torch asks for the input, of which only the shape counts
        total = _Sum(operand, shape)
        for part in _parts(t, g, operand):
            weight = _weight(t, values, operand, g, part)
            total.add(part, _gradients(operand, like, weight, g, part, (True, False))[0])
        return no_view(_cropped(total.result(), size, g, dy).to(dy.dtype))


def value_gradient(t: Topology, x: Tensor, dy: Tensor, g: Geometry) -> Tensor:
    t.check_untouched()
    with without_autocast(x):
        inner, dy = _padded(widened(x.detach()), g), widened(dy.detach())
        grad = inner.new_empty(t.nnz)
        for part in _parts(t, g, inner):
            block = weight_gradient(inner, dy, g, part)
            if _is_full(t):
                return no_view(block.view(-1))
            gather(t, block, part.first, part.last, grad)
        return grad


def backward(
    t: Topology, values: Tensor, x: Tensor, dy: Tensor, g: Geometry, bias: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    t.check_untouched()
    of_bias = sum_over_positions(dy.detach().to(values.dtype)) if bias else None
    if x.dtype is not values.dtype and x.device.type == "cuda":  # halves, whose weight gradient would be in halves too
        dx = in_format_of(x, input_gradient(t, values, dy, tuple(x.shape[2:]), g))
        return value_gradient(t, x, dy, g), dx, of_bias
    with without_autocast(x):
        inner, operand = _padded(computed(x), g), computed(dy)
        grad, total = inner.new_empty(t.nnz), _Sum(inner, tuple(inner.shape))
        for part in _parts(t, g, inner):
            weight = _weight(t, values, inner, g, part)
            of_x, of_weight = _gradients(operand, inner, weight, g, part, (True, True))
            total.add(part, of_x)
            block = of_weight.reshape(part.last - part.first, -1).contiguous()
            if _is_full(t):
                grad = no_view(block.view(-1))
            else:
                gather(t, block, part.first, part.last, grad)
        dx = no_view(_cropped(total.result(), tuple(x.shape[2:]), g, x).to(x.dtype))
        return grad, dx, of_bias


def weight_gradient(x: Tensor, dy: Tensor, g: Geometry, part: Part) -> Tensor:
    """The gradient of some rows of W, all positions of them, contiguous; x is padded where that is not symmetric."""
    shape = (part.last - part.first, x.shape[1] // g.groups, *g.kernel)
    like = x.new_empty(1).expand(shape)
    dense = _gradients(dy, x, like, g, part, (False, True))[1]
    return dense.reshape(shape[0], -1).contiguous()


def weight_rows(x: Tensor, dy: Tensor, g: Geometry, first: int, last: int) -> Iterator[Tensor]:
    """The gradient of rows first..last of W, one block after another."""
    x, per_group = _padded(x, g), dy.shape[1] // g.groups
    while first < last:
        group = first // per_group
        if first % per_group == 0 and last - first >= per_group:
            stop = last // per_group * per_group
        else:
            stop = min(last, (group + 1) * per_group)
        yield weight_gradient(x, dy, g, _part(first, stop, per_group, x.shape[1] // g.groups))
        first = stop


def _parts(t: Topology, g: Geometry, x: Tensor) -> list[Part]:
    """Rows that fit into the bytes of a block, groups being whole or cut; all, where the values are the weight."""
    budget = t.numel * x.itemsize if _is_full(t) else block_bytes(x.device)
    return _cut(*t.shape, g.groups, g.volume, x.itemsize, budget)


@lru_cache
def _cut(rows: int, columns: int, groups: int, volume: int, itemsize: int, budget: int) -> list[Part]:
    per_group, of_input = rows // groups, columns // volume
    if per_group * columns * itemsize <= budget or per_group == 1:
        blocks = row_blocks(groups, per_group * columns, itemsize, budget)
        spans = [(first * per_group, last * per_group) for first, last in blocks]
    else:
        inside = row_blocks(per_group, columns, itemsize, budget)
        spans = [
            (group * per_group + first, group * per_group + last) for group in range(groups) for first, last in inside
        ]
    return [_part(first, last, per_group, of_input) for first, last in spans]


def _part(first: int, last: int, per_group: int, of_input: int) -> Part:
    begin, end = first // per_group, (last - 1) // per_group + 1
    return Part(first, last, end - begin, slice(begin * of_input, end * of_input))


def _weight(t: Topology, values: Tensor, x: Tensor, g: Geometry, part: Part) -> Tensor:
    shape = (part.last - part.first, t.shape[1] // g.volume, *g.kernel)
    if _is_full(t):
        return values.detach().to(x.dtype).view(shape)
    block = block_memory(part.last - part.first, t.shape[1], x)
    expand(t, values.detach(), part.first, part.last, block)
    return block.view(shape)


def _convolved(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, g: Geometry, part: Part) -> Tensor:
    weight = _weight(t, values, x, g, part)
    of_part = None if bias is None else bias[part.first : part.last]
    channels = x[:, part.channels]
    return torch.convolution(
        channels, weight, of_part, g.stride, _common(g), g.dilation, False, (0,) * len(g.kernel), part.groups
    )


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, g: Geometry, part: Part, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Of what this part reads of x, and of the weight; x is padded where that is not symmetric."""
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        dy[:, part.first : part.last], x[:, part.channels], weight, None, g.stride, _common(g), g.dilation, False,
        (0,) * len(g.kernel), part.groups, (*wanted, False),
    )  # fmt: skip
    return dx, dweight


class _Sum:
    """The gradient of an input to which parts add, of which most read channels that no other part reads."""

    def __init__(self, like: Tensor, shape: tuple[int, ...]) -> None:
        self._like, self._shape = like, shape
        self._total: Tensor | None = None

    def add(self, part: Part, dx: Tensor) -> None:
        if self._total is None and dx.shape[1] == self._shape[1]:
            self._total = dx
            return
        if self._total is None:
            self._total = self._like.new_zeros(self._shape)
        self._total[:, part.channels] += dx

    def result(self) -> Tensor:
        return self._like.new_zeros(self._shape) if self._total is None else self._total


@lru_cache
def _common(g: Geometry) -> tuple[int, ...]:
    """The padding that both sides have, which torch's convolution takes."""
    return tuple(min(pair) for pair in g.padding)


def _padded(x: Tensor, g: Geometry) -> Tensor:
    """x with what one side has more of padding."""
    more = _more(g)
    return pad(x, more) if more else x


@lru_cache
def _more(g: Geometry) -> list[int]:
    """What one side has more of padding, last dimension first, or nothing."""
    more = [side - min(pair) for pair in reversed(g.padding) for side in pair]
    return more if any(more) else []


def _inner_size(size: tuple[int, ...], g: Geometry) -> tuple[int, ...]:
    """Spatial sizes after ``_padded``."""
    return tuple(n + max(pair) - min(pair) for n, pair in zip(size, g.padding, strict=True))


def _cropped(dx: Tensor, size: tuple[int, ...], g: Geometry, like: Tensor) -> Tensor:
    """The part of a gradient that belongs to the input before ``_padded``, in the layout of ``like``."""
    if _more(g):
        for k, (before, after) in enumerate(g.padding):
            dx = dx.narrow(2 + k, before - min(before, after), size[k])
    return in_format_of(like, dx)


def _is_full(t: Topology) -> bool:
    return t.nnz == t.numel
