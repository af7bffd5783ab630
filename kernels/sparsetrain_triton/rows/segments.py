"""The gradients of equal ids, which lie side by side once the ids are sorted, and their sums.

Some ids are named by a good part of a batch, and one program would add for long. So the sorted places are also cut into
chunks: a segment's owner adds what lies in the chunk where the segment begins, and the sums of the chunks after it, which
were made before.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..launch import ceil_divided, launch, power_of_two

CHUNK = 64  # places


class Segments(NamedTuple):
    """Sorted ids (k,); for each its place in ``gradients`` (any number, dim); sums of the chunks (k / CHUNK, dim), of
    those that begin within a segment."""

    ids: Tensor
    order: Tensor
    gradients: Tensor
    sums: Tensor


def segments(ids: Tensor, gradients: Tensor, places: Tensor | None = None, rising: bool = False) -> Segments:
    """The gradients (k, dim) of ids (k,) in any order; with ``places`` that of ids[i] is ``gradients[places[i]]``. Ids
    that rise are not sorted."""
    ids, order = (ids, torch.arange(ids.numel(), device=ids.device)) if rising else torch.sort(ids, stable=True)
    order = order if places is None else places[order]
    count, dim = ceil_divided(ids.numel(), CHUNK), gradients.shape[1]
    sums = gradients.new_empty(count, dim)
    width = power_of_two(dim, 1, 64)
    launch(
        _sum_chunks, count * ceil_divided(dim, width), ids, order, gradients, sums, count, ids.numel(), dim, CHUNK=CHUNK,
        WIDTH=width,
    )
    return Segments(ids, order, gradients, sums)


@triton.jit(do_not_specialize=["count", "size"])
def _sum_chunks(ids, order, gradients, sums, count, size, dim, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
    chunk = (tl.program_id(0) % count).to(tl.int64)
    columns = (tl.program_id(0) // count) * WIDTH + tl.arange(0, WIDTH)
    begin = chunk * CHUNK
    row = tl.load(ids + begin)
    before = tl.load(ids + begin - 1, mask=chunk > 0, other=-1)
    row = tl.where(row == before, row, -2)  # no id: what begins here, its owner adds
    places = begin + tl.arange(0, CHUNK)
    same = tl.load(ids + places, mask=places < size, other=-1) == row
    at = tl.load(order + places, mask=same, other=0).to(tl.int64)
    inside = columns < dim
    read = tl.load(gradients + at[:, None] * dim + columns[None, :], mask=same[:, None] & inside[None, :], other=0)
    tl.store(sums + chunk * dim + columns, tl.sum(read, axis=0), mask=inside)


@triton.jit
def owned(ids, size, ROWS: tl.constexpr):
    """The sorted places that this program looks at, the ids there, and at which of them a segment begins."""
    places = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(ids + places, mask=places < size, other=-1).to(tl.int64)
    before = tl.load(ids + places - 1, mask=(places > 0) & (places < size), other=-1).to(tl.int64)
    return places, rows, rows != before


@triton.jit
def summed(ids, order, gradients, sums, size, dim, places, rows, owns, columns, CHUNK: tl.constexpr):
    """The sums of the gradients of owned segments, in some columns."""
    inside = (columns < dim)[None, :]
    total = tl.zeros([places.shape[0], columns.shape[0]], dtype=tl.float32)
    end = (places // CHUNK + 1) * CHUNK
    place, more, goes_on = places, owns, places < 0
    while tl.max(more.to(tl.int32), axis=0) > 0:
        at = tl.load(order + place, mask=more, other=0).to(tl.int64)
        total += tl.load(gradients + at[:, None] * dim + columns[None, :], mask=more[:, None] & inside, other=0)
        place += 1
        same = more & (tl.load(ids + place, mask=more & (place < size), other=-1) == rows)
        more = same & (place < end)
        goes_on = goes_on | (same & (place >= end))
    chunk = end // CHUNK
    while tl.max(goes_on.to(tl.int32), axis=0) > 0:
        total += tl.load(sums + chunk[:, None] * dim + columns[None, :], mask=goes_on[:, None] & inside, other=0)
        chunk += 1
        begin = chunk * CHUNK
        goes_on = goes_on & (tl.load(ids + begin, mask=goes_on & (begin < size), other=-1) == rows)
    return total
