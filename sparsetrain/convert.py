"""Whole models in and out: nn.Linear layers become sparse, sparse layers become nn.Linear."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod

from . import checks, patterns
from .nn import MaskedLinear, SparseLinear
from .ops.verbs import FLOATS
from .swap import check_untied, exchange, skipped, some
from .topology import Topology

PARTS = {"weight", "bias", "weight_orig", "weight_mask", "bias_orig", "bias_mask"}  # with those of torch.nn.utils.prune


def sparsify(
    model: nn.Module,
    density: float | None = None,
    method: Literal["uniform", "er", "erk"] = "erk",
    *,
    masks: Mapping[str, Any] | None = None,
    select: Literal["magnitude", "random"] = "magnitude",
    skip: str | Iterable[str] = (),
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Replace the nn.Linear layers of a model, in place, by SparseLinear layers with the same weights at their edges.

    Which edges a layer keeps is said in one of three ways:

    - ``density``: that fraction of the weights of all the layers together, shared out by patterns.allocate; of a
      layer with n weights and density d, exactly round(d * n), the largest or random ones;
    - ``masks``: those of the masks; layers that are not named stay dense;
    - neither: those that torch.nn.utils.prune has left, as ``weight_orig * weight_mask``; layers that were not pruned
      stay dense, and the hooks of prune are gone.

    Everything else stays: biases (the same Parameters), dtype, device, requires_grad, training mode, hooks, and one
    layer used in several places is still one. Subclasses of nn.Linear stay dense, as do the projections of
    nn.MultiheadAttention and recurrent layers. torch's transformer encoders leave their fused inference kernel, which
    takes dense weights. Code that reads ``layer.weight`` itself needs its layer in ``skip``. Optimizers are to be made
    afterwards.

    Args:
        model: any module.
        density: fraction of the edges that exist, from 0 to 1.
        method: how layers share it, see patterns.allocate.
        masks: by dotted layer name, a matrix of zeros and ones (out, in) or a Topology.
        select: ``"magnitude"`` keeps the weights of largest absolute value, the first of equals; or ``"random"``.
        skip: dotted names of layers, or of modules that hold layers, which stay as they are.
        generator: of random edges.

    Returns:
        The model; for a model that is itself an nn.Linear, the new layer.

    Raises:
        ValueError: there is nothing to replace, a name is unknown, a mask or the density does not fit, or a weight is
            shared with another layer. TypeError: weights that are not float32 or float64. Nothing is changed then.

    Example:
        >>> sparsify(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), density=0.1, method="uniform")
        Sequential(
          (0): SparseLinear(in_features=20, out_features=30, nnz=60, density=0.1, bias=True)
          (1): ReLU()
          (2): SparseLinear(in_features=30, out_features=10, nnz=30, density=0.1, bias=True)
        )
    """
    where = "convert.sparsify"
    if density is not None and masks is not None:
        raise ValueError(f"{where}: expected at most one of density and masks, got both.")
    names = {module: name for name, module in model.named_modules()}
    left = skipped(where, model, skip)
    if masks is not None:
        wanted = _named(where, model, masks, left)
    elif density is not None:
        wanted = {m: None for m in names if _is_linear(m) and m not in left}
    else:
        wanted = {m: m.weight_mask != 0 for m in names if _is_pruned(m) and m not in left}
    if not wanted:
        what = "nn.Linear layers to replace" if density is not None else "masks, given or of torch.nn.utils.prune"
        raise ValueError(f"{where}: expected a model with {what}, found none in {type(model).__name__}.")
    _check_replaceable(where, model, {names[linear]: linear for linear in wanted})
    if density is not None:
        edges = _by_density(where, list(wanted), density, method, select, generator)
    else:
        edges = {linear: _by_mask(where, names[linear], linear, mask) for linear, mask in wanted.items()}
    new = {linear: _sparse(linear, t) for linear, t in edges.items()}
    for linear in new:
        _drop_prune_hooks(linear)
    return exchange(model, new)


def densify(model: nn.Module, skip: str | Iterable[str] = ()) -> nn.Module:
    r"""Replace the SparseLinear and MaskedLinear layers of a model, in place, by nn.Linear with zeros where no edge is.

    Subclasses stay, and so does everything that sparsify lets stay. torch's transformer encoders do not go back to
    their fused inference kernel.

    Args:
        model: any module.
        skip: dotted names of layers, or of modules that hold layers, which stay as they are.

    Returns:
        The model; for a model that is itself such a layer, the new layer.

    Raises:
        ValueError: a layer shares its values with another, such as its own transpose, or a name in skip is unknown.
            Nothing is changed then.

    Example:
        >>> densify(nn.Sequential(SparseLinear(20, 30, density=0.1)))
        Sequential(
          (0): Linear(in_features=20, out_features=30, bias=True)
        )
    """
    where = "convert.densify"
    left = skipped(where, model, skip)
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module) in (SparseLinear, MaskedLinear) and module not in left
    }
    check_untied(where, model, layers)
    return exchange(model, {layer: _dense(layer) for layer in layers.values()})


def _is_linear(module: nn.Module) -> bool:
    """A linear layer, which may turn out to be lazy or parametrized, but no other subclass."""
    kind = type(module).__bases__[0] if is_parametrized(module) else type(module)
    return kind in (nn.Linear, nn.LazyLinear)


def _is_pruned(module: nn.Module) -> bool:
    return type(module) is nn.Linear and "weight_mask" in module._buffers


def _named(where: str, model: nn.Module, masks: Mapping[str, Any], left: set[nn.Module]) -> dict[nn.Module, Any]:
    """The masks by layer."""
    if not isinstance(masks, Mapping):
        raise TypeError(f"{where}: expected masks to be a dict from layer names to masks, got {type(masks).__name__}.")
    modules = dict(model.named_modules(remove_duplicate=False))
    linears = {name: module for name, module in modules.items() if _is_linear(module)}
    wanted: dict[nn.Module, Any] = {}
    for name, mask in masks.items():
        if name not in linears:
            kind = f", a {type(modules[name]).__name__}" if name in modules else ""
            raise ValueError(
                f"{where}: expected names of nn.Linear layers in masks, got {name!r}{kind}. There are {some(linears)}."
            )
        if linears[name] in wanted or linears[name] in left:
            place = "skip" if linears[name] in left else "masks under another name"
            raise ValueError(f"{where}: expected each layer to be named once, got {name!r} in masks and in {place}.")
        wanted[linears[name]] = mask
    return wanted


def _check_replaceable(where: str, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Nothing of these layers would be lost."""
    for name, layer in layers.items():
        advice = f"Leave it dense with skip=[{name!r}]."
        more = {*layer._parameters, *layer._buffers, *layer._modules} - PARTS
        if more:
            raise ValueError(
                f"{where}: expected linear layers of weight and bias alone, {name!r} has {', '.join(sorted(more))}. "
                f"{advice}"
            )
        weight = None if isinstance(layer, nn.LazyLinear) else _current(layer, "weight")
        if weight is None or weight.is_meta:
            raise ValueError(f"{where}: expected weights, {name!r} has none yet. Initialize it before. Or: {advice}")
        if weight.dtype not in FLOATS:
            raise TypeError(f"{where}: expected float32 or float64 weights, {name!r} has {weight.dtype}. {advice}")
    check_untied(where, model, layers)


def _by_density(
    where: str, linears: list[Any], density: float, method: Any, select: str, generator: torch.Generator | None
) -> dict[nn.Module, Topology]:
    shapes = [(linear.out_features, linear.in_features) for linear in linears]
    densities = patterns.allocate(shapes, checks.density(where, density), method)
    if select == "random":
        drawn = [patterns.uniform(shape, d, generator) for shape, d in zip(shapes, densities, strict=True)]
    elif select == "magnitude":
        drawn = [_largest(_current(linear, "weight"), d) for linear, d in zip(linears, densities, strict=True)]
    else:
        raise ValueError(f"{where}: expected select to be 'magnitude' or 'random', got {select!r}.")
    return dict(zip(linears, drawn, strict=True))


def _largest(weight: Tensor, density: float) -> Topology:
    order = weight.detach().abs().flatten().argsort(descending=True, stable=True)
    kept = order[: round(density * weight.numel())]
    return Topology.from_mask(torch.zeros_like(order, dtype=torch.bool).index_fill_(0, kept, True).view(weight.shape))


def _by_mask(where: str, name: str, linear: Any, mask: Any) -> Topology:
    try:
        t = mask if isinstance(mask, Topology) else Topology.from_mask(mask)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: mask of {name!r}: {error}") from None
    if t.shape != (linear.out_features, linear.in_features):
        raise ValueError(
            f"{where}: expected the mask of {name!r} in shape (out, in) = ({linear.out_features}, "
            f"{linear.in_features}), got {t.shape}."
        )
    return t


def _current(linear: Any, part: str) -> Any:
    """Weight or bias, or None, as the next forward pass sees it: under the mask of torch.nn.utils.prune, if any."""
    original = linear._parameters.get(f"{part}_orig")
    if original is None:
        return linear._parameters.get(part)
    mask = linear._buffers[f"{part}_mask"]
    return nn.Parameter(original.detach() * mask.to(original.dtype), original.requires_grad)


def _drop_prune_hooks(linear: nn.Module) -> None:
    hooks = linear._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, BasePruningMethod)]:
        del hooks[key]


def _sparse(linear: nn.Module, t: Topology) -> SparseLinear:
    weight, bias = _current(linear, "weight"), _current(linear, "bias")
    plain = nn.Linear(t.shape[1], t.shape[0], bias is not None, device="meta").train(linear.training)
    plain.weight, plain.bias = weight, bias
    layer = SparseLinear.from_dense(plain, t)
    layer.bias = bias
    return layer


def _dense(layer: SparseLinear | MaskedLinear) -> nn.Linear:
    linear = layer.to_dense()
    linear.register_parameter("bias", layer._parameters.get("bias"))
    return linear
