"""Edges whose value is exactly zero taken out of a model that goes on training."""

from torch import Tensor, nn
from torch.optim import Optimizer

from ..nn import EdgeModule, TransposedSparseLinear
from ..optim.carried import Carried
from ..optim.row_optimizer import RowOptimizer
from ..structure.edit import Edit

Layers = dict[str, EdgeModule]
Kept = dict[nn.Parameter, Tensor]  # which values stay, of those parameters that lose some


def drop_zeros(model: nn.Module, optimizer: Optimizer | None = None) -> dict[str, int]:
    """Remove the edges whose value is exactly 0 from all sparse layers, in place, for instance after proximal steps.

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
            can't be carried along, such as LBFGS. TypeError: values that a parametrization computes, or no module, or
            no optimizer. Nothing is changed then.

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
    edits = {name: Edit(layer.topology, kept[layer.values]) for name, layer in layers.items() if layer.values in kept}
    change = Carried(where, optimizer, {layers[name]: edit for name, edit in edits.items()})
    change.layers()
    change.optimizer()
    for p in kept:
        p.grad = None
    return {name: int(edits[name].pruned.numel()) if name in edits else 0 for name in layers}


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
