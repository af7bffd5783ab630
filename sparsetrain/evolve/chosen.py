"""Which layers of a model change, and whether they can."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from .. import checks
from ..edges.holders import check_reached
from ..edges.module import EdgeModule
from ..edges.sharded import is_sharded
from ..layer_names import Pattern, first_fits, named_modules, pattern, without_layer
from ..nn import MaskedLinear, TransposedSparseLinear
from ..structure.topology import Topology
from .numbers import trained, weight_of


def check_kinds(where: str, **given: tuple[Any, type]) -> None:
    """TypeError: an argument is not of the kind beside it."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            made = f" Pass {name}={value.__name__}(...), an object." if isinstance(value, type) else ""
            article = "an" if kind.__name__[0] in "AEIOU" else "a"
            raise TypeError(f"{where}: expected {name} to be {article} {kind.__name__}, got {value!r}.{made}")


def chosen(where: str, model: nn.Module, layers: Any) -> dict[str, tuple[nn.Module, float]]:
    """The layers that change, by name, each with its rate; a value array that layers share occurs once."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected a module, got {type(model).__name__}.")
    patterns, rates = _rates(where, layers)
    known: dict[nn.Module, list[str]] = {
        module: [name]
        for name, module in named_modules(model).items()
        if isinstance(module, EdgeModule | MaskedLinear) and not isinstance(module, TransposedSparseLinear)
    }
    unmatched = [each.text for each in without_layer(patterns, known)]
    if unmatched:
        raise ValueError(
            f"{where}: expected layers over edges that match {unmatched}, the model has "
            f"{', '.join(repr(name) for [name] in known.values()) or 'none: make some with convert.sparsify'}."
        )
    fits = first_fits(patterns, known)
    found = {known[module][0]: (module, rates[k]) for module, k in fits.items() if rates[k]}
    if not found:
        raise ValueError(f"{where}: expected a layer whose edges change, got the rate 0 for all of them.")
    return found


def check(where: str, model: nn.Module, optimizer: Optimizer, modules: Mapping[str, tuple[Any, float]]) -> None:
    """The optimizer trains the values of these layers, and nothing else holds them."""
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
        for prefix, other in named_modules(model).items():
            tied = isinstance(other, TransposedSparseLinear) and other.origin in ours
            if other is module or tied:
                continue
            if any(p is weight for p in other._parameters.values()):
                raise ValueError(
                    f"{where}: the values of layer {name!r} are a parameter of {prefix!r} too, whose edges "
                    "would not change along. Tie layers by .transposed(), or untie them."
                )
        check_reached(where, f"layer {name!r}", weight, ours)


def check_trains(where: str, name: str, module: Any) -> None:
    """ValueError: the values of this layer are frozen, and a change of edges would lose them; or they are sharded."""
    if is_sharded(weight_of(module)):
        raise ValueError(
            f"{where}: expected whole values in layer {name!r}, they are sharded over ranks. Change edges before "
            "fully_shard, or train by DistributedDataParallel. Edges are as they were."
        )
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
            module.topology = Topology._trusted(t.crow.clone(), t.stored_col.clone(), t.shape, t.inputs, t.outputs)


def _rates(where: str, layers: Any) -> tuple[list[Pattern], list[float]]:
    """Patterns with rates: the first that fits a layer counts."""
    if layers is None:
        layers = "*"
    if isinstance(layers, str | re.Pattern | type):
        layers = [layers]
    if not isinstance(layers, Iterable):
        raise TypeError(
            f"{where}: expected layers to be None, a name, a list of names or a dict from names to rates, got "
            f"{layers!r}."
        )
    rates = list(layers.items()) if isinstance(layers, Mapping) else [(key, 1.0) for key in layers]
    patterns = [pattern(where, "layers", key) for key, _ in rates]
    named = zip(patterns, rates, strict=True)
    return patterns, [checks.fraction(where, f"the rate of {each.text!r}", rate) for each, (_, rate) in named]
