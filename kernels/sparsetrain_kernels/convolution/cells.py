"""Numbers of images on their way into a panel's rows and out of them."""

import numpy as np

from ..jit import part
from ..lanes import ask, copy_vector
from ..operands import read, write
from ..width import VECTOR_BYTES
from .shifted import copy_numbers

FOUR, EIGHT = (0,) * 4, (0,) * 8
LINE = 64  # bytes of a cache line
FAR = 256  # numbers of a channel, from which on the next one is asked for ahead; smaller ones are in cache


@part(inline=True)
def copy_run(x, source, step, y, place, apart, numbers, lanes):
    """y[place + j*apart] = x[source + j*step] for j < numbers; one of both may be in half precision. Vectors at the end of a
    run overlap those before, and write the same again."""
    if step != 1 or apart != 1 or numbers < 4:
        for j in range(numbers):
            write(y, np.int64(place + j * apart), read(x, np.int64(source + j * step)))
    elif numbers >= lanes:
        for n in range(0, numbers, lanes):
            j = min(n, numbers - lanes)
            copy_vector(x, np.int64(source + j), y, np.int64(place + j))
    elif numbers >= 8:
        copy_numbers(x, np.int64(source), y, np.int64(place), EIGHT)
        copy_numbers(x, np.int64(source + numbers - 8), y, np.int64(place + numbers - 8), EIGHT)
    else:
        copy_numbers(x, np.int64(source), y, np.int64(place), FOUR)
        copy_numbers(x, np.int64(source + numbers - 4), y, np.int64(place + numbers - 4), FOUR)


@part
def take_cells(x, start, image_stride, ahead, cells, window, images, panel, at, length):
    """panel[at : at + length] = a window of one channel, of so many images: its runs, and zeros between them."""
    lanes, done = VECTOR_BYTES // panel.itemsize, at
    for i in range(cells.bounds[window], cells.bounds[window + 1]):
        if cells.image[i] < images:
            place, numbers = at + cells.place[i], cells.numbers[i]
            fill_zeros(panel, done, place)
            source = start + cells.image[i] * image_stride + cells.source[i]
            if ahead > FAR:
                ask_for_run(x, source + ahead, numbers * cells.step)
            copy_run(x, source, cells.step, panel, place, 1, numbers, lanes)
            done = place + numbers
    fill_zeros(panel, done, at + length)


@part(inline=True)
def ask_for_run(x, first, numbers):
    """Ask for the run of another channel, which comes soon: memory is slow where channels are read piece by piece."""
    for j in range(0, numbers, LINE // x.itemsize):
        ask(x, np.int64(first + j))


@part(inline=True)
def fill_zeros(panel, first, last):
    """panel[first:last] = 0"""
    for i in range(np.uint64(first), np.uint64(last)):
        panel[i] = 0


@part
def put_cells(panel, at, x, start, image_stride, ahead, cells, window, images):
    """The runs of a window of one channel out of panel[at:], those of so many images."""
    lanes = VECTOR_BYTES // panel.itemsize
    for i in range(cells.bounds[window], cells.bounds[window + 1]):
        if cells.image[i] < images:
            source = start + cells.image[i] * image_stride + cells.source[i]
            if ahead > FAR:
                ask_for_run(x, source + ahead, cells.numbers[i] * cells.step)
            copy_run(panel, at + cells.place[i], 1, x, source, cells.step, cells.numbers[i], lanes)
