"""Whole models in and out: nn.Linear layers become sparse, sparse layers become nn.Linear."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from . import checks, patterns
from .nn import MaskedLinear, SparseLinear
from .nn.sparse_linear import dense_linear
from .ops.verbs import FLOATS
from .swap import all_names, check_untied, exchange, skipped
from .topology import Topology

Edges = dict[nn.Linear, Topology]
PARTS = {"weight", "bias"}
PRUNED = {f"{part}_{suffix}" for part in PARTS for suffix in ("orig", "mask")}


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
    generator = checks.generator(where, generator)
    names = {module: found[0] for module, found in all_names(model).items()}
    left = skipped(where, model, skip)
    if masks is not None:
        edges = _of_masks(where, model, masks, left)
    elif density is not None:
        linears = [m for m in names if _meant(m) and m not in left]
        edges = _of_density(where, {m: names[m] for m in linears}, density, method, select, generator)
    else:
        edges = {m: Topology.from_mask(m.weight_mask) for m in names if _is_pruned(m) and m not in left}
    if not edges:
        found = "masks of torch.nn.utils.prune" if density is None and masks is None else "nn.Linear layers to replace"
        raise ValueError(f"{where}: expected a model with {found}, found none in {type(model).__name__}.")
    weights = {}
    for linear in edges:
        _check_plain(where, names[linear], linear)
        weights |= {f"{names[linear]}.{part}".lstrip("."): tensor for part, tensor in _given_up(linear).items()}
    check_untied(where, model, weights, "Name the layer in skip to leave it as it is.")
    return exchange(model, {linear: _sparse(linear, t) for linear, t in edges.items()})
