"""Distinct random numbers, which random patterns are made of: unbiased, in memory of what is drawn."""

import torch
from torch import Tensor

from ..structure.csr import ascending

LARGEST = torch.iinfo(torch.int64).max


def below(bound: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A random integer from 0 to ``bound - 1`` for each bound, all equally likely, however large."""
    draw = torch.empty_like(bound).random_(generator=generator)  # 63 random bits
    number = draw % bound
    # draws past the last whole multiple of the bound would favour small numbers
    biased = draw - number > LARGEST - bound + 1
    if bool(biased.any()):
        number[biased] = below(bound[biased], generator)
    return number


def distinct(size: Tensor, need: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``need[i]`` distinct numbers out of the i-th of consecutive ranges of these sizes, all choices equally likely.

    The first range holds 0 to ``size[0] - 1``, the second the ``size[1]`` numbers after these, and so on. The result
    rises. Memory is proportional to the numbers drawn.

    Example:
        >>> distinct(torch.tensor([2, 3, 2]), torch.tensor([2, 0, 2])).tolist()
        [0, 1, 5, 6]
    """
    crowded = need > size - need  # then it is quicker to draw the numbers left out
    stop = size.cumsum(0)
    start = stop - size
    owner = torch.where(crowded, size - need, need)
    owner = torch.arange(size.numel(), device=size.device).repeat_interleave(owner)
    found = [owner[:0]]
    while owner.numel():  # what was drawn before is drawn again from the same range
        number = ascending(start[owner] + below(size[owner], generator))
        fresh = torch.ones_like(number, dtype=torch.bool)
        fresh[1:] = number.diff() != 0
        for earlier in found:
            fresh &= torch.searchsorted(earlier, number) == torch.searchsorted(earlier, number, right=True)
        found.append(number[fresh])
        owner = torch.searchsorted(stop, number[~fresh], right=True)
    if not bool(crowded.any()):
        return ascending(torch.cat(found))
    number = ascending(torch.cat([*found, ranges(start[crowded], size[crowded])]))
    twice = number.diff() == 0  # a number left out of its range
    once = torch.ones_like(number, dtype=torch.bool)
    once[1:] &= ~twice
    once[:-1] &= ~twice
    return number[once]


def ranges(start: Tensor, size: Tensor) -> Tensor:
    """The numbers of ranges with these starts and sizes, one after the other."""
    before = size.cumsum(0) - size
    return torch.arange(int(size.sum()), device=size.device) + (start - before).repeat_interleave(size)


def vacant(taken: Tensor, rank: Tensor) -> Tensor:
    """The numbers 0, 1, 2, ... that rising ``taken`` leaves out, picked by their rank.

    Example:
        >>> vacant(torch.tensor([1, 2, 5]), rank=torch.tensor([0, 1, 2, 3])).tolist()
        [0, 3, 4, 6]
    """
    vacant_before = taken - torch.arange(taken.numel(), device=taken.device)
    return rank + torch.searchsorted(vacant_before, rank, right=True)


def binomial(trials: int, p: float, generator: torch.Generator | None = None) -> int:
    """How many of so many independent trials succeed, each with probability p."""
    device = None if generator is None else generator.device
    parts = 1 + (trials >> 42)  # torch.binomial loses precision from some 10**14 trials on
    count = torch.full((parts,), trials // parts, dtype=torch.float64, device=device)
    count[: trials % parts] += 1
    return int(torch.binomial(count, torch.full_like(count, p), generator=generator).long().sum())
