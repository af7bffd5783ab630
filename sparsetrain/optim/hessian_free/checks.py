"""What users pass to HessianFree."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...curvature.entries import Entries
from ...edges.sharded import is_sharded

WHERE = "HessianFree"
KINDS = ("ggn", "hessian")
SHARED = ("curvature", "iterations", "tolerance", "decay", "probes", "adapt_damping")  # by all groups


def options(given: Mapping[str, Any]) -> None:
    """Of a group, all of them."""
    if given["curvature"] not in KINDS:
        raise ValueError(f"{WHERE}: expected curvature to be 'ggn' or 'hessian', got {given['curvature']!r}.")
    for name, least in (("iterations", 1), ("probes", 0)):
        if not isinstance(given[name], int) or given[name] < least:
            raise ValueError(f"{WHERE}: expected {name} to be an integer of at least {least}, got {given[name]!r}.")
    damping = given["damping"]
    if not isinstance(damping, int | float) or not 0 < damping < math.inf:
        raise ValueError(
            f"{WHERE}: expected a finite damping > 0, got {damping!r}. The curvature of a batch is singular as a rule."
        )
    for name, most in (("tolerance", math.inf), ("decay", 1.0)):
        if not isinstance(given[name], int | float) or not 0 <= given[name] <= most:
            raise ValueError(f"{WHERE}: expected {name} from 0 to {most}, got {given[name]!r}.")


def groups(given: Sequence[Mapping[str, Any]]) -> None:
    """The options of all groups, which are stepped together."""
    for group in given:
        options(group)
        for name in SHARED:
            if group[name] != given[0][name]:
                raise ValueError(
                    f"{WHERE}: expected {name} = {given[0][name]!r} in all groups, got {group[name]!r}: they are "
                    "stepped together. Only damping may differ."
                )


def functions(forward: Any, loss: Any, curvature_batch: Any) -> None:
    """What a step calls."""
    for function in (forward, loss):
        if not callable(function):
            raise TypeError(
                f"{WHERE}.step: expected functions forward and loss, got {type(function).__name__}. They are called "
                "several times: pass lambda: model(x), and lambda z: criterion(z, y)."
            )
    batch = curvature_batch
    if batch is not None and not (isinstance(batch, tuple) and len(batch) == 2 and all(map(callable, batch))):
        raise TypeError(f"{WHERE}: expected curvature_batch to be (forward, loss), got {batch!r}.")


def whole(parameters: Iterable[Tensor]) -> None:
    """No parameter is sharded over ranks, each of which would see a part of the curvature."""
    if any(is_sharded(p) for p in parameters):
        raise TypeError(
            f"{WHERE}.step: expected whole parameters, got DTensors that are sharded over ranks. Train in one process, "
            "or by another optimizer of sparsetrain.optim or torch.optim."
        )


def gradient(entries: Entries, vector: Tensor) -> None:
    """A finite one."""
    if bool(vector.isfinite().all()):
        return
    for name, part in entries.split(vector).items():
        if not bool(part.isfinite().all()):
            raise ValueError(
                f"{WHERE}: expected a finite gradient, got one that is not for {name}. Nothing has changed."
            )


def state(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """That of a HessianFree over parameters of these shapes."""
    saved_groups, ours = state_dict["param_groups"], optimizer.param_groups
    if [len(group["params"]) for group in saved_groups] != [len(group["params"]) for group in ours]:
        raise ValueError(
            f"{WHERE}: expected a state of parameter groups of sizes {[len(group['params']) for group in ours]}, got "
            f"{[len(group['params']) for group in saved_groups]}."
        )
    for saved, group in zip(saved_groups, ours, strict=True):
        missing = {"damping", "steps", *SHARED} - saved.keys()
        if missing:
            raise ValueError(
                f"{WHERE}: expected the state of HessianFree, got one without {sorted(missing)}: the state of another "
                "optimizer."
            )
        for index, p in zip(saved["params"], group["params"], strict=True):
            _of_parameter(index, p, state_dict["state"].get(index, {}))
    groups(saved_groups)


def _of_parameter(index: Any, p: Tensor, kept: Mapping[str, Any]) -> None:
    if not kept:
        return
    if "direction" not in kept:
        raise ValueError(f"{WHERE}: expected a direction in the state of parameter {index}, got {sorted(kept)}.")
    direction, rows, shape = kept["direction"], kept.get("rows"), tuple(p.shape)
    if isinstance(rows, Tensor):
        valid = (
            rows.dtype == torch.int64
            and rows.ndim == 1
            and (not rows.numel() or (int(rows.min()) >= 0 and int(rows.max()) < shape[0]))
        )
        if not valid or not bool((rows.diff() > 0).all()):
            raise ValueError(f"{WHERE}: expected rising rows below {shape[0]} of parameter {index}, got {rows}.")
        shape = (rows.numel(), *shape[1:])
    if tuple(direction.shape) != shape:
        raise ValueError(
            f"{WHERE}: expected the direction of parameter {index} to have shape {shape}, got "
            f"{tuple(direction.shape)}: the state of a parameter of another size."
        )
