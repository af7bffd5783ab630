"""What a rule sees of a layer, and which layers of a model change."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import checks
from ..edges.module import EdgeModule
from ..nn import MaskedLinear, TransposedSparseLinear
from ..ops import edge_choice, sddmm
from ..structure.topology import Topology
from .numbers import frozen_edges, trained, weight_of

Factors = tuple[Tensor, Tensor]  # a (out, batch) and b (in, batch), whose product a b' is a gradient
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile, before the names of modules


@dataclass
class Layer:
    """A layer whose edges change, as a rule sees it during an update.

    Attributes:
        name: of the module in the model.
        module: the layer over edges, or a MaskedLinear.
        topology: its edges before the update.
        values: one number for each of them, detached.
        rate: by which the schedule's fraction is multiplied for this layer.
        age: steps since each edge was born, int32 (nnz,).
        generator: of everything that is drawn at random; the same on all processes.
        factors: of the gradients of the steps that the rule looks at, a list for each step, the last step last.
        optimizer: what trains the values.
    """

    name: str
    module: Any
    topology: Topology
    values: Tensor
    rate: float
    age: Tensor
    generator: torch.Generator
    optimizer: Optimizer
    factors: list[list[Factors]] = field(default_factory=list)

    @property
    def nnz(self) -> int:
        """Number of edges before the update."""
        return self.topology.nnz

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return self.topology.shape

    @property
    def frozen(self) -> Tensor | None:
        """Places of the edges that constrain.frozen holds, or None."""
        return frozen_edges(self.module)

    def largest(self, scores: Tensor, count: int) -> Tensor:
        """Booleans (nnz,), true at the ``count`` edges of the largest scores; of equal scores the last ones stay.

        Edges that constrain.frozen holds stay before all others, and all of them, where they are more than ``count``.

        Raises:
            ValueError: not one score for each edge, or NaN among them.
        """
        if not isinstance(scores, Tensor) or scores.shape != (self.nnz,):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"Layer.largest: expected a score for each of {self.nnz} edges of {self.name!r}, got {got}."
            )
        if bool(scores.isnan().any()):
            raise ValueError(f"Layer.largest: expected scores that can be compared, got NaN in layer {self.name!r}.")
        frozen = self.frozen
        if frozen is not None:
            scores = scores.index_fill(0, frozen, torch.inf)
            count = max(count, frozen.numel())
        return ~edge_choice.smallest(scores, self.nnz - count)

    def random_vacant(self, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(rows, columns) of so many positions without a kept edge, all equally likely."""
        return edge_choice.random_vacant(self.topology, kept, count, self.generator)

    def largest_vacant(self, kept: Tensor, count: int, weights: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """(rows, columns) of the positions without a kept edge where the gradient of the loss is largest.

        Args:
            kept: booleans (nnz,).
            count: how many.
            weights: of the gradients of the steps that the rule looks at, which are added; 1 each without.
        """
        return edge_choice.largest_vacant(self.topology, kept, self._weighted(weights), count)

    def gradient(self, weights: Sequence[float] | None = None) -> Tensor:
        """The same gradient at the edges, (nnz,)."""
        total = torch.zeros_like(self.values)
        for a, b in self._weighted(weights):
            total += sddmm(self.topology, a.to(self.values.dtype), b.to(self.values.dtype))
        return total

    def _weighted(self, weights: Sequence[float] | None) -> list[Factors]:
        weights = [1.0] * len(self.factors) if weights is None else weights
        return [
            (a if weight == 1.0 else a * weight, b)
            for weight, step in zip(weights, self.factors, strict=True)
            for a, b in step
        ]


def chosen(where: str, model: nn.Module, layers: Any) -> dict[str, tuple[nn.Module, float]]:
    """The layers that change, by name, each with its rate; a value array that layers share occurs once."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected a module, got {type(model).__name__}.")
    patterns = _patterns(where, layers)
    found: dict[str, tuple[nn.Module, float]] = {}
    matched: set[int] = set()
    known: list[str] = []
    for full, module in model.named_modules():
        if not isinstance(module, EdgeModule | MaskedLinear) or isinstance(module, TransposedSparseLinear):
            continue
        name = _unwrapped(full)
        known.append(name)
        for k, (pattern, rate) in enumerate(patterns):
            if pattern.fullmatch(name):
                matched.add(k)
                if rate:
                    found[name] = (module, rate)
                break
    unmatched = [pattern.pattern for k, (pattern, _) in enumerate(patterns) if k not in matched]
    if not known or (layers is not None and unmatched):
        raise ValueError(
            f"{where}: expected layers over edges that match {unmatched or ['.*']}, the model has "
            f"{', '.join(map(repr, known)) or 'none: make some with convert.sparsify'}."
        )
    if not found:
        raise ValueError(f"{where}: expected a layer whose edges change, got the rate 0 for all of them.")
    return found


def check(where: str, model: nn.Module, optimizer: Optimizer, modules: Mapping[str, tuple[Any, float]]) -> None:
    """The optimizer trains the values of these layers, and nothing else in the model holds them."""
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    ours = {module for module, _ in modules.values()}
    for name, (module, _) in modules.items():
        weight = weight_of(module)
        if weight.is_meta:
            raise ValueError(f"{where}: expected values, layer {name!r} has none yet (meta device). Load them before.")
        check_trains(where, name, module)
        if id(trained(module)) not in owned:
            raise ValueError(
                f"{where}: expected an optimizer of the values of layer {name!r}, this {type(optimizer).__name__} does "
                "not have them. Make it from model.parameters(), or leave the layer out with layers=."
            )
        for prefix, other in model.named_modules():
            tied = isinstance(other, TransposedSparseLinear) and other.origin in ours
            if other is module or tied:
                continue
            if any(p is weight for p in other._parameters.values()):
                raise ValueError(
                    f"{where}: the values of layer {name!r} are a parameter of {_unwrapped(prefix)!r} too, whose edges "
                    "would not change along. Tie layers by .transposed(), or untie them."
                )


def check_trains(where: str, name: str, module: Any) -> None:
    """ValueError: the values of this layer are frozen, and a change of edges would lose them."""
    if not trained(module).requires_grad:
        raise ValueError(
            f"{where}: expected values that train in layer {name!r}, they are frozen (requires_grad=False), and edges "
            "that go would be lost. Edges are as they were. Leave the layer out with layers=, or let it train."
        )


def unshare(modules: Mapping[str, Any]) -> None:
    """Give each layer a topology object of its own, which tells its gradients from those of others."""
    for module in modules.values():
        if isinstance(module, EdgeModule):
            t = module.topology
            module.topology = Topology._trusted(t.crow.clone(), t.col.clone(), t.shape, t.inputs, t.outputs)


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    return ".".join(part for part in parts if part + "." not in WRAPPERS or len(parts) == 1)


def _patterns(where: str, layers: Any) -> list[tuple["re.Pattern[str]", float]]:
    """Names, globs or regular expressions with rates: the first that matches a name counts."""
    if layers is None:
        return [(re.compile(".*"), 1.0)]
    if isinstance(layers, str | re.Pattern):
        layers = [layers]
    if isinstance(layers, Mapping):
        return [(_pattern(where, key), _rate(where, key, rate)) for key, rate in layers.items()]
    if isinstance(layers, Iterable):
        return [(_pattern(where, key), 1.0) for key in layers]
    raise TypeError(
        f"{where}: expected layers to be None, a name, a list of names or a dict from names to rates, got {layers!r}."
    )


def _pattern(where: str, key: Any) -> "re.Pattern[str]":
    if isinstance(key, re.Pattern):
        return key
    if not isinstance(key, str):
        raise TypeError(f"{where}: expected names in layers, globs or compiled regular expressions, got {key!r}.")
    return _Glob(key)  # type: ignore[return-value]


class _Glob:
    """A glob as a pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def fullmatch(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


def _rate(where: str, key: Any, rate: Any) -> float:
    return checks.fraction(where, f"the rate of {getattr(key, 'pattern', key)!r}", rate)
