"""Modules that multiply by weights of their own, opened: layers of nn.Linear stand for them while layers are chosen."""

from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as dense_product
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..layer_names import Names, by_any_name, names_of
from ..nn import SparseMultiheadAttention
from ..nn.attention_parts import OF_LINEAR, PROJECTIONS, extras, split
from ..structure.topology import Topology
from . import transposed
from .swap import kind_of, take_over


class Opened:
    """A model in which, inside a ``with`` block, linear layers over the same memory stand for what multiplies itself.

    For nn.MultiheadAttention these are its four projections; for transformers' Conv1D, and for subclasses of nn.Linear
    that are named, a plain nn.Linear. After the block everything is where it was.

    Args:
        model: any module.
        subclasses: of nn.Linear, which compute what nn.Linear does.
    """

    def __init__(self, model: nn.Module, subclasses: Collection[Any] = ()) -> None:
        self.model = model
        self._root = model
        self._subclasses = set(subclasses) - {nn.Linear, NonDynamicallyQuantizableLinear}  # which attention has
        self._stand_ins: dict[nn.Module, Any] = {}
        self._places: list[tuple[dict[str, Any], str, nn.Module]] = []
        for module in model.modules():
            stand_in = self._stand_in(module)
            if stand_in is not None:
                self._stand_ins[module] = stand_in

    def _stand_in(self, module: Any) -> nn.Module | None:
        stand_in: nn.Module
        if kind_of(module) is nn.MultiheadAttention:
            parts = split(module)
            for part in parts.values():
                vars(part)["_stands_for"] = (module,)
            return SparseMultiheadAttention.of_parts(module, parts)
        if transposed.is_transposed(module):
            stand_in = transposed.as_linear(module)
        elif type(module) in self._subclasses:
            stand_in = _plain(module)
        else:
            return None
        vars(stand_in)["_stands_for"] = (module,)
        return stand_in

    def __enter__(self) -> Self:
        for parent in self.model.modules():
            children = parent._modules
            self._places += [(children, name, each) for name, each in children.items() if each in self._stand_ins]
        for children, name, module in self._places:
            children[name] = self._stand_ins[module]
        self.model = self._stand_ins.get(self._root, self._root)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(self._stand_ins)

    def close(self, modules: Collection[nn.Module]) -> None:
        """Put back these modules of the model."""
        for children, name, module in self._places:
            if module in modules:
                children[name] = module
        if self._root in modules:
            self.model = self._root

    def close_unless(self, chosen: Collection[nn.Module]) -> dict[nn.Module, nn.Module]:
        """Put back what has no chosen layer; which layer stood for a part of it."""
        idle = [module for module, each in self._stand_ins.items() if not any(p in chosen for p in each.modules())]
        parts: dict[nn.Module, nn.Module] = {}
        for module in idle:
            stand_in = self._stand_ins[module]
            if isinstance(stand_in, SparseMultiheadAttention):
                parts |= {module: stand_in.q_proj, module.get_submodule("out_proj"): stand_in.out_proj}
            else:
                parts[module] = stand_in
        self.close(idle)
        return parts

    @property
    def names(self) -> Names:
        """All names of each module; of a projection also those of its attention, and of the parameter it is part of."""
        names = names_of(self.model)
        for module, stand_in in self._stand_ins.items():
            for name in list(names.get(stand_in, ())) if isinstance(stand_in, SparseMultiheadAttention) else ():
                for part in PROJECTIONS:
                    whole = part != "out_proj" and module._qkv_same_embed_dim
                    of_weight = [f"{name}.in_proj_weight".lstrip(".")] if whole else []
                    names[stand_in.get_submodule(part)] += [*of_weight, name]
        return names

    def by_projection(self, where: str, masks: Any) -> Any:
        """Masks in which one of an ``in_proj_weight`` has become three."""
        if not isinstance(masks, Mapping):
            return masks
        spread = dict(masks)
        for name, module in by_any_name(self.model).items():
            key = f"{name}.in_proj_weight".lstrip(".")
            if isinstance(module, SparseMultiheadAttention) and key in spread:
                mask = spread.pop(key)
                mask = mask.to_mask() if isinstance(mask, Topology) else torch.as_tensor(mask)
                shape = (3 * module.embed_dim, module.embed_dim)
                if mask.shape != shape:
                    raise ValueError(
                        f"{where}: expected the mask of {key!r} in shape (out, in) = {shape}, got {tuple(mask.shape)}."
                    )
                for part, rows in zip(PROJECTIONS, mask.tensor_split(3), strict=False):
                    spread[f"{name}.{part}".lstrip(".")] = rows
        return spread

    def check(self, where: str, chosen: Collection[nn.Module]) -> None:
        """Nothing of the modules that are opened for the chosen layers would be lost, and subclasses multiply alone."""
        names = names_of(self.model)
        for module, stand_in in self._stand_ins.items():
            if not any(part in chosen for part in stand_in.modules()):
                continue
            name = names[stand_in][0]
            more = extras(module) if isinstance(stand_in, SparseMultiheadAttention) else ()
            if more:
                raise ValueError(
                    f"{where}: expected attention whose weights are Parameters, {name!r} has "
                    f"{', '.join(sorted(more))}. Leave it dense with skip=[{name!r}]."
                )
            if type(module) in self._subclasses:
                _check_multiplies(where, name, module)

    def sparse(self, new: Mapping[nn.Module, nn.Module]) -> dict[nn.Module, nn.Module]:
        """What each module of the model is replaced by, where these new layers replace linear layers."""
        outer: dict[nn.Module, nn.Module] = {}
        inner: set[nn.Module] = set()
        for module, stand_in in self._stand_ins.items():
            inner.update(stand_in.modules())
            if isinstance(stand_in, SparseMultiheadAttention) and any(part in new for part in stand_in.modules()):
                _complete(module, stand_in, new)
                outer[module] = stand_in
            elif stand_in in new:
                layer = outer[module] = new[stand_in]
                if transposed.is_transposed(module):
                    vars(layer)["_dense_kind"] = type(module)
        return outer | {layer: replacement for layer, replacement in new.items() if layer not in inner}


def _plain(module: Any) -> nn.Linear:
    """A plain layer of the same parameters, and of whatever else there is."""
    linear = nn.Linear(1, 1, device="meta").train(module.training)
    linear.in_features, linear.out_features = module.in_features, module.out_features
    for kept in ("_parameters", "_buffers", "_modules"):
        vars(linear)[kept] = dict(vars(module)[kept])
    return linear


def _complete(module: Any, attention: Any, new: Mapping[nn.Module, nn.Module]) -> None:
    """Give an attention its sparse layers, and to those that stay dense numbers of their own."""
    for name in PROJECTIONS[:3]:
        part = new.get(getattr(attention, name), getattr(attention, name))
        for kept in (part._parameters, part._buffers):
            for key, tensor in kept.items():  # views of what all three had together
                if tensor is not None and key != "values":
                    copied = tensor.detach().clone()
                    kept[key] = nn.Parameter(copied, tensor.requires_grad) if kept is part._parameters else copied
        vars(part).pop("_stands_for", None)
        setattr(attention, name, part)
    last, was = new.get(attention.out_proj, attention.out_proj), module.out_proj
    as_it_was = type(last) is nn.Linear and last._parameters.keys() | last._buffers.keys() != OF_LINEAR
    vars(last).pop("_stands_for", None)
    attention.out_proj = was if as_it_was else take_over(was, last)  # pruned and parametrized it goes on as it is


def _check_multiplies(where: str, name: str, layer: Any) -> None:
    """A subclass computes ``x W' + b``, as whoever named it says. If it has a forward of its own, two samples tell."""
    if type(layer).forward is nn.Linear.forward or layer.weight.is_meta:
        return
    x = torch.linspace(-1.0, 1.0, 2 * layer.in_features).view(2, -1).to(layer.weight)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            y = type(layer).forward(layer, x)
        except Exception as error:
            y = f"{type(error).__name__}: {error}"
        expected = dense_product(x, layer.weight, layer.bias)
    if not isinstance(y, Tensor) or y.shape != expected.shape or not torch.allclose(y, expected, 1e-2, 1e-3):
        got = "other numbers" if isinstance(y, Tensor) else y if isinstance(y, str) else type(y).__name__
        raise ValueError(
            f"{where}: expected a subclass that computes x W' + b, as a rule for the class says, forward of {name!r} "
            f"({type(layer).__name__}) gives {got}. Drop that rule, or leave the layer dense with skip=[{name!r}]."
        )
