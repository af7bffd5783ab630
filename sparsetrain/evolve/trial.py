"""Whether a layer can change its edges at all: better known before a training than at its first update."""

from collections.abc import Sequence

import torch
from torch.nn.utils.parametrize import is_parametrized

from ..structure.edit import Edit
from ..structure.index_types import taken
from .layers import Layer


@torch.no_grad()
def check_constraints(where: str, layers: Sequence[Layer], grows: bool) -> None:
    """Plan a small change of each layer whose values are constrained, in which an edge is born if the rule grows any.

    Raises:
        ValueError: constraints do not say what holds for newborn edges. TypeError: values are computed from others.
    """
    for layer in layers:
        if not is_parametrized(layer.module, "values"):
            continue
        t = layer.topology
        kept = torch.ones(t.nnz, dtype=torch.bool, device=t.device)
        may_go = kept if layer.frozen is None else kept.index_fill(0, layer.frozen, False)
        reborn = may_go.nonzero().flatten()[:1] if grows else torch.empty(0, dtype=torch.int64, device=t.device)
        kept[reborn] = False
        edit = Edit(t, kept, (t.row[reborn], taken(t.stored_col, reborn).long()))
        layer.module.plan_edit(f"{where}: layer {layer.name!r}", edit, layer.values[reborn])
