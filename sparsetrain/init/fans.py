"""How many edges arrive and leave: of a layer's neurons on average, or of those that each edge joins. The neurons of a
convolution are its channels, whose edges count at all positions of the kernel, as in torch's fans."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..edges.weights import neurons_of, structure_of, weights_of
from ..structure.edge_sets import Edges, positions
from ..structure.topology import Topology

By = Literal["mean", "edge"]


class Fans(NamedTuple):
    """Edges of an output and of an input; on average and zero where there are none, or for each edge of a set."""

    fan_in: float | Tensor
    fan_out: float | Tensor


def fans_of(where: str, layer: Any, by: By, edges: Edges = None) -> Fans:
    """The fans of a layer; of each edge of a set, where that is asked for and neurons differ."""
    if by not in get_args(By):
        raise ValueError(f"{where}: expected fans to be one of {list(get_args(By))}, got {by!r}.")
    weights = weights_of(where, layer)
    if by == "edge" and not weights.tensor.is_meta:  # on which nothing is drawn
        structure = structure_of(layer)
        if isinstance(structure, Topology):
            return _of_edges(layer, structure, positions(where, edges, structure, weights.tensor.device))
    return mean_fans(where, layer)


def mean_fans(where: str, layer: Any) -> Fans:
    """The mean fan-in and fan-out of a layer."""
    _, tensor, mask = weights_of(where, layer)
    edges = tensor.numel() if mask is None or mask.is_meta else int(mask.count_nonzero())
    return Fans(*(edges / size if size else 0.0 for size in neurons_of(layer)))


def _of_edges(layer: Any, t: Topology, place: Tensor | None) -> Fans:
    source, sources = _sources(layer, t)
    fan_out = t.fan_out if source is t.col else torch.bincount(source.long(), minlength=sources)
    row, source = (t.row, source) if place is None else (t.row[place], source[place])
    fans = t.fan_in[row.long()].double(), fan_out[source.long()].double()
    return Fans(*reversed(fans)) if getattr(layer, "reads_transposed", False) else Fans(*fans)


def _sources(layer: Any, t: Topology) -> tuple[Tensor, int]:
    """The input that each edge reads, and how many inputs there are: columns, or the channels of a convolution."""
    g = getattr(layer, "geometry", None)
    if g is None:
        return t.col, t.shape[1]
    of_group = t.shape[1] // g.volume
    group = t.row.div(t.shape[0] // g.groups, rounding_mode="floor")
    return group * of_group + t.col.div(g.volume, rounding_mode="floor"), layer.in_channels
