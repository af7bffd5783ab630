"""Which features of a batch are not zero in every sample: one reading of the batch, at the speed of memory."""

import numpy as np

from .jit import kernel, part
from .launch import launch
from .operands import nonzero
from .panels import flat
from .plan import Array
from .workers import each_share

BLOCK = 4096  # features of a task


@part
def used_tasks(first, last, x, feature_stride, batch_stride, batch, used):
    for block in range(first, last):
        f0, f1 = block * BLOCK, min(used.size, (block + 1) * BLOCK)
        some = used[f0:f1]
        if feature_stride == 1:
            for n in range(batch):
                sample = x[n * batch_stride + f0 : n * batch_stride + f1]
                for f in range(some.size):
                    some[f] |= nonzero(sample[f])
        else:
            for f in range(some.size):
                for n in range(batch):
                    if nonzero(x[(f0 + f) * feature_stride + n * batch_stride]):
                        some[f] = 1
                        break


@kernel
def used_kernel(pool, workers, blocks, *args):
    each_share(pool, workers, blocks, used_tasks, args)


def used(x: Array, threads: int = 1) -> Array:
    """Of each feature of x, (features, batch) with any strides that are not negative, whether a sample is not zero.

    x may be in half precision: the bits of float16 as np.int16, those of bfloat16 as np.uint16.

    Example:
        >>> used(np.array([[0.0, 0.0], [0.0, 2.0], [np.nan, 0.0]])).tolist()
        [False, True, True]
    """
    features, batch = x.shape
    out = np.zeros(features, np.uint8)
    blocks = -(-features // BLOCK)
    launch(used_kernel, x.dtype.char, x.size // 16, threads, blocks, *flat(x), batch, out)
    return out.view(np.bool_)
