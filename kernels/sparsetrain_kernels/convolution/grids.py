"""Where the numbers of images stand in a panel of a convolution, and which shift a tap of the kernel is there.

Padded images lie one after another as flat rows of *positions*, a row for each channel. A stored weight at tap k then is
the same shift for all positions:

    y[o, p] = sum over edges (o, c, k) of w * x[c, p + shift[k]]

so that no number is copied for each tap. The zeros after a row of an image are those before the next one. With a stride, the
positions of each remainder (a *phase*) are a panel of their own, in which a stride is a step of one.

Outputs stand on the same grid, with positions between them that mean nothing: they are computed and never read, and
zero where gradients are.
"""

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ..panels import ALIGNMENT
from ..plan import Array, cache_bytes
from ..width import VECTOR_BYTES
from .pieces import pieces_of

POSITIONS = 1024  # of a group of images, at most, where an image is smaller: small ones fill tiles together
WASTE = 1.05  # of positions in tiles that are not full, beside what the best number of images wastes
WINDOW = cache_bytes(2, 1024 * 1024) // 4  # bytes that a span of positions of all channels may take: two threads share L2
SPAN = 4  # times what taps read beyond a span, which is packed again with the next one, is the least of a span


class Cells(NamedTuple):
    """The runs of neighbouring numbers of one phase after another, window by window: so many ``numbers`` from position
    ``place`` of the window on, which an image holds from ``source`` on, ``step`` apart. ``bounds[phase*spans + span]`` is
    the first run of a window. Where possible they are in ``pieces`` too, with bounds and ``bits`` of their own."""

    bounds: Array
    place: Array
    image: Array
    source: Array
    numbers: Array
    step: int
    piece_bounds: Array
    pieces: Array
    bits: Array


class Layout(NamedTuple):
    """So many ``images`` make a group, whose ``length`` positions are computed span by span. Panels hold the window of a span:
    it and ``lead`` positions more, in rows of ``stride`` numbers. A vector has so many ``lanes``."""

    images: int
    length: int
    lead: int
    stride: int
    span: int
    spans: int
    phases: int
    lanes: int


class Grid(NamedTuple):
    """A layout, shift and phase of each tap, and where inputs and outputs stand: in spans, and in the windows that are read,
    of inputs with what comes after a span, of outputs with what was before.

    ``from_inputs[channel*taps + tap]`` is where that column of the weight reads in a panel of inputs, and
    ``from_outputs[tap*outputs + output]`` where it reads in one of the gradients of outputs, whose rows begin ``lead``
    positions early."""

    layout: Layout
    shift: Array
    phase: Array
    inputs: Cells
    outputs: Cells
    read_inputs: Cells
    read_outputs: Cells
    from_inputs: Array
    from_outputs: Array


class _Dimension(NamedTuple):
    """One spatial dimension: where each tap reads, and which cells of a phase hold inputs."""

    out: int
    phases: list[int]  # those that taps read
    taps: list[tuple[int, int]]  # phase and shift of each tap
    cells: list[tuple[int, int, int]]  # of each phase: first cell that holds an input, how many do, and which input is first

    @property
    def pitch(self) -> int:
        """Cells from one row to the next: data and what taps read beyond it, which may be the zeros before the next row."""
        last = max(shift for _, shift in self.taps) + self.out
        zeros = min(first for first, _, _ in self.cells)
        data = max(first + count for first, count, _ in self.cells)
        return max(self.out, data, last - zeros)


def _dimension(size: int, kernel: int, stride: int, dilation: int, before: int, out: int) -> _Dimension:
    taps = [(k * dilation % stride, k * dilation // stride) for k in range(kernel)]
    phases = sorted({phase for phase, _ in taps})
    cells = []
    for phase in phases:
        first = max(0, -((phase - before) // stride))  # the first cell at or after the first input
        source = phase + first * stride - before
        cells.append((first, max(0, -(-(size - source) // stride)), source))
    return _Dimension(out, phases, [(phases.index(phase), shift) for phase, shift in taps], cells)


@lru_cache(maxsize=256)
def grid(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], before: tuple[int, ...],
    out: tuple[int, ...], batch: int, channels: int, outputs: int, tile: int, itemsize: int,
) -> Grid:
    """The grid of a convolution of images of spatial ``size``, padded by ``before``, to images of size ``out``, in tiles of so
    many numbers of ``itemsize`` bytes.

    Example:
        >>> g = grid((4,), (3,), (1,), (1,), (1,), (4,), batch=2, channels=1, outputs=1, tile=16, itemsize=4)
        >>> g.shift.tolist(), g.inputs.place.tolist(), g.outputs.place.tolist()  # five positions for an image of four
        ([0, 1, 2], [1, 6], [0, 5])
    """
    spatial = [_dimension(*of) for of in zip(size, kernel, stride, dilation, before, out, strict=True)]
    pitches = [dimension.pitch for dimension in spatial]
    steps = [math.prod(pitches[i + 1 :]) for i in range(len(pitches))]  # positions from one cell to the next, by dimension
    phases = list(product(*(range(len(dimension.phases)) for dimension in spatial)))
    taps = [tuple(zip(*tap, strict=True)) for tap in product(*(dimension.taps for dimension in spatial))]
    shift = [sum(shift * step for shift, step in zip(shifts, steps, strict=True)) for _, shifts in taps]
    layout = _layout(math.prod(pitches), max(shift), len(phases), batch, max(channels * len(phases), outputs), tile, itemsize)
    of_inputs = [
        _runs([d.cells[i] for d, i in zip(spatial, chosen, strict=True)], list(size), steps, stride) for chosen in phases
    ]
    of_outputs = _runs([(0, n, 0) for n in out], list(out), steps, (1,) * len(out))
    plane, lead, step = math.prod(pitches), layout.lead, stride[-1]
    shifts, phase = np.array(shift, np.int64), np.array([phases.index(chosen) for chosen, _ in taps], np.int64)
    return Grid(
        layout, shifts, phase,
        _cells(of_inputs, step, plane, layout), _cells([of_outputs], 1, plane, layout),
        _cells(of_inputs, step, plane, layout, after=lead), _cells([of_outputs], 1, plane, layout, before=lead),
        ((np.arange(channels)[:, None] * len(phases) + phase) * layout.stride + shifts).ravel(),
        (np.arange(outputs) * layout.stride + lead - shifts[:, None]).ravel(),
    )


def _layout(plane: int, lead: int, phases: int, batch: int, rows: int, tile: int, itemsize: int) -> Layout:
    """Of images of so many positions, in panels of at most so many rows."""
    images = _images_together(plane, batch, tile)
    length = -(-images * plane // tile) * tile
    span = min(length, max(WINDOW // (rows * itemsize) // tile, -(-SPAN * lead // tile), 1) * tile)
    line = ALIGNMENT // itemsize
    stride = -(-(lead + span) // line) * line
    stride += line if stride * itemsize % 1024 == 0 else 0  # rows that are a power of two apart would share few cache lines
    return Layout(images, length, lead, stride, span, -(-length // span), phases, VECTOR_BYTES // itemsize)


def _images_together(plane: int, batch: int, tile: int) -> int:
    """The smallest number of images whose positions fill tiles about as well as any."""
    most = max(1, min(batch, POSITIONS // plane))
    waste = [-(-n * plane // tile) * tile / (n * plane) for n in range(1, most + 1)]
    return next(n for n, of_n in enumerate(waste, 1) if of_n <= WASTE * min(waste))


def _runs(cells: list[tuple[int, int, int]], sizes: list[int], steps: list[int], stride: tuple[int, ...]) -> tuple[Array, Array, int]:
    """Place and source of each row of one image that holds numbers of a phase, and how many it holds."""
    place, source = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for (first, count, start), size, step, apart in zip(cells[:-1], sizes[:-1], steps[:-1], stride[:-1], strict=True):
        across = np.arange(count, dtype=np.int64)
        place = (place[:, None] + (first + across) * step).ravel()
        source = (source[:, None] * size + start + across * apart).ravel()
    first, count, start = cells[-1]
    place, source = place + first, source * sizes[-1] + start
    together = np.diff(place)
    if place.size > 1 and stride[-1] == 1 and bool((together == count).all() and (np.diff(source) == count).all()):
        return place[:1], source[:1], count * place.size  # nothing between the rows
    return place, source, count


def _cells(
    runs: list[tuple[Array, Array, int]], step: int, plane: int, layout: Layout, before: int = 0, after: int = 0
) -> Cells:
    """The runs of a group of images in the window of each span: from so many positions before it to so many after it."""
    bounds, parts = [0], []
    for place, source, count in runs:
        image = np.repeat(np.arange(layout.images), place.size)
        first, start = np.tile(place, layout.images) + image * plane, np.tile(source, layout.images)
        for span in range(layout.spans):
            begin, end = span * layout.span - before, (span + 1) * layout.span + after
            skipped = np.maximum(begin - first, 0)
            held = np.minimum(first + count, end) - first - skipped
            part = np.stack([first + skipped - begin, image, start + skipped * step, held])[:, held > 0]
            parts.append(part)
            bounds.append(bounds[-1] + part.shape[1])
    place, image, source, numbers = np.concatenate(parts, axis=1).astype(np.int64)
    runs_of = np.array(bounds, np.int64), place, image, source, numbers
    return Cells(*runs_of, step, *pieces_of(*runs_of, step, layout.lanes))
