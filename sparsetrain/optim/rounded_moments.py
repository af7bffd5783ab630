"""Moments of Adam in bfloat16: what is asked for, what is refused, and a step."""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ..backends.row_gradient import RowGradient
from ..backends.row_steps import backend_of

Moments = Literal["bfloat16"] | None
MOMENTS = ("exp_avg", "exp_avg_sq")


def check_options(where: str, group: Mapping[str, Any]) -> None:
    """ValueError: options that contradict each other."""
    moments = group.get("moments")
    if moments not in (None, "bfloat16"):
        raise ValueError(f"{where}: expected moments to be None or 'bfloat16', got {moments!r}.")
    if moments is None:
        return
    l1 = group["l1"]
    for option, given, why in (
        ("amsgrad=True", group["amsgrad"], "the largest of moments that are rounded at random grows with their noise"),
        ('unused="dense"', group["unused"] == "dense", "only dense gradients are stepped so, which use all rows"),
        ("l1", isinstance(l1, Tensor) or l1 != 0, "the proximal step would need the moments before they were rounded"),
    ):
        if given:
            raise ValueError(f'{where}: moments="bfloat16" does not go with {option}: {why}. Leave one of them out.')


def check_parameter(where: str, p: Tensor) -> None:
    """TypeError: a parameter whose moments can't be kept so."""
    if p.dtype is not torch.float32:
        raise TypeError(f'{where}: expected float32 parameters beside moments="bfloat16", got {p.dtype}.')
    if p.grad is not None and p.grad.is_sparse:
        raise TypeError(
            f'{where}: expected dense gradients beside moments="bfloat16", got a sparse one of shape '
            f"{tuple(p.shape)}. Give tables a group of their own, with moments=None. Nothing was changed."
        )
    if not p.is_contiguous():
        raise TypeError(
            f'{where}: expected contiguous parameters beside moments="bfloat16", got one of shape {tuple(p.shape)} '
            f"with strides {p.stride()}, as of channels_last. Give it a group of its own, with moments=None. Nothing "
            "was changed."
        )


def are_kept(group: Mapping[str, Any], p: Tensor) -> bool:
    """Whether the moments of a parameter are rounded: torch steps those of single numbers, and of none."""
    return group.get("moments") is not None and p.ndim > 0 and p.numel() > 0


def widen(state: dict[str, Any], p: Tensor) -> None:
    """Moments in the type of their parameter, of a group that had others before."""
    for name in MOMENTS:
        if name in state and state[name].dtype is torch.bfloat16 and p.dtype is not torch.bfloat16:
            state[name] = state[name].to(p.dtype)


def step(
    state: dict[str, Any], p: Tensor, g: RowGradient, group: Mapping[str, Any], *, place: int, decoupled: bool,
    lr: float, scale: float, l1: Any,
) -> None:  # fmt: skip
    """One step of a parameter; ``place`` is its number among all of the optimizer, by which its random bits differ."""
    if "step" not in state:
        state["step"] = torch.tensor(0.0)
    for name in MOMENTS:
        if name not in state:
            state[name] = torch.zeros_like(p, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
        elif state[name].dtype is not torch.bfloat16:  # the group had moments=None before
            state[name] = state[name].to(torch.bfloat16)
    state["step"] += 1
    count, counts = int(state["step"]), state.get("row_steps")
    if counts is not None and counts.numel() != p.numel():  # of the rows of what was a table before
        counts = counts.repeat_interleave(g.dim)
        state["row_steps"] += 1
    backend_of(p).adam_rounded(
        g.values, p, state["exp_avg"], state["exp_avg_sq"], counts, step=count,
        key=_key(place, count), lr=lr, betas=tuple(float(beta) for beta in group["betas"]), eps=group["eps"],
        weight_decay=float(group["weight_decay"]), decoupled=decoupled, scale=scale,
    )  # fmt: skip


def _key(place: int, count: int) -> int:
    """32 bits, others for each parameter and step."""
    return int.from_bytes(hashlib.blake2b(f"{place} {count}".encode(), digest_size=4).digest(), "little")
