"""Numbers of images on their way into a panel's rows and out of them."""

import numpy as np

from ..expansion import VECTORS, compress_steps, expand_steps
from ..jit import part
from ..lanes import ask_early, copy_vector
from ..operands import read, write
from ..width import VECTOR_BYTES
from .pieces import BITS, IMAGE, NUMBERS, PLACE, SOURCE, STEPS, SURE
from .shifted import copy_numbers

FOUR, EIGHT = (0,) * 4, (0,) * 8
LINE = 64  # bytes of a cache line
FAR = 256  # numbers of a channel, from which on others are asked for ahead; smaller ones are in cache
AHEAD = 4  # channels: a run of the next one would come too late


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


@part(inline=True)
def take_cells(x, start, image_stride, ahead, cells, window, images, panel, at, length):
    """panel[at : at + length] = a window of one channel, of so many images: its runs, and zeros between them."""
    lanes, done = VECTOR_BYTES // panel.itemsize, at
    if VECTORS and cells.bits.size > 0:
        for i in range(cells.piece_bounds[window], cells.piece_bounds[window + 1]):
            piece = cells.pieces[i]
            if piece[IMAGE] < images:
                numbers = np.int64(start + piece[IMAGE] * image_stride + piece[SOURCE])
                if ahead > FAR:
                    ask_for_run(x, numbers + AHEAD * ahead, piece[NUMBERS])
                place = np.int64(at + piece[PLACE])
                fill_zeros(panel, done, place)
                done = place + piece[STEPS] * lanes
                if numbers + piece[NUMBERS] + lanes <= x.size:
                    expand_steps(x, numbers, cells.bits, piece[BITS], piece[STEPS], panel, place)
                else:  # no vector reads beyond x: its last numbers wait in the panel, where they are read before it is written
                    waiting = np.int64(done - piece[NUMBERS])
                    copy_run(x, numbers, 1, panel, waiting, 1, piece[NUMBERS], lanes)
                    expand_steps(panel, waiting, cells.bits, piece[BITS], piece[STEPS], panel, place)
    else:
        for i in range(cells.bounds[window], cells.bounds[window + 1]):
            if cells.image[i] < images:
                source = start + cells.image[i] * image_stride + cells.source[i]
                if ahead > FAR:
                    ask_for_run(x, source + AHEAD * ahead, cells.numbers[i] * cells.step)
                place = at + cells.place[i]
                fill_zeros(panel, done, place)
                done = place + cells.numbers[i]
                copy_run(x, source, cells.step, panel, place, 1, cells.numbers[i], lanes)
    fill_zeros(panel, done, at + length)


@part(inline=True)
def ask_for_run(x, first, numbers):
    """Ask for the run of another channel: memory is slow where channels are read and written piece by piece."""
    for j in range(0, numbers, LINE // x.itemsize):
        ask_early(x, np.int64(first + j))


@part(inline=True)
def fill_zeros(panel, first, last):
    """panel[first:last] = 0"""
    for i in range(np.uint64(first), np.uint64(last)):
        panel[i] = 0


@part(inline=True)
def put_cells(panel, at, x, start, image_stride, ahead, cells, window, images):
    """The runs of a window of one channel out of panel[at:], those of so many images. The panel's numbers are lost, and
    a vector beyond them is read."""
    lanes = VECTOR_BYTES // panel.itemsize
    if VECTORS and cells.bits.size > 0:
        # the last piece first: a piece that is taken together writes over what comes after it
        for i in range(cells.piece_bounds[window + 1] - 1, cells.piece_bounds[window] - 1, -1):
            piece = cells.pieces[i]
            if piece[IMAGE] < images:
                source = start + piece[IMAGE] * image_stride + piece[SOURCE]
                if ahead > FAR:
                    ask_for_run(x, source + AHEAD * ahead, piece[NUMBERS])
                place, sure = np.int64(at + piece[PLACE]), piece[SURE]
                k = compress_steps(panel, place, cells.bits, piece[BITS], sure, x, np.int64(source))
                # no vector writes beyond the piece: its last numbers are taken together in the panel
                rest, bits = np.int64(place + sure * lanes), piece[BITS] + sure * lanes // 8
                compress_steps(panel, rest, cells.bits, bits, piece[STEPS] - sure, panel, rest)
                copy_run(panel, rest, 1, x, k, 1, source + piece[NUMBERS] - k, lanes)
    else:
        for i in range(cells.bounds[window], cells.bounds[window + 1]):
            if cells.image[i] < images:
                source = start + cells.image[i] * image_stride + cells.source[i]
                if ahead > FAR:
                    ask_for_run(x, source + AHEAD * ahead, cells.numbers[i] * cells.step)
                copy_run(panel, at + cells.place[i], 1, x, source, cells.step, cells.numbers[i], lanes)
