"""By which library torch multiplies float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def onednn_allowed() -> Iterator[None]:
    """torch's precision "medium": oneDNN in the place of MKL.

    Processors with bfloat16 matrix units then round to bfloat16, which the oracle refuses; others keep float32, and
    AMD's compute twice as fast.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
