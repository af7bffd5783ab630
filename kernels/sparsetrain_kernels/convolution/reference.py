"""Plain twins of the kernels: the same signatures and the mathematics in loops that can be read. For tests."""

import numpy as np

from ..half_precision import rounded, widened


def panel(images, cells, g, lead=0):
    """The rows (channels * phases, stride) of a group of images, as many as the layout has or less, zeros between them."""
    phases = (cells.bounds.size - 1) // g.spans
    rows = np.zeros((images.shape[1] * phases, g.stride), images.dtype)
    for row, place, image, source in _every_cell(images.shape[1], cells, g, images.shape[0]):
        rows[row, lead + place] = images[image, row // phases, source]
    return rows


def unpanel(rows, images, cells, g):
    """Those numbers of the rows of a group that are in images."""
    phases = (cells.bounds.size - 1) // g.spans
    for row, place, image, source in _every_cell(images.shape[1], cells, g, images.shape[0]):
        images[image, row // phases, source] = rows[row, place]


def _every_cell(channels, cells, g, images):
    phases = (cells.bounds.size - 1) // g.spans
    for channel in range(channels):
        for phase in range(phases):
            for span in range(g.spans):
                for i in range(cells.bounds[phase * g.spans + span], cells.bounds[phase * g.spans + span + 1]):
                    if cells.image[i] < images:
                        for j in range(cells.numbers[i]):
                            place, source = span * g.span + cells.place[i] + j, cells.source[i] + j * cells.step
                            yield channel * phases + phase, place, cells.image[i], source


def forward(e, g, values, x, y, bias=None, threads=1):
    layout, starts = g.layout, e.starts(g)
    channels, outputs = x.shape[1] // e.groups, y.shape[1] // e.groups
    for first in range(0, x.shape[0], layout.images):
        part = slice(first, first + layout.images)
        numbers = panel(widened(x[part]), g.inputs, layout).reshape(-1)
        sums = np.zeros((y.shape[1], layout.stride), values.dtype)
        for o in range(y.shape[1]):
            place = o // outputs * channels * layout.phases * layout.stride
            sums[o] = 0 if bias is None else bias[o]
            for k in range(e.crow[o], e.crow[o + 1]):
                at = place + starts[e.col[k]]
                sums[o, : layout.length] += values[k] * numbers[at : at + layout.length]
        images = np.zeros(y[part].shape, values.dtype)
        unpanel(sums, images, g.outputs, layout)
        y[part] = rounded(images, y.dtype)


def backward(e, g, values, x, dy, dx, grad, threads=1):
    layout, starts = g.layout, e.starts(g)
    grad[:] = 0
    for first in range(0, x.shape[0], layout.images):
        part = slice(first, first + layout.images)
        inputs = panel(widened(x[part]), g.inputs, layout)
        outputs = panel(widened(dy[part]), g.outputs, layout, layout.lead).reshape(-1)
        sums = np.zeros(inputs.shape, values.dtype)
        for r in range(e.crow.size - 1):
            for k in range(e.crow[r], e.crow[r + 1]):
                at = starts[e.code[k]]
                read = outputs[at : at + layout.length]
                sums[r, : layout.length] += values[e.perm[k]] * read
                grad[e.perm[k]] += np.dot(inputs[r, : layout.length], read)
        if dx is not None:
            images = widened(dx[part]).copy()
            unpanel(sums, images, g.inputs, layout)
            dx[part] = rounded(images, dx.dtype)
