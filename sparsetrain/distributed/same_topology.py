"""Whether the ranks of a group have the same layers over the same edges."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from .. import ranks
from ..edges.module import EdgeModule
from ..layer_names import named_modules
from ..nn import MaskedLinear
from .row_sharded_linear import RowShardedLinear

Said = Sequence[Mapping[str, "Layer"]]  # of each rank, its layers by name


class Layer(NamedTuple):
    """What a rank says of one of its layers."""

    kind: str
    shape: tuple[int, int]
    nnz: int
    digest: str
    inputs: tuple[str, ...] | None
    outputs: tuple[str, ...] | None

    def __str__(self) -> str:
        return f"a {self.kind} of shape {self.shape} with {self.nnz} edges (digest {self.digest[:8]})"


def check_topology(model: nn.Module, group: Any = None) -> None:
    """Compare the edges of a model over all ranks of a group, by their digests. All of its ranks call it.

    DistributedDataParallel does so at its first forward pass with gradients, and at the first after edges have changed.
    Call it where one model is trained on several ranks otherwise. Without a group, or with one rank, it does nothing.

    Args:
        model: the same on all ranks; layers over edges are found in it and in what is wrapped around it.
        group: a process group, or None for all processes.

    Raises:
        RuntimeError: on all ranks, naming a rank and a layer: it has another layer there, another shape, or other
            edges; or a rank does not take part. ValueError: this rank is not in the group. TypeError: no module.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> check_topology(nn.Sequential(SparseLinear(8, 4, density=0.5)))
    """
    where = "distributed.check_topology"
    layers = layers_of(where, model)
    if ranks.count(where, group) > 1:
        check_same_edges(where, said_by_all(where, layers, group), group)


def layers_of(where: str, model: nn.Module) -> dict[str, Any]:
    """The layers whose edges can change, by their names in the model itself. TypeError: it is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected model to be a torch.nn.Module, got {type(model).__name__}.")
    modules = named_modules(model)
    own = tuple(
        f"{name}." for name, each in modules.items() if isinstance(each, RowShardedLinear)
    )  # others on each rank
    return {
        name: each for name, each in modules.items()
        if isinstance(each, EdgeModule | MaskedLinear) and not name.startswith(own)
    }  # fmt: skip


def said_by_all(where: str, layers: Mapping[str, Any], group: Any) -> Said:
    """What each rank of a group has, which must be layers of the same names, kinds and shapes.

    RuntimeError, on all ranks: they are not.
    """
    said: Said = ranks.gathered(where, {name: _of(layer) for name, layer in layers.items()}, group)
    for place, other in enumerate(said):
        for name in {**said[0], **other}:
            one, two = said[0].get(name), other.get(name)
            if one is None or two is None or (one.kind, one.shape) != (two.kind, two.shape):
                raise _different(where, name, one, two, group, place, "Make the same model on all ranks.")
    return said


def check_same_edges(where: str, said: Said, group: Any) -> None:
    """RuntimeError, on all ranks: a layer has other edges on one of them."""
    advice = (
        "Call sparsetrain.distributed.sync_topology(model), or draw edges from a generator with the same seed on all "
        "ranks."
    )
    for place, other in enumerate(said):
        for name, layer in said[0].items():
            if other[name] != layer:
                raise _different(where, name, layer, other[name], group, place, advice)


def _of(layer: Any) -> Layer:
    t = layer.topology
    return Layer(type(layer).__name__, t.shape, t.nnz, t.digest, t.inputs, t.outputs)


def _different(where: str, name: str, one: Any, two: Any, group: Any, place: int, advice: str) -> RuntimeError:
    expected, got = (str(each) if each is not None else "no such layer" for each in (one, two))
    if (
        one is not None
        and two is not None
        and one._replace(inputs=None, outputs=None) == two._replace(inputs=None, outputs=None)
    ):
        expected, got = f"{expected} and its names", "other names of inputs or outputs"
    return RuntimeError(
        f"{where}: expected layer {name or '(the model itself)'!r} to be on rank {ranks.number_of(group, place)} what "
        f"it is on rank {ranks.number_of(group, 0)}, {expected}, got {got}. {advice}"
    )
