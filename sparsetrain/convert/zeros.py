"""Edges whose value is exactly zero taken out of a model that goes on training."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from ..nn import EdgeModule, TransposedSparseLinear
from ..optim.row_optimizer import RowOptimizer
from ..structure.edge_sets import part

Layers = dict[str, EdgeModule]
Kept = dict[nn.Parameter, Tensor]  # which values stay, of those parameters that lose some
State = dict[str, Any]


def drop_zeros(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, int]:
    """Take the edges whose value is exactly 0 out of every layer over edges, in place, as after proximal steps.

    A layer goes on with the same Parameter object and a smaller topology that keeps its names. What the optimizer holds
    for each value - moments, sums, steps of rows, an ``l1`` tensor - shrinks along, to the bit, so that training goes
    on as that of a layer that never had those edges. Layers over one value array (``transposed()``) shrink together.
    Gradients are dropped, as after ``zero_grad()``. A SparseDeltaLinear starts with zeros, and loses those
    that have not been trained.

    Args:
        model: any module.
        optimizer: what trains it; without it, make a new one afterwards.

    Returns:
        How many edges each layer lost, by its name; ``""`` is the model itself.

    Raises:
        ValueError: values on the meta device, or shared with what is no layer over edges; or an optimizer whose state
            can't be cut, such as LBFGS. TypeError: values that a parametrization computes, or no module, or no
            optimizer. Nothing is changed then.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> model = nn.Sequential(SparseLinear(4, 3, density=0.5), nn.ReLU(), SparseLinear(3, 2, density=1.0))
        >>> _ = model[0].values.data[:2].zero_()
        >>> drop_zeros(model), model[0].topology.nnz
        ({'0': 2, '2': 0}, 4)
    """
    where = "convert.drop_zeros"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected a module, got {type(model).__name__}.")
    if not (optimizer is None or isinstance(optimizer, Optimizer)):
        raise TypeError(f"{where}: expected a torch optimizer or None, got {type(optimizer).__name__}.")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, EdgeModule)}
    _check_layers(where, layers)
    if isinstance(optimizer, RowOptimizer):
        optimizer.flush()
    for layer in layers.values():
        layer.bring_up_to_date()
    kept = {p: keep for p in {layer.values for layer in layers.values()} if not bool((keep := p.detach() != 0).all())}
    _check_owners(where, model, layers, kept)
    states, groups = ({}, []) if optimizer is None else _cut(where, optimizer, kept)
    dropped = {name: _shrink(layer, kept.get(layer.values)) for name, layer in layers.items()}
    for p, state in states.items():
        optimizer.state[p].update(state)  # type: ignore[union-attr]
    for group, l1 in groups:
        group["l1"] = l1
    if isinstance(optimizer, RowOptimizer):
        for p in kept:
            optimizer.resized(p)
    return dropped


def _check_layers(where: str, layers: Layers) -> None:
    for name, layer in layers.items():
        if not isinstance(layer.values, nn.Parameter):
            raise TypeError(
                f"{where}: expected values that are a Parameter, those of {name!r} are computed from others. Call "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'values') before, and constrain the smaller "
                "layer again."
            )
        if layer.values.is_meta:
            raise ValueError(f"{where}: expected values, {name!r} has none yet (meta device). Load them before.")


def _check_owners(where: str, model: nn.Module, layers: Layers, kept: Kept) -> None:
    """Nothing but layers over edges, all of them in the model, holds a parameter that is to shrink."""
    ours = set(layers.values())
    for name, layer in layers.items():
        if isinstance(layer, TransposedSparseLinear) and layer.values in kept and layer.origin not in ours:
            raise ValueError(
                f"{where}: the values of {name!r} belong to a layer outside of the model, of which it is the "
                "transpose. Pass a module that holds both."
            )
    for prefix, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is not None and p in kept and not (module in ours and name == "values"):
                owner = next(each for each, layer in layers.items() if layer.values is p)
                raise ValueError(
                    f"{where}: {f'{prefix}.{name}'.lstrip('.')} is the value array of {owner!r} too, and is no layer "
                    "over edges that could go on with fewer. Untie them before."
                )


def _cut(where: str, optimizer: Optimizer, kept: Kept) -> tuple[dict[nn.Parameter, State], list[tuple[State, Tensor]]]:
    """What an optimizer holds for each value, for those that stay: states by parameter, and l1 of groups."""
    kind = type(optimizer).__name__
    if isinstance(optimizer, LBFGS) and kept:
        raise ValueError(
            f"{where}: the state of {kind} is of all parameters together and can't be cut. Call drop_zeros(model) "
            "alone, and make a new optimizer."
        )
    states = {p: _cut_state(where, kind, optimizer.state[p], keep) for p, keep in kept.items() if p in optimizer.state}
    groups: list[tuple[State, Tensor]] = []
    for group in optimizer.param_groups:
        ours = [p for p in group["params"] if p in kept]
        if ours and isinstance(group.get("l1"), Tensor) and group["l1"].ndim:
            if len(group["params"]) > 1:
                raise ValueError(
                    f"{where}: an l1 for each value is shared by {len(group['params'])} parameters of a group, which "
                    "would no longer be of one shape. Give each parameter a group of its own."
                )
            groups.append((group, group["l1"][kept[ours[0]].to(group["l1"].device)]))
    return states, groups


def _cut_state(where: str, kind: str, state: State, keep: Tensor) -> State:
    cut = {}
    for name, value in state.items():
        if name == "step" or value is None or isinstance(value, bool | int | float | str):
            continue
        if isinstance(value, Tensor) and not value.ndim:
            continue
        if not isinstance(value, Tensor) or value.shape != keep.shape or value.layout is not torch.strided:
            got = f"shape {tuple(value.shape)}, {value.layout}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{where}: expected the state of {kind} to hold numbers and tensors of the values' shape "
                f"{tuple(keep.shape)}, got {name} of {got}, which can't be cut. Call drop_zeros(model) alone, and make "
                "a new optimizer."
            )
        cut[name] = value[keep.to(value.device)]
    return cut


def _shrink(layer: EdgeModule, keep: Tensor | None) -> int:
    """Layers over one value array come one after the other: the first cuts it, the others find it cut."""
    if keep is None:
        return 0
    if layer.values.numel() == keep.numel():
        layer.replace_edges(part(layer.topology, keep), layer.values.detach()[keep])
    return keep.numel() - layer.topology.nnz
