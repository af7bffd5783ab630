"""Whole models out: sparse layers become dense again."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod

from ..dtypes import HALVES
from ..nn import MaskedLinear, SparseLinear
from ..nn.sparse_convolution import CONVOLUTIONS
from .closed import check_closable, closable, closed, transposed_back
from .swap import OWN, Skip, check_names_free, check_not_compiled, check_untied, exchange, kind_of, skipped
from .ties import sharing_values

DENSE = {SparseLinear: nn.Linear, MaskedLinear: nn.Linear} | {sparse: dense for dense, sparse in CONVOLUTIONS.items()}


def densify(model: nn.Module, skip: Skip = ()) -> nn.Module:
    r"""Replace SparseLinear, MaskedLinear and sparse convolutions of a model, in place, by dense layers with zeros.

    A SparseMultiheadAttention becomes an nn.MultiheadAttention, and what was a Conv1D is one again: states have the
    names and shapes of before sparsify. Subclasses stay. torch's transformer encoders do not go back to their fused
    inference kernel.

    Args:
        model: any module.
        skip: layers, or modules that hold layers, which stay as they are: names, globs, or other rules as in sparsify.

    Returns:
        The model; for a model that is itself such a layer, the new layer.

    Raises:
        ValueError: a layer shares its values with its own transpose or with a layer in skip, is pruned or parametrized
            by torch.nn.utils, or has other tensors, modules or, as a projection, hooks that would be lost, or a name in
            skip is unknown. Nothing is changed then.

    Example:
        >>> densify(nn.Sequential(SparseLinear(20, 30, density=0.1)))
        Sequential(
          (0): Linear(in_features=20, out_features=30, bias=True)
        )
    """
    where = "convert.densify"
    left = skipped(where, model, skip)
    layers = {name: module for name, module in model.named_modules() if kind_of(module) in DENSE and module not in left}
    attentions = closable(model, left)
    parts = {
        f"{name}.{part}".lstrip("."): layer
        for name, each in attentions.items()
        for part, layer in each.named_children()
    }
    _check_nothing_added(where, layers | parts)
    for name, layer in layers.items():
        check_names_free(where, {name: layer}, DENSE[kind_of(layer)])
    for name, attention in attentions.items():
        check_closable(where, name, attention)
    check_not_compiled(where, model, layers.values())
    follow = sharing_values(model, layers)
    together = {*follow, *follow.values()}
    check_untied(where, model, {name: layer for name, layer in layers.items() if layer not in together})
    dense: dict[nn.Module, Any] = {layer: transposed_back(layer, _dense(layer)) for layer in layers.values()}
    for layer, leader in follow.items():
        dense[layer].weight = dense[leader].weight
    new = {layer: linear for layer, linear in dense.items() if layer not in parts.values()}
    return exchange(model, new | {attention: closed(attention, dense) for attention in attentions.values()})


def _check_nothing_added(where: str, layers: Mapping[str, nn.Module]) -> None:
    """A dense layer has other names and shapes, which masks of torch.nn.utils.prune and parametrizations don't fit."""
    for name, layer in layers.items():
        added = {*layer._parameters, *layer._buffers, *layer._modules} - OWN[kind_of(layer)]
        if not added:
            continue
        hooks = layer._forward_pre_hooks.values()
        pruned = [hook._tensor_name for hook in hooks if isinstance(hook, BasePruningMethod)]
        parametrized = dict(layer.get_submodule("parametrizations").named_children()) if is_parametrized(layer) else {}
        calls = [f"torch.nn.utils.prune.remove(layer, {part!r})" for part in pruned]
        calls += [f"torch.nn.utils.parametrize.remove_parametrizations(layer, {part!r})" for part in parametrized]
        raise ValueError(
            f"{where}: expected layers as they were made, {name!r} has {', '.join(sorted(added))}. "
            f"{'Call ' + ' and '.join(calls) if calls else 'Remove that'} first, or leave the layer as it is with "
            f"skip=[{name!r}]."
        )


def _dense(layer: Any) -> nn.Module:
    dense: nn.Module = layer.to_dense()
    bias = layer._parameters.get("bias")
    if bias is not None and bias.dtype in HALVES:  # of a model in half precision
        dense.to(bias.dtype)
    dense.register_parameter("bias", bias)
    return dense
