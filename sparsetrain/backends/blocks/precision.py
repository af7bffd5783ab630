"""The type in which dense products of blocks are made."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...dtypes import HALVES


def computed(x: Tensor) -> Tensor:
    """x in the type that products are made in: halves on a GPU, whose sums are float32, and float32 on a CPU."""
    x = x.detach()
    return x.float() if x.dtype in HALVES and x.device.type != "cuda" else x


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Dense products would become half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
