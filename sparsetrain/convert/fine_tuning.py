"""A few weights of a trained model made to train, and folded back into it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import checks
from ..layer_names import names_of
from ..nn import SparseDeltaLinear
from ..nn.sparse_delta import check_linear
from ..structure.topology import Topology
from .choice import by_density, by_mask, check_select, named
from .gradients import by_gradient
from .kinds import is_linear
from .rules import Density, by_rules, share_out
from .swap import Skip, check_names_free, check_not_compiled, check_untied, exchange, skipped

LINEAR = "nn.Linear"
TIED = "so that edges can't be merged into one. Leave the layer as it is with skip=[{!r}], or untie them before."


def train_edges(
    model: nn.Module,
    density: Density | None = None,
    method: Literal["uniform", "er", "erk"] = "uniform",
    *,
    masks: Mapping[str, Any] | None = None,
    select: Literal["random", "magnitude", "gradient"] = "random",
    closure: Callable[[], Tensor] | None = None,
    skip: Skip = (),
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Replace the nn.Linear layers of a model, in place, by SparseDeltaLinear layers, which train a few weights.

    Everything else is frozen, except the modules in ``skip``, which stay unchanged, for instance a new head. The
    model computes what it did until it is trained. Subclasses of nn.Linear and what sparsify lets stay are not
    replaced, but frozen; code that reads ``layer.weight`` itself needs its layer in ``skip``. Optimizers are to be made
    afterwards, over ``[p for p in model.parameters() if p.requires_grad]``.

    Args:
        model: any module.
        density: fraction of the weights of all the layers together that train, from 0 to 1. Of a layer with n weights
            and density d, exactly round(d * n). Or such fractions by rules, as in sparsify: the first that matches a
            layer counts; layers that none matches, or for which it says None, have no edges that train.
        method: how layers share it, see patterns.allocate; of rules, how the layers of each share its density.
        masks: in place of density: by dotted layer name, a matrix of zeros and ones (out, in) or a Topology. Layers
            that are not named have no edges that train.
        select: which weights: ``"random"`` ones, those of the largest ``"magnitude"``, or those of the largest
            ``"gradient"`` of a loss in absolute value.
        closure: for ``"gradient"``: takes no arguments, runs the model and returns the loss, without a backward pass.
            The gradient is searched in blocks of rows; none of the weights' full shape is made, nor any left behind in
            ``grad`` of the model. What a forward pass changes, such as statistics of batch normalization, it changes.
        skip: layers, or modules that hold layers, which stay as they are: names, globs, or other rules as in sparsify.
        generator: of random edges.

    Returns:
        The model; for a model that is itself an nn.Linear, the new layer.

    Raises:
        ValueError: not exactly one of density and masks, there is nothing to replace, a name is unknown, a rule matches
            no layer, a mask or the density does not fit, a layer has no weights yet or is parametrized, or closure is
            missing or returns no loss that depends on every layer with finite gradients; or a weight is shared with
            another layer that is not in skip, such as an embedding, so that its edges could not be merged. TypeError:
            weights that are not floats. Nothing is changed then.

    Example:
        >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
        >>> x, y = torch.randn(8, 20), torch.randn(8, 10)
        >>> loss = lambda: (model(x) - y).square().mean()
        >>> model = train_edges(model, density=0.05, select="gradient", closure=loss)
        >>> [tuple(p.shape) for p in model.parameters() if p.requires_grad]
        [(30,), (15,)]
    """
    where = "convert.train_edges"
    if (density is None) == (masks is None):
        raise ValueError(
            f"{where}: expected exactly one of density and masks, got {'neither' if masks is None else 'both'}."
        )
    if masks is not None and (select != "random" or closure is not None):
        raise ValueError(f"{where}: expected either masks or a way to select edges, got both.")
    if (select == "gradient") != (closure is not None):
        raise ValueError(f'{where}: expected a closure with select="gradient", and only with it.')
    names = {module: name for name, module in model.named_modules()}
    left = skipped(where, model, skip)
    wanted: dict[Any, Any] = (
        named(where, model, masks, left, is_linear, LINEAR)
        if masks is not None
        else _densities(where, model, left, density, method)
    )
    if not wanted:
        raise ValueError(f"{where}: expected a model with nn.Linear layers, found none in {type(model).__name__}.")
    for linear in wanted:
        check_linear(f"{where}: {names[linear] or 'the model itself'}", linear)
    check_names_free(where, {names[linear]: linear for linear in wanted}, SparseDeltaLinear)
    aside = {p for module in left for p in module.parameters()}  # tied to what is in skip: users know of it
    check_untied(where, model, {names[linear]: linear for linear in wanted if linear.weight not in aside}, TIED)
    check_not_compiled(where, model, wanted)
    edges: dict[nn.Module, Topology]
    if closure is not None and density is not None:
        counts = {linear: round(share * linear.weight.numel()) for linear, share in wanted.items()}
        edges = by_gradient(where, model, closure, counts)
    else:
        generator = checks.generator(where, generator)
        with torch.device("cpu"):  # edges are real under torch.device("meta") too
            if density is None:
                edges = {linear: by_mask(where, names[linear], linear, mask) for linear, mask in wanted.items()}
            else:
                check_select(where, select)
                edges = by_density(where, wanted, select, generator)
    trained = {p for module in left for p in module.parameters() if p.requires_grad}
    asked = {
        linear: {name for name, p in linear._parameters.items() if p is not None and p.requires_grad}
        for linear in edges
    }
    model.requires_grad_(False)
    new = {linear: SparseDeltaLinear(linear, t) for linear, t in edges.items()}  # type: ignore[arg-type]
    for linear, layer in new.items():
        layer._asked = asked[linear]
    for layer in new.values():  # as in sparsify
        layer.awaits_edges = density is not None and layer.values.is_meta
    for parameter in trained:  # also where a layer that was replaced has it too
        parameter.requires_grad_()
    return exchange(model, new)


def merge_edges(model: nn.Module) -> nn.Module:
    """Replace the SparseDeltaLinear layers of a model, in place, by their nn.Linear layers with the values added.

    Weights and biases of these layers train again where they did before. What train_edges froze beside them stays
    frozen; ``model.requires_grad_()`` changes that.

    Args:
        model: any module.

    Returns:
        The model; for a model that is itself such a layer, its nn.Linear.

    Raises:
        ValueError: a weight is shared with another layer, such as an embedding, which would change as well; or
            constraints hold values away from zero. Nothing is changed then.

    Example:
        >>> merge_edges(train_edges(nn.Sequential(nn.Linear(20, 30)), density=0.1))
        Sequential(
          (0): Linear(in_features=20, out_features=30, bias=True)
        )
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SparseDeltaLinear)}
    linears = {name: layer.linear for name, layer in layers.items()}
    check_untied("convert.merge_edges", model, linears, "which would change in both places. Untie them before.")
    for name, layer in layers.items():
        try:
            layer.check_resets()
        except ValueError as error:
            raise ValueError(f"convert.merge_edges: {name!r} can't be merged. {error}") from None
    for layer in layers.values():
        layer.merge()
    return exchange(model, {layer: layer.thawed() for layer in layers.values()})


def _densities(where: str, model: nn.Module, left: set[nn.Module], density: Any, method: Any) -> dict[nn.Module, float]:
    linears = [module for module in model.modules() if is_linear(module) and module not in left]
    if isinstance(density, Mapping):
        return by_rules(where, names_of(model), linears, density, method, LINEAR, whole_stays=False).densities
    return share_out(where, linears, density, method)
