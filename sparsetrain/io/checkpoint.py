"""Checkpoints: model, optimizer and evolution in one file, from which training goes on as if it had not stopped."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from ..edges.sharded import is_sharded
from ..edges.stored_edges import KEY
from ..optim.wrapped import unwrapped
from . import archive, known_modules, layout, matching, parts, undoing
from .arguments import check_of_optimizer, check_parts, check_shapes
from .matching import Adopted, Groups
from .optimizer_state import check_states
from .parts import Schedulers, State, Stateful, kind_of

Path = str | os.PathLike[str]


def save(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    evolver: Stateful | None = None,
    *,
    scheduler: Schedulers | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint: a safetensors file that holds all of the training, or none of it.

    The file is written in a folder beside it, flushed to the disk and moved, so that a crash leaves the old one. It
    keeps the permissions of the file that it replaces. Tied parameters are stored once. A checksum covers all of it.

    Not in the file, unless extra holds it: random states of torch, numpy and Python (of generators the evolver's is
    stored), the place in the data, gradients, and hooks and attributes of modules that their state_dict leaves out.

    Args:
        path: of the file; its folder exists.
        model: any module, sparse layers in it or not.
        optimizer: of its parameters.
        evolver: what changes its topology; any object with ``state_dict`` and ``load_state_dict``.
        scheduler: the schedule of the learning rate, or a list or a dict of several.
        extra: whatever else belongs to the training, by name: data of tensors, numbers, text, None, lists, tuples and
            dicts, or objects with ``state_dict`` and ``load_state_dict``, such as a GradScaler.

    Raises:
        TypeError: a state holds something that a file that can't run code does not hold. ValueError: data that
            contains itself, a whole number of more than 8192 bits, or a lazy module before its first batch.
            FileNotFoundError: no such folder. IsADirectoryError: the path is a folder. OSError: a device or a pipe,
            nothing can be written there, or the disk is full, which leaves the file that was there.

    Warns:
        UserWarning: the learning rates of the optimizer follow a schedule that is not saved.

    Example:
        >>> import tempfile, torch
        >>> from sparsetrain.nn import SparseLinear
        >>> model = SparseLinear(20, 10, density=0.1)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.safetensors", model, optimizer, extra={"epoch": 3})
        ...     extra = {}
        ...     load(f"{folder}/model.safetensors", model, optimizer, extra=extra)
        >>> extra
        {'epoch': 3}
    """
    where = "io.save"
    check_parts(where, model, optimizer, evolver)
    check_shapes(where, model)
    optimizer = unwrapped(optimizer)
    schedulers = parts.named(where, "scheduler", scheduler)
    state = known_modules.live_state(model)
    _check_whole(where, state)
    _share_edges(model, state)
    content: State = {"model": state, "versions": dict(getattr(state, "_metadata", {}))}
    if optimizer is not None:
        parameters = _parameters(model, optimizer)
        content["optimizer"] = {"class": kind_of(optimizer), "parameters": parameters, "state": optimizer.state_dict()}
    if evolver is not None:
        content["evolver"] = parts.stored(evolver)
    if schedulers:
        content["scheduler"] = {name: parts.stored(part) for name, part in schedulers.items()}
    elif optimizer is not None and any("initial_lr" in group for group in optimizer.param_groups):
        warnings.warn(
            f"{where}: the optimizer has a schedule of learning rates, which will start anew after loading. Pass it as "
            "scheduler=.",
            stacklevel=2,
        )
    if extra is not None:
        content["extra"] = parts.stored_extra(where, extra)
    archive.write(where, path, content)


def load(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    evolver: Stateful | None = None,
    topology: Literal["strict", "adopt"] = "strict",
    *,
    scheduler: Schedulers | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Read a checkpoint into a model, an optimizer and what else belongs to it, checked before anything is changed.

    Training that goes on from there is bitwise the training that was not interrupted, given the same samples, random
    states and schedules; see save for what is not in the file. Hyperparameters of the optimizer come from the
    checkpoint, as with ``optimizer.load_state_dict``.

    Args:
        path: of a file written by save.
        model, optimizer, evolver: made as those that were saved were. What isn't asked for is left in the file.
        scheduler: as it was saved: one, a list or a dict, made of this optimizer.
        extra: a dict that takes the stored data, under its names. What it holds with a ``load_state_dict`` gets its
            stored state; everything that it holds must be in the file.
        topology: ``"strict"`` refuses edges other than the model's, unless a layer drew them on the meta device, where
            they stand for the stored ones; ``"adopt"`` goes on with the stored ones, in the same Parameters. Then an
            optimizer is loaded along, or made afterwards.

    Raises:
        FileNotFoundError: no such file. ValueError: it is cut off, no checkpoint or one of another version, it lacks
            what is asked for, or keys, shapes, edges, classes or parameter groups differ, or the scheduler is of
            another optimizer, or the model is on the meta device. TypeError: dtypes differ; no module, no optimizer.
            OSError: it can't be read, as a folder can't. Whatever is raised, nothing has changed, but for an interrupt
            while numbers are copied, after which some are loaded: load again.

    Warns:
        UserWarning: the optimizer is loaded without its schedule, which the file has.

    Example: see save.
    """
    where = "io.load"
    if topology not in ("strict", "adopt"):
        raise ValueError(f"{where}: expected topology to be 'strict' or 'adopt', got {topology!r}.")
    check_parts(where, model, optimizer, evolver)
    check_shapes(where, model)
    optimizer = unwrapped(optimizer)
    content = archive.read(where, path, in_file="model")
    if "model" not in content:
        raise ValueError(f"{where}: expected a checkpoint, {os.fspath(path)!r} has edges alone. Use io.load_edges.")
    layout.check(where, path, content)
    for part, target in (("optimizer", optimizer), ("evolver", evolver)):
        if target is not None:
            matching.check_kind(where, part, kind_of(target), content)
    schedulers, kept = parts.named(where, "scheduler", scheduler), content.get("scheduler", {})
    if optimizer is not None:
        check_of_optimizer(where, schedulers, optimizer)
    pairs: list[parts.Pair] = [] if evolver is None else [(evolver, content["evolver"]["state"])]
    pairs += parts.matched(where, "scheduler", schedulers, kept)
    others = content.get("extra", {"states": {}, "data": {}})
    pairs += [] if extra is None else parts.matched_extra(where, extra, others)
    state = matching.upgraded(where, model, known_modules.kept_apart(model, content["model"]))
    adopted = matching.check_model(where, model, state, adopt=topology == "adopt")
    if optimizer is not None:
        parameters = _parameters(model, optimizer, adopted)
        matching.check_parameters(where, parameters, content["optimizer"]["parameters"])
        check_states(where, optimizer, parameters, content["optimizer"]["state"])
    # old numbers of the model are kept where something may raise once they are others: they are as many again
    known = known_modules.only_copy(model, state) and known_modules.is_known(optimizer) and not pairs
    may_raise = not known or (optimizer is not None and bool(adopted))
    undone = undoing.of_model(model, optimizer) if may_raise else undoing.of_optimizer(optimizer)
    with undoing.of_parts(pairs) as load_parts, undone:
        matching.changed_edges(where, None, adopted).layers()
        loads = [partial(model.load_state_dict, _with_versions(state, content["versions"]))]
        if optimizer is not None:  # it may refuse its state: where nothing of the model is kept, it comes before
            loads.insert(1 if may_raise else 0, partial(optimizer.load_state_dict, content["optimizer"]["state"]))
        for load_state in loads:
            load_state()
        load_parts()
    if extra is not None:
        extra.update(others["data"])
    if optimizer is not None and kept and not schedulers:
        warnings.warn(
            f"{where}: the checkpoint has a schedule of learning rates, which is not loaded and starts anew. Pass it "
            "as scheduler=.",
            stacklevel=2,
        )


def _check_whole(where: str, state: State) -> None:
    """TypeError: a tensor is sharded over ranks, of which each would write its part."""
    for key, tensor in state.items():
        if is_sharded(tensor):
            raise TypeError(
                f"{where}: expected whole tensors, got {key} sharded over {tensor.device_mesh.size()} ranks. Save by "
                "torch.distributed.checkpoint, or write what its get_model_state_dict gathers on one rank with "
                "StateDictOptions(full_state_dict=True)."
            )


def _share_edges(model: nn.Module, state: State) -> None:
    """One tensor for the edges of all layers that share a topology."""
    first: dict[int, Any] = {}
    for prefix, module in known_modules.edge_layers(model).items():
        if prefix + KEY in state:
            state[prefix + KEY] = first.setdefault(id(module.topology), state[prefix + KEY])


def _with_versions(state: State, versions: State) -> State:
    """The state as torch's modules expect it: marked with the version of each that wrote it."""
    marked = OrderedDict(state)
    marked._metadata = versions  # type: ignore[attr-defined]
    return marked


def _parameters(model: nn.Module, optimizer: Optimizer, adopted: Iterable[Adopted] = ()) -> Groups:
    names = {parameter: name for name, parameter in model.named_parameters()}
    shapes = {module.values: (topology.nnz,) for module, topology, _ in adopted}
    return [
        [(names.get(p), shapes.get(p, tuple(p.shape))) for p in group["params"]] for group in optimizer.param_groups
    ]
