"""Plain twins of the kernels: the same signatures and the mathematics in loops that can be read. For tests."""

import numpy as np

from ..half_precision import rounded, widened


def positions(images, cells, g):
    """Rows (channels * phases, length) of a group of images, zeros between them."""
    rows = np.zeros((images.shape[1] * _phases(cells, g), g.length + g.lead), images.dtype)
    for row, place, image, source in _every_cell(images.shape[1], cells, g, images.shape[0]):
        rows[row, place] = images[image, row // _phases(cells, g), source]
    return rows


def images_of(rows, images, cells, g):
    """Those numbers of the rows of a group that are in images."""
    for row, place, image, source in _every_cell(images.shape[1], cells, g, images.shape[0]):
        images[image, row // _phases(cells, g), source] = rows[row, place]


def _phases(cells, g):
    return (cells.bounds.size - 1) // g.spans


def _every_cell(channels, cells, g, images):
    phases = _phases(cells, g)
    for row in range(channels * phases):
        for span in range(g.spans):
            window = row % phases * g.spans + span
            for i in range(cells.bounds[window], cells.bounds[window + 1]):
                if cells.image[i] < images:
                    for j in range(cells.numbers[i]):
                        yield row, span * g.span + cells.place[i] + j, cells.image[i], cells.source[i] + j * cells.step


def forward(e, g, values, x, y, bias=None, threads=1):
    layout, taps = g.layout, e.taps
    for first in range(0, x.shape[0], layout.images):
        part = slice(first, first + layout.images)
        rows = positions(widened(x[part]), g.inputs, layout)
        sums = np.zeros((y.shape[1], layout.length), values.dtype)
        for o in range(y.shape[1]):
            sums[o] = 0 if bias is None else bias[o]
            group = o // (y.shape[1] // e.groups) * (x.shape[1] // e.groups)
            for k in range(e.crow[o], e.crow[o + 1]):
                channel, tap = group + e.col[k] // taps, e.col[k] % taps
                row, shift = channel * layout.phases + g.phase[tap], g.shift[tap]
                sums[o] += values[k] * rows[row, shift : shift + layout.length]
        images = np.zeros(y[part].shape, values.dtype)
        images_of(sums, images, g.outputs, layout)
        y[part] = rounded(images, y.dtype)


def backward(e, g, values, x, dy, dx, grad, bias_grad=None, threads=1):
    layout, length = g.layout, g.layout.length
    grad[:] = 0
    if bias_grad is not None:
        bias_grad[:] = widened(dy).sum((0, 2))
    for first in range(0, x.shape[0], layout.images):
        part = slice(first, first + layout.images)
        inputs, outputs = (positions(widened(each[part]), cells, layout) for each, cells in ((x, g.inputs), (dy, g.outputs)))
        sums = np.zeros((inputs.shape[0], length), values.dtype)
        for r in range(e.crow.size - 1):
            for k in range(e.crow[r], e.crow[r + 1]):
                shift = g.shift[e.code[k] // dy.shape[1]]
                read = np.concatenate([np.zeros(shift, values.dtype), outputs[e.code[k] % dy.shape[1]]])[:length]
                sums[r] += values[e.perm[k]] * read
                grad[e.perm[k]] += np.dot(inputs[r, :length], read)
        if dx is not None:
            images = widened(dx[part]).copy()
            images_of(sums, images, g.inputs, layout)
            dx[part] = rounded(images, dx.dtype)
