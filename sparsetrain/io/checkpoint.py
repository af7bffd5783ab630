"""Checkpoints: model, optimizer and evolution in one file, from which training goes on as if it had not stopped."""

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from torch import nn
from torch.optim import Optimizer

from ..nn import EdgeModule
from ..nn.stored_edges import KEY
from . import archive, matching
from .matching import Adopted, Groups

Path = str | os.PathLike[str]
State = dict[str, Any]


class Stateful(Protocol):
    """What an evolver is to a checkpoint: a state of tensors, numbers, text, None, lists, tuples and dicts."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State, /) -> Any: ...


def save(path: Path, model: nn.Module, optimizer: Optimizer | None = None, evolver: Stateful | None = None) -> None:
    """Write a checkpoint: a safetensors file that holds all of the training, or none of it.

    The file is written under another name, flushed to the disk and renamed, so that a crash leaves the old one. Tied
    parameters are stored once. Of random states the evolver's generator is stored, but not torch's global one.

    Args:
        path: of the file; its folder exists.
        model: any module, sparse layers in it or not.
        optimizer: of its parameters.
        evolver: what changes its topology; any object with ``state_dict`` and ``load_state_dict``.

    Raises:
        TypeError: a state holds something that a file that can't run code does not hold. FileNotFoundError: no such
            folder.

    Example:
        >>> import tempfile, torch
        >>> from sparsetrain.nn import SparseLinear
        >>> model = SparseLinear(20, 10, density=0.1)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/model.safetensors", model, optimizer)
        ...     load(f"{folder}/model.safetensors", model, optimizer)
    """
    state = model.state_dict(keep_vars=True)  # the live arrays: what layers share is stored once
    _share_edges(model, state)
    content: State = {"model": state, "versions": dict(getattr(state, "_metadata", {}))}
    if optimizer is not None:
        parameters = _parameters(model, optimizer)
        content["optimizer"] = {"class": _kind(optimizer), "parameters": parameters, "state": optimizer.state_dict()}
    if evolver is not None:
        content["evolver"] = {"class": _kind(evolver), "state": evolver.state_dict()}
    archive.write("io.save", path, content)


def load(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    evolver: Stateful | None = None,
    topology: Literal["strict", "adopt"] = "strict",
) -> None:
    """Read a checkpoint into a model, an optimizer and an evolver, all checked before anything is changed.

    Training that goes on from there is bitwise the training that was not interrupted. Hyperparameters of the optimizer
    come from the checkpoint, as with ``optimizer.load_state_dict``.

    Args:
        path: of a file written by save.
        model, optimizer, evolver: made as those that were saved were. What isn't asked for is left in the file.
        topology: ``"strict"`` refuses edges other than the model's; ``"adopt"`` goes on with the stored ones, in the
            same Parameters. Then an optimizer is loaded along, or made afterwards.

    Raises:
        FileNotFoundError: no such file. ValueError: it is cut off, no checkpoint or one of another version, it lacks
            what is asked for, or keys, shapes, edges, classes or parameter groups differ. TypeError: dtypes differ.
            Whatever is raised, nothing has changed.

    Example: see save.
    """
    where = "io.load"
    if topology not in ("strict", "adopt"):
        raise ValueError(f"{where}: expected topology to be 'strict' or 'adopt', got {topology!r}.")
    content = archive.read(where, path)
    if "model" not in content:
        raise ValueError(f"{where}: expected a checkpoint, {os.fspath(path)!r} has edges alone. Use io.load_edges.")
    for part, target in (("optimizer", optimizer), ("evolver", evolver)):
        if target is not None:
            matching.check_kind(where, part, _kind(target), content)
    state = matching.upgraded(where, model, content["model"])
    adopted = matching.check_model(where, model, state, adopt=topology == "adopt")
    if optimizer is not None:
        matching.check_parameters(where, _parameters(model, optimizer, adopted), content["optimizer"]["parameters"])
    with undone_on_error(model, optimizer):
        for module, edges, values in adopted:
            module.replace_edges(edges, values)
        model.load_state_dict(_with_versions(state, content["versions"]))
        if optimizer is not None:
            optimizer.load_state_dict(content["optimizer"]["state"])
        if evolver is not None:
            evolver.load_state_dict(content["evolver"]["state"])


def _share_edges(model: nn.Module, state: State) -> None:
    """One tensor for the edges of all layers that share a topology."""
    first: dict[int, Any] = {}
    for prefix, module in matching.edge_layers(model).items():
        if prefix + KEY in state:
            state[prefix + KEY] = first.setdefault(id(module.topology), state[prefix + KEY])


def _with_versions(state: State, versions: State) -> State:
    """The state as torch's modules expect it: marked with the version of each that wrote it."""
    marked = OrderedDict(state)
    marked._metadata = versions  # type: ignore[attr-defined]
    return marked


def _kind(part: object) -> str:
    return type(part).__name__


def _parameters(model: nn.Module, optimizer: Optimizer, adopted: Iterable[Adopted] = ()) -> Groups:
    names = {parameter: name for name, parameter in model.named_parameters()}
    shapes = {module.values: (topology.nnz,) for module, topology, _ in adopted}
    return [
        [(names.get(p), shapes.get(p, tuple(p.shape))) for p in group["params"]] for group in optimizer.param_groups
    ]


@contextmanager
def undone_on_error(model: nn.Module, optimizer: Optimizer | None) -> Iterator[None]:
    """Everything was checked before; this is for what modules, optimizers and evolvers of others may raise."""
    edges = [(module, module.topology) for module in model.modules() if isinstance(module, EdgeModule)]
    tensors = [(t, t.data, t.detach().clone(), t.grad) for t in (*model.parameters(), *model.buffers())]
    held = None if optimizer is None else (optimizer.state, optimizer.param_groups)
    try:
        yield
    except BaseException:
        for module, topology in edges:
            module.topology = topology
        for tensor, data, numbers, grad in tensors:
            tensor.data = data.copy_(numbers)
            tensor.grad = grad
        if optimizer is not None and held is not None:
            optimizer.state, optimizer.param_groups = held
        raise
