"""A table whose gradient is dense: its unused rows don't stand still, although ``unused="frozen"`` says so."""

import warnings
from typing import Any

import torch
from torch import Tensor

from . import checks

LEAST_ROWS = 256  # fewer are as likely the outputs of a layer, of which some are dead


def warn_once(optimizer: Any, group: dict[str, Any], place: int, p: Tensor) -> None:
    """At the first dense gradient of a parameter: a warning where most of its rows are zero, and step all the same."""
    looked_at: set[int] = vars(optimizer).setdefault("_looked_at", set())
    if p.ndim != 2 or p.shape[0] < LEAST_ROWS or id(p) in looked_at or not _moves_unused(optimizer, group):
        return
    looked_at.add(id(p))
    if type(p.grad) is not Tensor or p.grad.is_meta:
        return
    used = int(p.grad.detach().any(1).count_nonzero())
    if 2 * used < p.shape[0]:
        where = type(optimizer).__name__
        warnings.warn(
            f"{where}: {checks.name_of(optimizer, group, place)} has a dense gradient, in which {p.shape[0] - used} of "
            f"{p.shape[0]} rows are zero. They are stepped too, as by torch.optim.{where}, and are not frozen as "
            'unused="frozen" would have it. If it is a table, read it by LookupTable or nn.Embedding(sparse=True), '
            "whose gradient names the used rows.",
            stacklevel=4,
        )


def _moves_unused(optimizer: Any, group: dict[str, Any]) -> bool:
    """Whether a step changes anything where a gradient is zero."""
    if group["weight_decay"] or isinstance(group["l1"], Tensor) or group["l1"]:
        return True
    if optimizer._torch is torch.optim.SGD:
        return bool(group["momentum"])
    return optimizer._torch is not torch.optim.Adagrad
