"""The largest entries of a gradient, which is a product of two dense matrices or that of a convolution, without it."""

from collections.abc import Sequence
from functools import reduce
from math import inf

import numpy as np
import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from ..arrays import array
from ..structure.topology import Topology
from .factors import Factors, Product, as_factors
from .smallest_scores import smallest

BLOCK = 2**20  # entries of the product that exist at a time
SPARE = 2**16  # entries beyond those looked for, or as many again, that are found before all but the largest go
SAMPLE = 512  # rows and columns of the product that tell what limit to begin with
GOLDEN = (5**0.5 - 1) / 2  # multiples of it lie evenly between whole numbers, and in step with no pattern of features

Pairs = Sequence[Factors]


def largest_products(pairs: Sequence[Factors | tuple[Tensor, Tensor]], count: int, t: Topology, kept: Tensor) -> Tensor:
    """Positions ``i * in + j``, ascending, of the ``count`` largest ``|sum a[i] . b[j]|`` that are no kept edges of t.

    Of equal ones the first; fewer where fewer are numbers. Blocks of rows are multiplied one after another, and what
    exceeds the limit, the smallest of the largest so far, is added to these. From time to time all but the largest go,
    and the limit rises. Positions keep their order throughout and ties fall to the first, so the choice is that of the
    whole product, whenever this happens. The limit to begin with is a guess from a sample. Where it was too high, too
    few are found, and all begins anew without it.

    Args:
        pairs: (a, b) of shapes (out, batch) and (in, batch), or Factors; at least one.
        kept: booleans, one for each edge.
    """
    if not count:
        return torch.empty(0, dtype=torch.int64, device=t.device)
    given = [as_factors(pair) for pair in pairs]
    wide = reduce(torch.promote_types, (part.dtype for each in given for part in (each.a, each.b)), torch.float32)
    given = [each.of(each.a.detach().to(wide), each.b.detach().to(wide)) for each in given]
    with torch.autocast(t.device.type, enabled=False):
        guess = _likely_limit(given, count, t)
        found = _above(guess, given, count, t, kept)
        return found if found.numel() == count or guess == -inf else _above(-inf, given, count, t, kept)


def _above(limit: float, pairs: Pairs, count: int, t: Topology, kept: Tensor) -> Tensor:
    """Positions of the largest among those that are above the limit."""
    best = (_Arrays if t.device.type == "cpu" and COMPILES else _Tensors)(t, kept, count, limit)
    size = max(1, BLOCK // max(1, t.shape[1]))
    for first in range(0, t.shape[0], size):
        best.take(first, _rows(pairs, first, min(first + size, t.shape[0])))
    return best.positions()


def _likely_limit(pairs: Pairs, count: int, t: Topology) -> float:
    """What half as many again as are looked for exceed, if a sample does not deceive; -inf where it would not pay."""
    products = [each for each in pairs if isinstance(each, Product)]
    if t.numel <= BLOCK or len(products) < len(pairs):  # a part of a convolution's gradient costs as much as all of it
        return -inf
    rows, columns = (_spread(size).to(t.device) for size in t.shape)
    sample = _rows([Product(a[rows], b[columns]) for a, b in products], 0, rows.numel()).abs_().neg_().flatten()
    expected = count * sample.numel() / t.numel
    above = int(1.5 * expected + 5 * expected**0.5 + 5)
    if above >= sample.numel():
        return -inf
    limit = -float(sample[smallest(sample, above)].max())
    return limit if limit > 0 else -inf  # true of NaN: there are no numbers to tell by


def _spread(size: int) -> Tensor:
    """SAMPLE numbers below size, or all of them."""
    if size <= SAMPLE:
        return torch.arange(size)
    return (torch.arange(SAMPLE, dtype=torch.float64) * GOLDEN % 1 * size).long()


def _rows(pairs: Pairs, first: int, last: int) -> Tensor:
    """Rows of the sum of the gradients, row-major."""
    block = pairs[0].rows(first, last)
    for each in pairs[1:]:
        each.add_rows(block, first, last)
    return block


class _Tensors:
    """What was found so far, by torch's operations."""

    def __init__(self, t: Topology, kept: Tensor, count: int, limit: float) -> None:
        self.t, self.kept, self.count, self.limit = t, kept, count, limit
        self.found = [torch.empty(0, dtype=torch.int64, device=t.device)]
        self.scores: list[Tensor] = []

    def take(self, first: int, block: Tensor) -> None:
        crow = self.t.crow[first : first + block.shape[0] + 1].long()
        edges = slice(int(crow[0]), int(crow[-1]))
        row = torch.arange(block.shape[0], device=block.device).repeat_interleave(crow.diff())
        block[row[self.kept[edges]], self.t.stored_col[edges].long()[self.kept[edges]]] = torch.nan
        block = block.abs_().flatten()
        place = (block > self.limit).nonzero().flatten()
        self.scores.append(-block[place])
        self.found.append(place + first * self.t.shape[1])
        if sum(each.numel() for each in self.scores) > self.count + max(self.count, SPARE):
            self._only_the_largest()

    def _only_the_largest(self) -> None:
        scores, found = torch.cat(self.scores), torch.cat(self.found)
        if scores.numel() >= self.count:
            best = smallest(scores, self.count)
            scores, found = scores[best], found[best]
            self.limit = -float(scores.max())
        self.scores, self.found = [scores], [found]

    def positions(self) -> Tensor:
        if self.scores:
            self._only_the_largest()
        return self.found[0]


class _Arrays:
    """What was found so far, by kernels, in memory that is taken once."""

    def __init__(self, t: Topology, kept: Tensor, count: int, limit: float) -> None:
        self.t, self.kept, self.count, self.limit, self.n = t, kept.contiguous(), count, limit, 0
        self.room = count + max(count, SPARE)
        self.scores = self.found = np.empty(0, np.int64)

    def take(self, first: int, block: Tensor) -> None:
        if not self.found.size:
            size = min(self.room + block.numel(), self.t.numel)
            self.scores, self.found = np.empty(size, array(block).dtype), np.empty(size, np.int64)
        self.n = kernels.take(
            array(block), first, array(self.t.crow), array(self.t.stored_col), array(self.kept), self.limit,
            self.scores, self.found, self.n, torch.get_num_threads(),
        )  # fmt: skip
        if self.n > self.room:
            self._only_the_largest()

    def _only_the_largest(self) -> None:
        if self.n >= self.count:
            best = kernels.smallest(self.scores[: self.n], self.count, torch.get_num_threads())
            kernels.compact(best, self.scores, self.found)
            self.n = self.count
            self.limit = -float(self.scores[: self.n].max())

    def positions(self) -> Tensor:
        self._only_the_largest()
        return torch.from_numpy(self.found[: self.n].copy())
