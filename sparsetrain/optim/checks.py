"""What optimizers refuse, before they change anything."""

import gc
import math
from collections.abc import Iterator
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from ..backends.row_gradient import RowGradient
from ..checks import assert_there, away
from ..dtypes import FLOATS
from ..edges.pending import pending_of
from ..edges.sharded import is_sharded
from ..edges.spread_rows import shard_of
from .lazy_updates import LazyUpdates
from .loading import OURS
from .zero_redundancy import sends_parameters

HYPERPARAMETERS = frozenset(
    ("lr", "momentum", "dampening", "weight_decay", "alpha", "eps", "lr_decay", "initial_accumulator_value", "l1")
)


def group(optimizer: Optimizer, options: dict[str, Any]) -> None:
    """The options of a new group."""
    where = type(optimizer).__name__
    if isinstance(options["l1"], Tensor):  # at each step it would cost a pass
        if not bool((options["l1"] >= 0).all()):
            raise ValueError(f"{where}: expected l1 >= 0, got {options['l1']}.")
        if not bool(options["l1"].isfinite().all()):
            raise ValueError(f"{where}: expected l1 to be finite, got {options['l1']}.")
    modes(optimizer, options)


def modes(optimizer: Optimizer, options: dict[str, Any]) -> None:
    """What must hold at every step, as options may be changed in between."""
    where = type(optimizer).__name__
    if options["unused"] not in ("frozen", "dense"):
        raise ValueError(f"{where}: expected unused to be 'frozen' or 'dense', got {options['unused']!r}.")
    for name, number in _numbers(where, options):
        if not number >= 0 and name != "dampening":  # true of NaN
            advice = " To go uphill pass maximize=True." if name == "lr" else ""
            raise ValueError(f"{where}: expected {name} >= 0, got {number}.{advice}")
        if not math.isfinite(number):
            raise ValueError(
                f"{where}: expected {name} to be finite, got {number}, which times a gradient of zero is NaN."
            )
    for flag in ("differentiable", "capturable"):
        if options.get(flag):
            raise ValueError(
                f"{where}: {flag}=True is not supported. Use torch.optim.{where}, which has no row-sparse gradients."
            )
    if options["unused"] == "dense" and (isinstance(options["l1"], Tensor) or options["l1"]):
        raise ValueError(
            f'{where}: l1 would shrink unused rows at every step, for which unused="dense" has no closed form. Use '
            'unused="frozen", or a penalty in the loss.'
        )


def _numbers(where: str, options: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The hyperparameters of a group that are single numbers, by name."""
    for name in HYPERPARAMETERS & options.keys():
        value = options[name]
        if name != "l1" or not isinstance(value, Tensor):
            yield name, _number(where, name, value)
    betas = options.get("betas", (0.0, 0.0))
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"{where}: expected betas to be two numbers, got {betas!r}.")
    for value in betas:
        number = _number(where, "betas", value)
        if number >= 1:
            raise ValueError(f"{where}: expected betas < 1, got {number}.")
        yield "betas", number


def _number(where: str, name: str, value: Any) -> float:
    single = value.numel() == 1 and not value.is_complex() if isinstance(value, Tensor) else isinstance(value, Real)
    if not single:
        raise TypeError(f"{where}: expected {name} to be a number, got {value!r}.")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def l1(optimizer: Optimizer, options: dict[str, Any]) -> None:
    """An l1 for each value has the shape of each parameter of its group."""
    if isinstance(options["l1"], Tensor):
        for p in options["params"]:
            if options["l1"].shape != p.shape:
                raise ValueError(
                    f"{type(optimizer).__name__}: expected l1 of the shape of its parameters, {tuple(p.shape)}, got "
                    f"{tuple(options['l1'].shape)}. Give that parameter a group of its own."
                )


def owners(optimizer: Optimizer, parameters: list[Tensor], unused: str) -> None:
    """No other optimizer has pending updates of these parameters, where this one is to have them."""
    for p in parameters if unused == "dense" else ():
        pending = pending_of(p)
        if isinstance(pending, LazyUpdates) and pending.owner() not in (None, optimizer):
            gc.collect()  # one that is no longer used may live on in a cycle, with a scheduler for instance
            if pending.owner() is not None:
                raise ValueError(
                    f'{type(optimizer).__name__}: expected parameters that no other optimizer with unused="dense" has, '
                    f"got one of shape {tuple(p.shape)} that a {type(pending.owner()).__name__} has taken. "
                    "Load into that one, or make a new optimizer."
                )


def not_sent(optimizer: Any) -> None:
    """No parameter is a shard that ZeroRedundancyOptimizer would overwrite with another rank's rows."""
    if sends_parameters() and any(shard_of(p) for group in optimizer.param_groups for p in group["params"]):
        raise RuntimeError(
            f"{type(optimizer).__name__}: expected parameters that are the same on all ranks, as "
            "ZeroRedundancyOptimizer sends them, got one of which each rank holds other rows. Give it an optimizer of "
            "its own. Nothing was changed."
        )


def name_of(optimizer: Optimizer, options: dict[str, Any], place: int) -> str:
    """A parameter's name where the optimizer was given names, else its place."""
    if "param_names" in options:
        return str(options["param_names"][place])
    number = next(k for k, each in enumerate(optimizer.param_groups) if each is options)
    return f"parameter {place} of group {number}"


def gradient(optimizer: Optimizer, options: dict[str, Any], place: int, p: Tensor) -> None:
    """The gradient of one parameter, dense or sparse."""
    grad, where = p.grad, type(optimizer).__name__
    if grad is None:
        return

    def refuse(kind: type[Exception], expected: str, got: object) -> Exception:
        name = name_of(optimizer, options, place)
        return kind(f"{where}: expected the gradient of {name} {expected}, got {got}. Nothing was changed.")

    if grad.layout not in (torch.strided, torch.sparse_coo):
        raise refuse(TypeError, "to be dense or sparse COO", f"{grad.layout}")
    if grad.shape != p.shape:
        raise refuse(ValueError, f"to have its shape {tuple(p.shape)}", tuple(grad.shape))
    values = grad._values() if grad.is_sparse else grad
    if grad.is_sparse and not grad.sparse_dim():
        raise refuse(ValueError, "to be dense, or sparse over one dimension at least", "a sparse one over none")
    if grad.is_sparse and grad._nnz():
        for d, (size, index) in enumerate(zip(p.shape, grad._indices(), strict=False)):
            inside = f"to name rows from 0 to {size - 1}" + (f" in dimension {d}" if d else "")
            if away(index):  # to ask what its numbers are would wait for it
                assert_there(((index >= 0) & (index < size)).all(), f"{where}: expected a sparse gradient {inside}.")
                continue
            low, high = (int(bound) for bound in torch.aminmax(index))
            if low < 0 or high >= size:
                raise refuse(IndexError, inside, low if low < 0 else high)
    if options["check_finite"] and not bool(torch.isfinite(values).all()):
        bad = "NaN" if bool(torch.isnan(values).any()) else "infinity"
        raise refuse(ValueError, "to be finite (check_finite=True)", bad)


def whole(optimizer: Optimizer, options: dict[str, Any], place: int, p: Tensor) -> None:
    """A parameter that is stepped by rows is no DTensor."""
    if is_sharded(p):
        name, where = name_of(optimizer, options, place), type(optimizer).__name__
        raise TypeError(
            f"{where}: expected {name} to be a whole tensor, as it is stepped row by row, got a DTensor that is "
            "sharded over ranks. Use rowwise=False and moments=None, and change edges before fully_shard. Nothing was "
            "changed."
        )


def rows(optimizer: Optimizer, options: dict[str, Any], p: Tensor, g: RowGradient) -> None:
    """The rows that a gradient names."""
    where = type(optimizer).__name__
    place = next(k for k, each in enumerate(options["params"]) if each is p)
    name = name_of(optimizer, options, place)
    if p.dtype not in FLOATS or g.values.dtype is not p.dtype:
        raise TypeError(
            f"{where}: expected {name} in float32 or float64, in which rows are stepped, and its gradient too, got "
            f"{p.dtype} and {g.values.dtype}. Nothing was changed."
        )
    for option, number in _numbers(where, options):
        if abs(number) > torch.finfo(p.dtype).max:
            raise ValueError(
                f"{where}: expected {option} of {name} to be a number that {p.dtype} can hold, got {number}. Nothing "
                "was changed."
            )
    if not p.is_contiguous():
        raise ValueError(
            f"{where}: expected {name} to be contiguous in memory, as its rows are stepped alone, got strides "
            f"{p.stride()}. Keep the transposed matrix as the parameter. Nothing was changed."
        )
    for kept, value in optimizer.state.get(p, {}).items():
        if kept not in OURS:  # a user's own
            continue
        size = g.rows if kept == "row_steps" or (kept == "sum" and options.get("rowwise")) else p.numel()
        if isinstance(value, Tensor) and kept != "step" and (value.numel() != size or not value.is_contiguous()):
            raise ValueError(
                f"{where}: expected {kept} of {name} to hold {size} numbers, for its shape {tuple(p.shape)} and a "
                f"gradient over {g.rows} rows, got shape {tuple(value.shape)}. Make a new optimizer if the parameter "
                "was resized, or its gradient is sparse in another way than before. Nothing was changed."
            )
    pending = pending_of(p)
    if options["unused"] == "dense":
        if isinstance(pending, LazyUpdates) and pending.owner() is not optimizer:
            raise RuntimeError(
                f'{where}: expected {name} to be stepped by the optimizer with unused="dense" that was made last over '
                "it and took it over, got a step of this one. Step that one, or make a new optimizer. Nothing was "
                "changed."
            )
        if not isinstance(pending, LazyUpdates):
            raise ValueError(
                f"{where}: expected unused of {name} to be what it was when the optimizer was made, got 'dense'. Make "
                "a new optimizer. Nothing was changed."
            )
        if pending.rows not in (0, g.rows):
            raise ValueError(
                f"{where}: expected {name} and its gradient to have {pending.rows} rows as before, got {g.rows}. Call "
                "flush() before a table is resized, and make a new optimizer for it. Nothing was changed."
            )
    if options.get("rowwise") and g.rows != p.shape[0]:
        raise ValueError(
            f"{where}: expected the sparse gradient of {name} to name whole rows (rowwise=True), got one over "
            f"{g.rows} single numbers. Nothing was changed."
        )
    # rows that another rank has read are brought up to date here when they are stepped
    alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
    if options["unused"] == "dense" and isinstance(pending, LazyUpdates) and alone and not pending.were_read(g):
        raise RuntimeError(
            f'{where}: rows of {name} were read that unused="dense" had not brought up to date. Read tables through '
            "sparsetrain.nn.LookupTable, or call flush() before each forward pass. Nothing was changed."
        )
