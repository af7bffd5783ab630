"""Gradients of which each row has one: the sum over its occurrences."""


from ..jit import kernel, part
from ..launch import launch
from ..plan import Array
from ..workers import each_share
from .gradient import bounds_of, row_gradient, work_of
from .group import Groups


@part
def total_tasks(first, last, bounds, starts, order, gradients, dim, out):
    one = gradients.dtype.type(1)
    for i in range(bounds[first], bounds[last]):
        row_gradient(i, starts, order, gradients, dim, one, out, i * dim)


@kernel
def total_kernel(pool, workers, bounds, *args):
    each_share(pool, workers, bounds.size - 1, total_tasks, (bounds, *args))


def total(groups: Groups, gradients: Array, out: Array, dim: int, threads: int = 1) -> None:
    """out[u] = sum of gradients[k] over the places k of row u; flat, rows of dim."""
    launch(total_kernel, gradients.dtype.char, work_of(groups, dim), threads, bounds_of(groups), groups.starts,
           groups.order, gradients, dim, out)
