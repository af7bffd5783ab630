"""Whole models in: linear layers and convolutions become sparse."""

from collections.abc import Mapping
from typing import Any, Literal, overload

import torch
from torch import nn

from .. import checks
from ..layer_names import Names
from ..nn import SparseLinear
from ..nn.sparse_convolution import CONVOLUTIONS, SparseConvolution
from ..nn.sparse_linear import dense_linear
from ..structure.topology import Topology
from .choice import by_density, by_mask, check_replaceable, check_select, current, named
from .kinds import is_linear, is_pruned, is_replaceable
from .opened import Opened
from .rules import Density, Shares, by_rules, leave_dense, share_out
from .summaries import Summary, summarized
from .swap import Skip, check_not_compiled, exchange, skipped
from .ties import Followers, followers, tied_elsewhere, tied_layer, turns

Method = Literal["uniform", "er", "erk"]
WHAT = "linear or convolutional"  # layers are replaced, as messages have it


@overload
def sparsify(
    model: nn.Module,
    density: Density | None = ...,
    method: Method | None = ...,
    *,
    masks: Mapping[str, Any] | None = ...,
    select: Literal["magnitude", "random"] = ...,
    skip: Skip = ...,
    dense_above: float = ...,
    generator: torch.Generator | None = ...,
    dry_run: Literal[False] = ...,
) -> nn.Module: ...
@overload
def sparsify(
    model: nn.Module,
    density: Density | None = ...,
    method: Method | None = ...,
    *,
    masks: Mapping[str, Any] | None = ...,
    select: Literal["magnitude", "random"] = ...,
    skip: Skip = ...,
    dense_above: float = ...,
    generator: torch.Generator | None = ...,
    dry_run: Literal[True],
) -> Summary: ...
@overload
def sparsify(
    model: nn.Module,
    density: Density | None = ...,
    method: Method | None = ...,
    *,
    masks: Mapping[str, Any] | None = ...,
    select: Literal["magnitude", "random"] = ...,
    skip: Skip = ...,
    dense_above: float = ...,
    generator: torch.Generator | None = ...,
    dry_run: bool,
) -> nn.Module | Summary: ...
def sparsify(
    model: nn.Module,
    density: Density | None = None,
    method: Method | None = None,
    *,
    masks: Mapping[str, Any] | None = None,
    select: Literal["magnitude", "random"] = "magnitude",
    skip: Skip = (),
    dense_above: float = 1.0,
    generator: torch.Generator | None = None,
    dry_run: bool = False,
) -> nn.Module | Summary:
    r"""Replace linear layers and convolutions of a model, in place, by sparse ones with the same weights at the edges.

    nn.Linear becomes SparseLinear, and so do Conv1D of the package transformers and subclasses of nn.Linear that a rule
    names by their class. nn.MultiheadAttention becomes SparseMultiheadAttention, with four projections, and nn.Conv1d,
    nn.Conv2d and nn.Conv3d become SparseConv1d, SparseConv2d and SparseConv3d.

    Which edges a layer keeps is said in one of four ways:

    - ``density``, a number: that fraction of the weights of all the layers together, shared out by patterns.allocate;
      of a layer with n weights and density d, exactly round(d * n), the largest or random ones;
    - ``density``, a dict from rules to densities: each layer gets that of the first rule that matches it, in the order
      of the dict. Layers that no rule matches stay dense, and those for which it says 1 or None;
    - ``masks``: those of the masks; layers that are not named stay dense;
    - neither: those that torch.nn.utils.prune has left, as ``weight_orig * weight_mask``; layers that were not pruned
      stay dense, and the hooks of prune are gone.

    Weights in half precision become float32 values. Everything else stays: biases (the same Parameters), dtype,
    device, requires_grad, training mode, hooks, and one layer used in several places is still one. Linear layers that
    have one weight together share one value array. One number leaves layers dense that are tied to an embedding. Other
    subclasses stay dense, as do transposed convolutions and recurrent layers. torch's transformer encoders leave their
    fused inference kernel, which takes dense weights. Code that reads ``layer.weight`` or ``attention.in_proj_weight``
    itself needs its layer in ``skip``. Optimizers are to be made afterwards.

    Under ``torch.device("meta")``, where there are no weights to choose by, as many edges are drawn at random, and the
    first state that is loaded brings its own: a model that calls this in its ``__init__`` works with from_pretrained.

    Args:
        model: any module.
        density: fraction of the edges that exist, above 0, at most 1; or such fractions by rules. A rule is a dotted
            layer name, a glob (``"*.mlp.*"``), a regular expression for the whole name (``"re:.*attn.*"``, or
            compiled), or a class of layers. Projections of an attention are ``"attn.q_proj"``, ``"attn.k_proj"``,
            ``"attn.v_proj"`` and ``"attn.out_proj"``; ``"attn.in_proj_weight"`` means the first three, ``"attn"`` all
            of them. A subclass of nn.Linear takes part if a rule names that very class, by which its user says that it
            computes what nn.Linear does. Names are those inside of wrappers such as torch.compile and
            DistributedDataParallel.
        method: how layers share it, see patterns.allocate. By default ``"erk"`` for one number, and ``"uniform"`` for
            rules, where each layer has the density of its rule; the others share out each rule's over its layers.
        masks: by dotted layer name, or that of an ``in_proj_weight``, zeros and ones in the shape of the weight, or a
            Topology of the matrix (out, in), which for a convolution is (out, in / groups * kernel).
        select: ``"magnitude"`` keeps the weights of largest absolute value, the first of equals; or ``"random"``.
        skip: layers, or modules that hold layers, which stay as they are: names, globs, or other rules as above.
        dense_above: layers of a density above this stay dense, with all of their weights. 0.5 leaves those that
            ``"erk"`` gives most of their edges as nn.Linear, which is smaller; with 1 they turn sparse, too, and may be
            pruned later.
        generator: of random edges.
        dry_run: change nothing, and return the Summary that the model would have, without drawing random numbers.

    Returns:
        The model; for a model that is itself such a layer, the new layer. With dry_run a Summary.

    Raises:
        ValueError: there is nothing to replace, a name is unknown, a rule matches no layer, a mask or the density does
            not fit, a weight is shared with something that stays dense, a layer has no weights yet or more than weight
            and bias, such as a parametrization, or an attribute ``values`` or ``topology``, a subclass computes other
            numbers than nn.Linear, or a layer is compiled itself. TypeError: weights that are no floats. Nothing is
            changed then.

    Example:
        >>> sparsify(nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), density=0.1, method="uniform")
        Sequential(
          (0): SparseLinear(in_features=20, out_features=30, nnz=60, density=0.1, bias=True)
          (1): ReLU()
          (2): SparseLinear(in_features=30, out_features=10, nnz=30, density=0.1, bias=True)
        )
        >>> model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
        >>> sparsify(model, {"2": None, nn.Linear: 0.05}, dry_run=True)
        name    kind           shape     edges   density    values   indices   note
        -----------------------------------------------------------------------------------------------------
        0       SparseLinear   30 x 20      30      0.05     120 B     244 B
        2       Linear         10 x 30     300         1   1.20 kB       0 B   rule '2' leaves it
        -----------------------------------------------------------------------------------------------------
        total                              330    0.3667   1.32 kB     244 B   and 160 B of biases and others
    """
    where = "convert.sparsify"
    if density is not None and masks is not None:
        raise ValueError(f"{where}: expected at most one of density and masks, got both.")
    with Opened(model, _subclasses(density)) as opened:
        left = skipped(where, opened.model, skip)
        wanted, reasons, follow = _wanted(where, opened, density, method, opened.by_projection(where, masks), left)
        if density is not None:
            leave_dense(where, dense_above, wanted, reasons, follow)
        elif dense_above != 1.0:
            raise ValueError(
                f"{where}: dense_above goes with density, the masks say themselves which layers turn sparse."
            )
        names = {module: each[0] for module, each in opened.names.items()}
        largest = density is not None and select != "random"
        check_not_compiled(where, opened.model, (*wanted, *follow))
        opened.check(where, wanted)
        together = {*follow, *follow.values()} - tied_elsewhere(opened.model, (*wanted, *follow))
        layers = {names[linear]: linear for linear in (*wanted, *follow)}
        check_replaceable(where, opened.model, layers, largest, together)
        if density is not None:
            check_select(where, select)
        generator = checks.generator(where, generator)
        with torch.device("cpu"):  # edges are real under torch.device("meta") too
            if density is None:
                wanted = {linear: by_mask(where, names[linear], linear, mask) for linear, mask in wanted.items()}
            if dry_run:
                stood = opened.close_unless({*wanted, *follow})
                reasons |= {module: reasons[part] for module, part in stood.items() if part in reasons}
                return summarized(opened.model, wanted, reasons, follow)
            edges = wanted if density is None else by_density(where, wanted, select, generator)
        new: dict[nn.Module, Any] = {linear: _sparse(linear, t) for linear, t in edges.items()}
        for layer in new.values():  # without weights even the largest are drawn
            layer.awaits_edges = density is not None and layer.values.is_meta
        for linear, leader in follow.items():
            new[linear] = tied_layer(new[leader], linear, current(linear, "bias"), turns(leader, linear))
    return exchange(model, opened.sparse(new))


def _subclasses(density: Any) -> set[Any]:
    """Subclasses of nn.Linear that rules name."""
    keys = density if isinstance(density, Mapping) else ()
    return {key for key in keys if isinstance(key, type) and issubclass(key, nn.Linear)}


def _wanted(
    where: str, opened: Opened, density: Density | None, method: Method | None, masks: Any, left: set[nn.Module]
) -> tuple[dict[nn.Module, Any], dict[nn.Module, str], Followers]:
    """A density or a mask for each layer that is replaced, why others are not, and layers that are tied to some."""
    model = opened.model
    layers = [module for module in model.modules() if is_replaceable(module) and module not in left]
    follow = {} if density is None else followers(filter(is_linear, layers))
    shares = Shares()
    if masks is not None:
        wanted, otherwise = named(where, model, masks, left, is_replaceable, WHAT), "not named in masks"
    elif isinstance(density, Mapping):
        names = opened.names
        for module, leader in follow.items():  # one weight, which has the names of both
            names[leader] += names[module]
        own = [module for module in layers if module not in follow]
        shares = by_rules(where, names, own, density, "uniform" if method is None else method, WHAT, whole_stays=True)
        wanted, otherwise = shares.densities, ""
    elif density is not None:
        elsewhere = tied_elsewhere(model, layers)
        own = [module for module in layers if module not in follow and module not in elsewhere]
        wanted, otherwise = share_out(where, own, density, "erk" if method is None else method), ""
    else:
        wanted, otherwise = {m: m.weight_mask != 0 for m in layers if is_pruned(m)}, "not pruned"
    if density is not None:
        _check_not_empty(where, opened.names, wanted)
    if not wanted:
        what = f"{WHAT} layers to replace" if density is not None else "masks, given or of torch.nn.utils.prune"
        raise ValueError(f"{where}: expected a model with {what}, found none in {type(model).__name__}.")
    reasons = dict.fromkeys(left, "in skip") | dict.fromkeys(layers, otherwise) | shares.reasons
    return wanted, reasons, {module: leader for module, leader in follow.items() if leader in wanted}


def _sparse(dense: Any, t: Topology) -> SparseLinear | SparseConvolution:
    weight, bias = current(dense, "weight"), current(dense, "bias")
    layer: SparseLinear | SparseConvolution
    if is_linear(dense):
        layer = SparseLinear.from_dense(dense_linear(dense, weight.detach(), weight.requires_grad), t)
    else:
        layer = CONVOLUTIONS[type(dense)].of_weight(dense, weight, t)
    layer.bias = bias  # the Parameter itself, where it was not pruned
    return layer


def _check_not_empty(where: str, names: Names, densities: Mapping[Any, float]) -> None:
    """A density of 0 is most often meant to be a sparsity."""
    empty = next((names[layer][0] for layer, density in densities.items() if density == 0), None)
    if empty is not None:
        raise ValueError(
            f"{where}: expected densities above 0, got 0 for {empty or 'the model'!r}, which would give its bias "
            "alone. A density is the fraction of edges that exist: for a sparsity s pass 1 - s. To start without "
            "edges pass masks of zeros."
        )
