"""Edges that share one number by type."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .. import checks
from ..structure.edge_sets import Edges, positions
from .limits import Limits

Layer = TypeVar("Layer", bound=nn.Module)


def shared(layer: Layer, types: Any, edges: Edges = None, *, initial: Any = None, project: bool = False) -> Layer:
    r"""Give all edges of a type one raw number, :math:`w_e = r_{type(e)}`, whose gradient is the sum over its edges.

    The raw Parameter becomes one number for each type, followed by one for each edge outside of the set. Signs and
    bounds of edges are applied after sharing: edges that were signed before may share a magnitude under both signs.

    Args:
        layer, edges: as in positive.
        types: an integer from 0 for each edge of the set, shape ``(k,)``, in the order of the set.
        initial: raw numbers to start with, one for each type. Without them the present values of a type have to agree.
        project: start with the mean over each type, in place of an error where values do not agree.

    Raises:
        ValueError: present values of a type differ, the layer shares values already, a shape does not fit, a type
            beyond the number of edges without ``initial``, or as positive. TypeError: types that are no integers.
            IndexError: a negative type, or one beyond ``initial``.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(2, 2, density=1.0)
        >>> shared(layer, [0, 1, 1, 0], initial=[5.0, 7.0]).values.tolist()
        [5.0, 7.0, 7.0, 5.0]
        >>> layer.parametrizations["values"].original.shape
        torch.Size([2])
    """
    where = "constrain.shared"
    limits = Limits.of(where, layer)
    if limits.types is not None:
        raise ValueError(f"{where}: expected a layer that shares no values yet. Give all types in one call.")
    nnz, device = limits.values.numel(), limits.values.device
    place = positions(where, edges, layer.topology, device)  # type: ignore[arg-type]
    given = checks.indices(where, "types", types).to(device)
    size = nnz if place is None else place.numel()
    if given.shape != (size,):
        raise ValueError(f"{where}: expected types of shape ({size},), one for each edge, got {tuple(given.shape)}.")
    if initial is None and size and int(given.max()) >= size:
        raise ValueError(
            f"{where}: expected types numbered from 0, got {int(given.max())} among {size} edges. Number them with "
            "torch.unique(types, return_inverse=True)[1], or pass initial, with one number for each type."
        )
    start = None if initial is None else _initial(where, initial).to(limits.values)
    count = (max(int(given.max()), 0) + 1 if size else 0) if start is None else start.numel()
    checks.within(where, "types", given, count)
    index = torch.full((nnz,), -1, dtype=torch.int64, device=device)
    index[slice(None) if place is None else place] = given
    others = index < 0
    index[others] = torch.arange(count, count + int(others.sum()), device=device)
    new = limits._replace(types=index, raws=count + int(others.sum()))
    if start is None:
        new.install(average=project)
    else:
        constrained = new.constrained(limits.values)
        raw = constrained.collected(constrained.of_each(limits.values))
        raw[:count] = start
        new.exchange(constrained, raw)
    return layer


def _initial(where: str, initial: Any) -> Tensor:
    numbers = checks.numbers(where, "initial", initial)
    if numbers.ndim != 1:
        raise ValueError(
            f"{where}: expected initial of shape (types,), one number for each type, got {tuple(numbers.shape)}."
        )
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"{where}: expected initial to be finite, got {numbers[~numbers.isfinite()][0].item()}.")
    return numbers
