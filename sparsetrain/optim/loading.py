"""Whether a state belongs to this optimizer, before it is loaded, and what torch does not load as it was."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from . import rounded_moments
from .state import TORCH

OPTIONS = {
    "SGD": {"momentum", "dampening", "nesterov"},
    "RMSprop": {"alpha", "centered", "momentum"},
    "Adagrad": {"lr_decay", "initial_accumulator_value"},
    "Adam": {"betas", "amsgrad"},
}  # by which an optimizer is known, ours and torch's
OPTIONAL = {"momentum_buffer", "grad_avg", "max_exp_avg_sq", "row_steps"}
SPARSE_ADAM = {"amsgrad": False, "weight_decay": 0.0, "bias_correction": "global"}  # what it is without having them
ALL = set().union(*OPTIONS.values())
# names in a state; what has another is a user's own, and travels
OURS = frozenset({"row_steps"}.union(*(TORCH[kind] for kind in OPTIONS)))


def completed(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state with our options where torch's optimizer, which has none, saved it; checked."""
    where, kind = type(optimizer).__name__, optimizer._torch.__name__
    if kind == "Adam":
        state_dict = _of_sparse_adam(state_dict)
    groups = state_dict["param_groups"]
    ours = optimizer.param_groups
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in ours]:
        raise ValueError(
            f"{where}: expected a state of parameter groups of sizes {[len(group['params']) for group in ours]}, got "
            f"{[len(group['params']) for group in groups]}."
        )
    for group in groups:
        missing, foreign = OPTIONS[kind] - group.keys(), group.keys() & (ALL - OPTIONS[kind])
        if missing or foreign:
            raise ValueError(
                f"{where}: expected the state of {where} with options {sorted(OPTIONS[kind])}, got one with "
                f"{sorted(group.keys() & ALL)}: the state of another optimizer."
            )
        decoupled = kind == "Adam" and optimizer._decoupled
        if group.get("decoupled_weight_decay", decoupled) != decoupled:  # earlier versions of torch do not say
            other = "Adam" if decoupled else "AdamW"
            raise ValueError(f"{where}: expected the state of {where}, got one of {other}, which decays otherwise.")
    for saved, group in zip(groups, ours, strict=True):
        for index, p in zip(saved["params"], group["params"], strict=True):
            _check_state(where, kind, state_dict["state"].get(index, {}), index, p, group)
    dense = {
        index: {name: v.to_dense() if isinstance(v, Tensor) and v.is_sparse else v for name, v in state.items()}
        for index, state in state_dict["state"].items()  # torch's SGD keeps the momentum of a sparse gradient so
    }
    return {
        **state_dict,
        "state": dense,
        "param_groups": [
            {**{key: group[key] for key in group if key != "params"}, **saved}
            for saved, group in zip(groups, ours, strict=True)
        ],
    }


def _of_sparse_adam(state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state of torch's SparseAdam as Adam's: its groups have fewer options, and its steps are plain integers."""
    groups = [{**SPARSE_ADAM, **group} if _is_sparse_adams(group) else group for group in state_dict["param_groups"]]
    state = {
        index: {**each, "step": torch.tensor(float(each["step"]))} if isinstance(each.get("step"), int) else each
        for index, each in state_dict["state"].items()
    }
    return {**state_dict, "param_groups": groups, "state": state}


def _is_sparse_adams(group: dict[str, Any]) -> bool:
    return "betas" in group and not group.keys() & {"amsgrad", "weight_decay"}


def _check_state(where: str, kind: str, state: dict[str, Any], index: int, p: Tensor, group: dict[str, Any]) -> None:
    known = TORCH[kind].keys()
    foreign, missing = (state.keys() & OURS) - known - {"row_steps"}, known - OPTIONAL - state.keys()
    if state and missing and not foreign:
        raise ValueError(f"{where}: expected {sorted(missing)} in the state of parameter {index}, got {sorted(state)}.")
    if foreign:
        raise ValueError(
            f"{where}: expected state {sorted(known)} of parameter {index}, got {sorted(foreign)}: the state of "
            "another optimizer."
        )
    for name, value in state.items():
        shape: tuple[int, ...] = tuple(p.shape)
        if name == "step" or name not in OURS or not isinstance(value, Tensor):
            continue
        if name == "row_steps":
            fits = value.ndim == 1 and value.numel() in (p.shape[0] if p.ndim else 1, p.numel())
        else:
            if name == "sum" and group.get("rowwise") and p.ndim > 1:
                shape = (p.shape[0], *(1 for _ in p.shape[1:]))
            fits = tuple(value.shape) == shape
        if not fits:
            raise ValueError(
                f"{where}: expected {name} of parameter {index} to have shape {shape}, got {tuple(value.shape)}: the "
                "state of a parameter of another size."
            )


def restore(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Steps of rows are integers, which torch loads in the dtype of the parameter; and rows are stepped in states that
    are contiguous, as their parameter is."""
    for saved, group in zip(state_dict["param_groups"], optimizer.param_groups, strict=True):
        for index, p in zip(saved["params"], group["params"], strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if name == "row_steps":
                    optimizer.state[p][name] = value.to(p.device, torch.int32, copy=True)
                elif name in OURS and isinstance(value, Tensor) and p.is_contiguous():
                    kept = optimizer.state[p][name].contiguous()
                    rounded = rounded_moments.are_kept(group, p) and name in rounded_moments.MOMENTS
                    optimizer.state[p][name] = kept.to(torch.bfloat16) if rounded else kept
