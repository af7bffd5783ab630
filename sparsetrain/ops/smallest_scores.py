"""The smallest of many scores, which is what pruning takes: found in time proportional to their number."""

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from ..arrays import flat


def smallest(scores: Tensor, count: int) -> Tensor:
    """Booleans (n,), true at the ``count`` smallest scores; of equal scores those that come first.

    Args:
        scores: finite real numbers, shape (n,).
        count: from 0 to n.

    Raises:
        ValueError: there are fewer scores.

    Example:
        >>> smallest(torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0]), 2).tolist()
        [False, True, False, True, False]
    """
    if not 0 <= count <= scores.numel():
        raise ValueError(f"smallest: expected a count from 0 to {scores.numel()}, the number of scores, got {count}.")
    if scores.dtype in (torch.bfloat16, torch.float16):
        scores = scores.float()
    if scores.device.type == "cpu" and COMPILES:
        return torch.from_numpy(kernels.smallest(flat(scores.detach()), count, torch.get_num_threads()))
    return _by_torch(scores.detach(), count)


def _by_torch(scores: Tensor, count: int) -> Tensor:
    """The plain form, for other devices."""
    if count == 0:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    limit = scores.kthvalue(count).values
    chosen = scores < limit
    ties = (scores == limit).nonzero().flatten()
    chosen[ties[: count - int(chosen.sum())]] = True
    return chosen
