"""Topologies made by a rule, at random or regular, without a dense array on the way.

Everything random takes a generator and draws on its device; without one it obeys ``torch.manual_seed``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Generator, Tensor

from .. import checks
from ..structure.csr import COUNTABLE, ascending
from ..structure.topology import Topology
from ..with_data import with_data
from .pieces import Draw, assembled, exactly, independent, row_bounds
from .sampling import distinct, ranges, vacant


@with_data()
def uniform(shape: Sequence[int], density: float, generator: Generator | None = None) -> Topology:
    """Exactly ``round(density * out * in)`` edges, every set of so many equally likely.

    Args:
        shape: ``(out, in)``, with fewer than 2**63 positions.
        density: fraction of edges that exist, from 0 to 1.

    Raises:
        ValueError: the density lies outside 0..1, or a size is negative or too large.

    Example:
        >>> uniform((100, 200), density=0.1)
        Topology(shape=(100, 200), nnz=2000, density=0.1)
    """
    where = "patterns.uniform"
    size = _shape(where, shape)
    generator = checks.generator(where, generator)
    edges = round(checks.density(where, density) * size[0] * size[1])
    bounds = row_bounds(size[0], edges)
    counts = [edges] if len(bounds) == 2 else exactly(edges, _sizes(bounds, size, generator), generator).tolist()
    return assembled(where, size, bounds, counts, _anywhere(size, generator), _device(generator))


@with_data()
def erdos_renyi(
    shape: Sequence[int],
    density: float | None = None,
    *,
    epsilon: float | None = None,
    generator: Generator | None = None,
) -> Topology:
    r"""Each edge exists with the same probability p, independently of the others.

    .. math:: p = \text{density} \qquad \text{or} \qquad
              p = \min\left(1, \ \varepsilon \frac{n_{in} + n_{out}}{n_{in} \, n_{out}}\right)

    Args:
        shape: ``(out, in)``, with fewer than 2**63 positions.
        density: p itself, from 0 to 1; or
        epsilon: edges per node, a finite number >= 0: about ``epsilon * (in + out)`` edges exist.

    Raises:
        TypeError: neither density nor epsilon is given, or both.
        ValueError: one of them is out of range, or a size is negative or too large.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science, Nature Communications 9:2383.

    Example:
        >>> t = erdos_renyi((1000, 2000), epsilon=5)  # 15000 edges on average, standard deviation 122
        >>> 14000 < t.nnz < 16000
        True
    """
    where = "patterns.erdos_renyi"
    size = _shape(where, shape)
    generator = checks.generator(where, generator)
    if (density is None) == (epsilon is None):
        both = "neither" if density is None else "both"
        raise TypeError(f"{where}: expected exactly one of density and epsilon, got {both}.")
    p = checks.density(where, density) if density is not None else _set_density(where, epsilon, size)
    bounds = row_bounds(size[0], round(p * size[0] * size[1]))
    counts = independent(_sizes(bounds, size, generator), p, generator).tolist()
    return assembled(where, size, bounds, counts, _anywhere(size, generator), _device(generator))


@with_data()
def fixed_fan_in(shape: Sequence[int], fan_in: int, generator: Generator | None = None) -> Topology:
    """Every row has exactly ``fan_in`` edges, at random columns.

    Args:
        shape: ``(out, in)``, with fewer than 2**63 positions.
        fan_in: edges of each row, from 0 to in.

    Raises:
        TypeError: fan_in is not an integer.
        ValueError: fan_in is negative or exceeds the number of columns, or a size is negative or too large.

    Example:
        >>> fixed_fan_in((3, 1000), fan_in=10).fan_in.tolist()
        [10, 10, 10]
    """
    where = "patterns.fixed_fan_in"
    size = _shape(where, shape)
    generator = checks.generator(where, generator)
    fan_in = _fan_in(where, fan_in, size)

    def draw(first: int, last: int, _: int) -> Tensor:
        need = torch.full((last - first,), fan_in, device=_device(generator))
        return distinct(torch.full_like(need, size[1]), need, generator)

    return assembled(where, size, *_equal(size, fan_in), draw, _device(generator))


@with_data()
def banded(shape: Sequence[int], bandwidth: int) -> Topology:
    r"""The edges near the diagonal, which is stretched where the matrix is not square.

    Row i has the columns j with

    .. math:: |j - c_i| \le \text{bandwidth}, \qquad c_i = \left\lfloor \frac{(i + 1/2) \, in}{out} \right\rfloor

    so ``c_i = i`` in a square matrix, and every row has an edge (if there are columns at all).

    Args:
        shape: ``(out, in)``, with fewer than 2**63 positions.
        bandwidth: how many columns the band reaches to either side, 0 or more.

    Raises:
        TypeError: the bandwidth is not an integer.
        ValueError: the bandwidth is negative, or a size is negative or too large.

    Example:
        >>> banded((3, 6), bandwidth=1).to_mask().int().tolist()
        [[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1]]
    """
    where = "patterns.banded"
    size = _shape(where, shape)
    bandwidth = min(checks.count(where, "bandwidth", bandwidth), size[1])
    centre = _nearest(size, 1, None)
    first, last = (centre - bandwidth).clamp(min=0), (centre + bandwidth).clamp(max=size[1] - 1)
    fan_in = last - first + 1
    bounds = row_bounds(size[0], int(fan_in.sum()))

    counts = [int(fan_in[top:bottom].sum()) for top, bottom in pairwise(bounds)]

    def draw(top: int, bottom: int, _: int) -> Tensor:
        rows = torch.arange(bottom - top)
        return ranges(first[top:bottom] + rows * size[1], fan_in[top:bottom])

    return assembled(where, size, bounds, counts, draw, None)


@with_data()
def small_world(shape: Sequence[int], fan_in: int, rewire: float, generator: Generator | None = None) -> Topology:
    r"""Neighbours on a ring, some of them exchanged for random ones: between banded and fixed_fan_in.

    Row i starts with the ``fan_in`` columns nearest to :math:`(i + 1/2) \, in / out`, the diagonal stretched over a
    ring on which column 0 follows column in - 1:

    .. math:: j = (s_i + k) \bmod in, \quad 0 \le k < \text{fan\_in}, \qquad
              s_i = \left\lfloor \frac{(i + 1/2) \, in}{out} - \frac{\text{fan\_in} - 1}{2} \right\rfloor

    Then each edge is lifted with probability ``rewire``, and the lifted edges of a row are put on random columns that
    the row does not have by then, their old ones among them. Every row keeps exactly ``fan_in`` edges, and with
    ``rewire=1`` the pattern is fixed_fan_in.

    Args:
        shape: ``(out, in)``, with fewer than 2**63 positions.
        fan_in: edges of each row, from 0 to in.
        rewire: probability that an edge is moved, from 0 to 1.

    Raises:
        TypeError: fan_in is not an integer.
        ValueError: fan_in is negative or exceeds the number of columns, rewire lies outside 0..1, or a size is
            negative or too large.

    Source: Watts and Strogatz (1998), Collective dynamics of 'small-world' networks, Nature 393:440-442; here between
    two layers.

    Example:
        >>> small_world((4, 4), fan_in=2, rewire=0).to_mask().int().tolist()
        [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1]]
    """
    where = "patterns.small_world"
    columns = (size := _shape(where, shape))[1]
    generator = checks.generator(where, generator)
    fan_in = _fan_in(where, fan_in, size)
    rewire = checks.fraction(where, "rewire", rewire)
    device = _device(generator)
    nearest = _nearest(size, fan_in, device)[:, None]

    def draw(first: int, last: int, _: int) -> Tensor:
        ring = (nearest[first:last] + torch.arange(fan_in, device=device)) % columns
        position = ring.sort(1).values + columns * torch.arange(last - first, device=device)[:, None]
        lifted = torch.rand(position.shape, dtype=torch.float64, generator=generator, device=device) < rewire
        kept, need = position[~lifted], lifted.sum(1)
        moved = vacant(kept, rank=distinct(need + (columns - fan_in), need, generator))
        return ascending(torch.cat([kept, moved]))

    return assembled(where, size, *_equal(size, fan_in), draw, device)


def _shape(where: str, shape: Sequence[int]) -> tuple[int, int]:
    rows, columns = checks.shape_of_matrix(where, shape)
    if rows * columns >= COUNTABLE:
        raise ValueError(
            f"{where}: expected fewer than 2**63 positions (out * in), got {rows * columns} with shape "
            f"({rows}, {columns}). Split the matrix into smaller ones."
        )
    return rows, columns


def _fan_in(where: str, fan_in: int, shape: tuple[int, int]) -> int:
    fan_in = checks.count(where, "fan_in", fan_in)
    if fan_in > shape[1]:
        raise ValueError(f"{where}: expected fan_in <= {shape[1]}, the number of columns, got {fan_in}.")
    return fan_in


def _set_density(where: str, epsilon: float | None, shape: tuple[int, int]) -> float:
    try:
        number = float(epsilon)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{where}: expected epsilon to be a number >= 0, got {epsilon!r}.") from None
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{where}: expected epsilon to be a finite number >= 0, got {epsilon!r}.")
    positions = shape[0] * shape[1]
    return min(1.0, number * sum(shape) / positions) if positions else 0.0


def _anywhere(shape: tuple[int, int], generator: Generator | None) -> Draw:
    """Positions of so many edges among those of some rows, every set equally likely: of a piece by a kernel, which is
    several times as fast, and of a whole matrix by torch, as seeds of all releases have drawn."""
    device = _device(generator)

    def draw(first: int, last: int, edges: int) -> Tensor:
        size = (last - first) * shape[1]
        if last - first < shape[0] and device in (None, torch.device("cpu")) and COMPILES:
            seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
            return torch.from_numpy(kernels.distinct(size, edges, seed, torch.get_num_threads()))
        return distinct(torch.tensor([size], device=device), torch.tensor([edges], device=device), generator)

    return draw


def _sizes(bounds: list[int], shape: tuple[int, int], generator: Generator | None) -> Tensor:
    """Positions between rows."""
    return torch.tensor(bounds, device=_device(generator)).diff() * shape[1]


def _equal(shape: tuple[int, int], fan_in: int) -> tuple[list[int], list[int]]:
    """Bounds of pieces, and their edges, where each row has as many."""
    bounds = row_bounds(shape[0], shape[0] * fan_in)
    return bounds, [rows * fan_in for rows in _steps(bounds)]


def _steps(bounds: list[int]) -> list[int]:
    return [last - first for first, last in pairwise(bounds)]


def _nearest(shape: tuple[int, int], fan_in: int, device: torch.device | None) -> Tensor:
    """The first of the fan_in columns nearest to each row's place on the stretched diagonal; may be negative."""
    rows, columns = shape
    # floor(((i + 1/2) columns - (fan_in - 1)/2 rows) / rows), in integers that stay below 2**63
    return (torch.arange(rows, device=device) * columns + (columns - (fan_in - 1) * rows) // 2) // rows


def _device(generator: Generator | None) -> torch.device | None:
    return None if generator is None else generator.device
