"""Embeddings of a model become tables, whose gradient names the used rows."""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..dtypes import HALVES
from ..layer_names import Rule, names_of, pattern, without_layer
from ..nn import LookupTable
from .swap import Skip, check_not_compiled, exchange, identity, owners_of, skipped, some

KINDS = (nn.Embedding, nn.EmbeddingBag)


def to_lookup_tables(model: nn.Module, only: Rule | Iterable[Rule] | None = None, *, skip: Skip = ()) -> nn.Module:
    """Replace nn.Embedding and nn.EmbeddingBag of a model, in place, by LookupTable layers with the same Parameter.

    The model computes the same, and states load as before. Gradients are row-sparse afterwards, so optimizers are those
    of sparsetrain.optim, or torch's SGD, Adagrad and SparseAdam. Hooks, training mode, requires_grad and attributes
    such as ``num_embeddings`` stay. Subclasses stay what they are.

    An embedding whose weight something else reads too, such as the head of a language model, has a dense gradient from
    there, which would make the sum of both dense. It stays an embedding, unless ``only`` names it, which is refused.

    Args:
        model: any module.
        only: which embeddings, by rules as in sparsify: names, globs, regular expressions or classes; all by default.
        skip: those that stay, by the same rules.

    Returns:
        The model; for a model that is itself an embedding, the new table.

    Raises:
        ValueError: there is nothing to replace, a rule matches no embedding, one that a rule names is tied, a weight in
            half precision is read twice, gradients are scaled by frequency (``scale_grad_by_freq``), or a layer is
            compiled itself. Nothing is changed then.

    Example:
        >>> to_lookup_tables(nn.Sequential(nn.Embedding(1000, 8, padding_idx=0), nn.Linear(8, 2)))
        Sequential(
          (0): LookupTable(1000, 8, padding_idx=0)
          (1): Linear(in_features=8, out_features=2, bias=True)
        )
    """
    where = "convert.to_lookup_tables"
    names, left = names_of(model), skipped(where, model, skip)
    found = {module: names[module] for module in names if type(module) in KINDS and module not in left}
    if only is not None:
        rules = [pattern(where, "only", key) for key in ([only] if isinstance(only, (str, re.Pattern, type)) else only)]
        for rule in without_layer(rules, found):
            known = some(each[0] for each in found.values())
            raise ValueError(
                f"{where}: expected rules that match embeddings, {rule.text!r} matches none. There are {known}."
            )
        found = {module: each for module, each in found.items() if any(rule.fits_any(each, module) for rule in rules)}
    tied = _tied(model, found)
    if only is not None and tied:
        embedding, others = next(iter(tied.items()))
        raise ValueError(
            f"{where}: expected embeddings that nothing else reads, the weight of {found[embedding][0]!r} is "
            f"{others[0]} too, whose gradient is dense. Leave it out of only, or untie them before."
        )
    chosen: dict[nn.Module, list[str]] = {module: each for module, each in found.items() if module not in tied}
    if not chosen:
        tail = f", but for {some(found[each][0] for each in tied)}, which is tied" if tied else ""
        raise ValueError(f"{where}: expected a model with embeddings, found none in {type(model).__name__}{tail}.")
    for module, (name, *_) in chosen.items():
        _check(where, name, module, [each.weight for each in chosen if each is not module])
    check_not_compiled(where, model, chosen)
    return exchange(model, {module: _table(module) for module in chosen})


def _tied(model: nn.Module, found: Iterable[Any]) -> dict[nn.Module, list[str]]:
    """Embeddings whose weight is that of something else than these embeddings, and under which names."""
    owners, full = owners_of(model), {module: name for name, module in model.named_modules()}
    own = {f"{full[module]}.weight".lstrip(".") for module in found}
    others = {module: [name for name in owners[identity(module.weight)] if name not in own] for module in found}
    return {module: each for module, each in others.items() if each}


def _check(where: str, name: str, embedding: Any, others: list[Any]) -> None:
    advice = f"Leave it as it is with skip=[{name!r}]."
    if embedding.scale_grad_by_freq:
        raise ValueError(f"{where}: expected scale_grad_by_freq=False, got True in {name!r}. {advice}")
    if embedding.weight.dtype in HALVES and any(identity(embedding.weight) == identity(other) for other in others):
        raise ValueError(
            f"{where}: expected one embedding for each weight in half precision, as tables are float32, got others for "
            f"that of {name!r}. {advice}"
        )


def _table(embedding: Any) -> LookupTable:
    rows, dim = embedding.weight.shape
    bag = type(embedding) is nn.EmbeddingBag
    table = LookupTable(
        rows, dim, padding_idx=embedding.padding_idx, max_norm=embedding.max_norm, norm_type=embedding.norm_type,
        pool=embedding.mode if bag else None, include_last_offset=bag and embedding.include_last_offset,
        device="meta", dtype=embedding.weight.dtype,
    )  # fmt: skip
    weight = embedding.weight
    if weight.dtype in HALVES:
        weight = nn.Parameter(weight.detach().float(), weight.requires_grad)
    table.weight = weight
    return table.train(embedding.training)
