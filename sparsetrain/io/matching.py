"""Whether what a checkpoint holds fits what it is to be loaded into, before anything is changed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..edges.stored_edges import KEY, Stored, difference, stored_in, upgrade
from ..nn import EdgeModule
from ..optim.carried import Carried
from ..structure.edit import Edit
from ..structure.topology import Topology
from .known_modules import edge_layers, live_state

Groups = list[list[tuple[str | None, tuple[int, ...]]]]  # name in the model and shape of an optimizer's parameters


class Adopted(NamedTuple):
    """A layer that is to go on with other edges than its own."""

    module: EdgeModule
    topology: Topology
    values: Tensor


def check_kind(where: str, part: str, kind: str, content: Mapping[str, Any]) -> None:
    """The checkpoint has this part, of the same class."""
    if part not in content:
        raise ValueError(f"{where}: expected a checkpoint with an {part}, it was saved without. Load the model alone.")
    if content[part]["class"] != kind:
        raise ValueError(f"{where}: expected an {part} of class {kind}, the checkpoint has {content[part]['class']}.")


def upgraded(where: str, model: nn.Module, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The state with its edges in today's form."""
    state = dict(stored)
    for prefix, module in edge_layers(model).items():
        try:
            upgrade(state, prefix)
        except ValueError as error:
            raise ValueError(f"{_layer(where, prefix, module)}: {error}") from None
    return state


def check_model(
    where: str, model: nn.Module, stored: Mapping[str, Any], adopt: bool, dtypes: bool = True
) -> list[Adopted]:
    """The state, ``upgraded``, fits the model; what comes back are the layers that it fits once they have its edges."""
    ours = live_state(model)
    _check_keys(where, model, ours, stored)
    layers = edge_layers(model)
    adopted = with_other_edges(where, layers, stored, adopt)
    for prefix in layers:
        ours.pop(prefix + KEY, None)
    _check_tensors(where, ours, stored, resized=set(adopted), dtypes=dtypes)
    _check_ties(where, ours, stored)
    return list(adopted.values())


def with_other_edges(
    where: str, layers: Mapping[str, EdgeModule], stored: Mapping[str, Any], adopt: bool = True
) -> dict[str, Adopted]:
    """The layers, by the key of their values, whose stored edges are others; those that agree share a topology."""
    adopted: dict[str, Adopted] = {}
    shared: dict[tuple[Any, ...], Topology] = {}
    for prefix, module in layers.items():
        layer = _layer(where, prefix, module)
        try:
            edges = stored_in(stored, prefix)
        except ValueError as error:
            raise ValueError(f"{layer}: {error}") from None
        fault = difference(module.topology, edges) if edges else ""
        if edges and fault:
            if not ((adopt or module.awaits_edges) and edges.shape == module.topology.shape):
                raise ValueError(f"{layer}: {fault}")
            new = _adopted(layer, module, edges, stored.get(f"{prefix}values"))
            same = (new.topology.digest, new.topology.inputs, new.topology.outputs)
            adopted[f"{prefix}values"] = new._replace(topology=shared.setdefault(same, new.topology))
    return adopted


def changed_edges(where: str, optimizer: Optimizer | None, adopted: list[Adopted]) -> Carried:
    """The change of edges, ready to be made; values without numbers (meta device) go on with others as they are."""
    for module, topology, values in adopted:
        if module.values.is_meta:
            module.replace_edges(topology, values)
    held = [each for each in adopted if not each.module.values.is_meta]
    return Carried(where, optimizer, {each.module: Edit.between(each.module.topology, each.topology) for each in held})


def check_parameters(where: str, ours: Groups, stored: Groups) -> None:
    """The optimizer's parameters are the stored ones, in their order."""
    sizes, stored_sizes = [len(group) for group in ours], [len(group) for group in stored]
    if sizes != stored_sizes:
        raise ValueError(
            f"{where}: expected parameter groups of sizes {sizes}, the checkpoint's optimizer has {stored_sizes}."
        )
    for i, (group, stored_group) in enumerate(zip(ours, stored, strict=True)):
        for k, (one, other) in enumerate(zip(group, stored_group, strict=True)):
            if one != other:
                raise ValueError(
                    f"{where}: expected parameter {k} of group {i} to be {one[0]} of shape {one[1]}, the checkpoint's "
                    f"optimizer has {other[0]} of shape {other[1]}. Give it its parameters in the same order."
                )


def _layer(where: str, prefix: str, module: nn.Module) -> str:
    return f"{where}: {type(module).__name__} {prefix.rstrip('.') or '(the model itself)'}"


def _check_keys(where: str, model: nn.Module, ours: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    missing = [key for key in ours if key not in stored]
    unexpected = [key for key in stored if key not in ours]
    if missing or unexpected:
        faults = [
            f"{what} {', '.join(map(str, keys))}"
            for what, keys in (("lacks", missing), ("has also", unexpected))
            if keys
        ]
        raise ValueError(
            f"{where}: expected a checkpoint of this {type(model).__name__}, it {' and '.join(faults)}."
            f"{_advice(*missing, *unexpected) or _wrapped(missing, unexpected) or _other_form(missing, unexpected)}"
        )


def _wrapped(missing: list[str], unexpected: list[str]) -> str:
    """What to do where one side has a wrapper around the model, such as DistributedDataParallel, and the other none."""
    if prefix := _prefix(missing, unexpected):
        return (
            f" It was saved with a wrapper around the model, whose keys begin with {prefix!r}. Put the model where it "
            f"was: torch.nn.ModuleDict({{{prefix.split('.')[0]!r}: model}}) has the same keys and parameters."
        )
    if prefix := _prefix(unexpected, missing):
        return f" It was saved without the wrapper around this model. Load it into what is wrapped, .{prefix[:-1]}."
    return ""


def _prefix(keys: list[str], longer: list[str]) -> str:
    """What stands before each of the keys in the longer ones, or nothing."""
    fits = [key.removesuffix(str(keys[0])) for key in longer if str(key).endswith(f".{keys[0]}")] if keys else []
    return next((prefix for prefix in fits if {f"{prefix}{key}" for key in keys} <= set(longer)), "")


def _other_form(missing: list[str], unexpected: list[str]) -> str:
    """What to do where one side has weights and the other has edges: nobody sees it in a long list of keys."""
    if any(_is_edges(key) for key in unexpected) and any(_is_weight(key) for key in missing):
        return " It holds edges where the model has dense weights: make the model sparse before, as it was saved."
    if any(_is_weight(key) for key in unexpected) and any(_is_edges(key) for key in missing):
        return (
            " It holds dense weights where the model has edges: load it into the dense model before that turns sparse."
        )
    return ""


def _is_edges(key: object) -> bool:
    return str(key).endswith("values")


def _is_weight(key: object) -> bool:
    return str(key).endswith("weight")


def _adopted(layer: str, module: EdgeModule, edges: Stored, values: Any) -> Adopted:
    if values is None or not isinstance(module.values, nn.Parameter):
        raise ValueError(
            f"{layer}: can't adopt edges, as its values are computed from others. Load it where edges agree."
        )
    if not isinstance(values, Tensor):
        raise TypeError(f"{layer}: expected values to be a Tensor, got {type(values).__name__}.")
    try:
        topology = edges.topology()
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from None
    if values.shape != (topology.nnz,):
        raise ValueError(f"{layer}: the stored edges are damaged: {topology!r} with {values.numel()} values.")
    return Adopted(module, topology, values)


def _check_tensors(
    where: str, ours: Mapping[str, Any], stored: Mapping[str, Any], resized: set[str], dtypes: bool
) -> None:
    for key, tensor in ours.items():
        other = stored[key]
        if isinstance(tensor, Tensor) != isinstance(other, Tensor):
            raise ValueError(f"{where}: expected {key} to be a {type(tensor).__name__}, got {type(other).__name__}.")
        if isinstance(tensor, Tensor):
            _check_numbers(where, key, tensor, other)
            if tensor.shape != other.shape and key not in resized:
                raise ValueError(
                    f"{where}: expected {key} of shape {tuple(tensor.shape)}, the checkpoint has {tuple(other.shape)}."
                    f"{_advice(key)}"
                )
            if dtypes and tensor.dtype is not other.dtype:
                raise TypeError(
                    f"{where}: expected {key} in {tensor.dtype}, the checkpoint has {other.dtype}. Convert the model "
                    "with .to(dtype) before."
                )


def _check_numbers(where: str, key: str, ours: Tensor, other: Tensor) -> None:
    """Numbers that can be copied, which torch finds out in the middle of loading."""
    if ours.is_meta:
        raise ValueError(
            f"{where}: expected a model with memory, {key} is on the meta device, where nothing can be loaded. Call "
            'model.to_empty(device="cpu"), or of another device, before.'
        )
    dense = ours.layout is torch.strided
    expanded = dense and any(step == 0 and size > 1 for step, size in zip(ours.stride(), ours.shape, strict=True))
    if expanded or (ours.is_inference() and not torch.is_inference_mode_enabled()):
        form = "one whose numbers share their memory (expand)" if expanded else "one of torch.inference_mode"
        raise ValueError(
            f"{where}: expected {key} to be a tensor that can be written into, got {form}. Clone it before."
        )
    lost = other.is_meta
    if lost or other.layout is not ours.layout or other.is_quantized != ours.is_quantized:
        form, got = ("quantized" if t.is_quantized else str(t.layout).removeprefix("torch.") for t in (ours, other))
        raise TypeError(f"{where}: expected {key} to be a {form} tensor, got a {'meta' if lost else got} one.")
    if other.is_complex() and not ours.is_complex():
        raise TypeError(f"{where}: expected {key} to hold real numbers, got {other.dtype}.")


def _advice(*keys: str) -> str:
    constrained = any("parametrizations.values." in str(key) for key in keys)
    return " Constrain the same edges as when it was saved, in the same way, before." if constrained else ""


def _check_ties(where: str, ours: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """What is one tensor in the model is one in the checkpoint, or else two that are equal."""
    first: dict[tuple[Any, ...], str] = {}
    for key, tensor in ours.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            other = first.setdefault((tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()), key)
            if stored[key] is not stored[other] and not torch.equal(stored[key], stored[other]):
                raise ValueError(f"{where}: expected {other} and {key} to be tied, they differ in the checkpoint.")
