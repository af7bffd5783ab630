"""The numbers that a layer of any kind keeps for its edges: values, and what an optimizer trains."""

import math
from typing import Any

from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from ..edges.module import EdgeModule
from ..nn import MaskedLinear
from ..structure.index_types import taken
from ..structure.topology import Topology


def frozen_edges(module: Any) -> Tensor | None:
    """Places of the edges that constraints freeze, if any."""
    if not is_parametrized(module, "values"):
        return None
    frozen: Tensor | None = getattr(module.parametrizations["values"][0], "frozen", None)
    return frozen


def limits(module: Any, values: Tensor) -> tuple[float, float]:
    """Lowest and highest value that constraints allow to all edges alike, infinite where there are none."""
    constraints: Any = module.parametrizations["values"][0] if is_parametrized(module, "values") else None
    if not hasattr(constraints, "interval") or not values.numel():
        return -math.inf, math.inf
    low, high = constraints.interval(values)
    return float(low.max()), float(high.min())


def weight_of(module: Any) -> Tensor:
    """Values, or the weight of a masked layer."""
    weight: Tensor = module.weight if isinstance(module, MaskedLinear) else module.values
    return weight


def trained(module: Any) -> Tensor:
    """The tensor that an optimizer has: values or weight, or what a parametrization computes the values from."""
    if is_parametrized(module, "values"):
        raw: Tensor = next(module.parametrizations["values"].parameters())
        return raw
    return weight_of(module)


def up_to_date(module: Any) -> Tensor:
    """``trained``, detached, with updates applied that an optimizer has pending for edges which no step used."""
    if isinstance(module, EdgeModule):
        module.bring_up_to_date()
    return trained(module).detach()


def in_trained(module: Any, places: Tensor) -> Tensor:
    """Where edges at these places in the value array have their numbers in ``trained``, flattened."""
    if not isinstance(module, MaskedLinear):
        return places
    t = module.topology
    return t.row[places].long() * t.shape[1] + taken(t.stored_col, places).long()


def values_of(module: Any, t: Topology) -> Tensor:
    """One number for each edge."""
    up_to_date(module)
    weight = weight_of(module).detach()
    return weight[t.row.long(), t.col.long()] if isinstance(module, MaskedLinear) else weight


def put_values(module: Any, places: Tensor, numbers: Tensor) -> None:
    """Write these numbers at some edges, in place, of a layer whose values are no function of others."""
    up_to_date(module).put_(in_trained(module, places), numbers)
