"""What fine-tuning changed, in a file of its own: the edges of SparseDeltaLinear layers, without the model."""

import warnings
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from ..convert.swap import exchange
from ..nn import SparseDeltaLinear
from ..nn.sparse_delta import check_linear
from ..optim.carried import Carried
from ..structure.csr import from_positions
from ..structure.edit import Edit
from ..structure.topology import Topology
from . import archive, layout
from .arguments import check_parts
from .checkpoint import Path


def save_edges(path: Path, model: nn.Module) -> None:
    """Write the edges of a model's SparseDeltaLinear layers, values and positions, and nothing of the frozen weights.

    An edge takes 8 bytes: its value in float32 and its position ``row * in_features + column`` in 32 bits; 12 with
    float64 values, and 4 more in a layer of more than 2**31 positions. Written as io.save writes.

    Args:
        path: of the file; its folder exists.
        model: a model with SparseDeltaLinear layers, for instance made by convert.train_edges.

    Raises:
        ValueError: the model has no such layer. FileNotFoundError: no such folder.

    Warns:
        UserWarning: other parameters train too, such as a new head or a bias, which are not in the file.

    Example:
        >>> import tempfile
        >>> from sparsetrain.convert import train_edges
        >>> pretrained = nn.Sequential(nn.Linear(20, 10))
        >>> state = pretrained.state_dict()
        >>> tuned = train_edges(pretrained, density=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_edges(f"{folder}/edges.safetensors", tuned)
        ...     fresh = nn.Sequential(nn.Linear(20, 10))
        ...     _ = fresh.load_state_dict(state)
        ...     fresh = load_edges(f"{folder}/edges.safetensors", fresh)
        >>> x = torch.ones(1, 20)
        >>> torch.equal(fresh(x), tuned(x))
        True
    """
    where = "io.save_edges"
    check_parts(where, model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SparseDeltaLinear)}
    if not layers:
        raise ValueError(
            f"{where}: expected a model with SparseDeltaLinear layers, found none in {type(model).__name__}. "
            "convert.train_edges makes them; io.save keeps whole models."
        )
    edges = {parameter for layer in layers.values() for parameter in layer.own_parameters()}
    more = [name for name, p in model.named_parameters() if p.requires_grad and p not in edges]
    if more:
        warnings.warn(
            f"{where}: {', '.join(map(repr, more[:5]))}{' and others' * (len(more) > 5)} train too and are not in the "
            "file. Save them apart, or the whole model with io.save.",
            stacklevel=2,
        )
    archive.write(where, path, {"edges": {name: _stored(layer) for name, layer in layers.items()}})


def load_edges(path: Path, model: nn.Module, *, check_base: bool = True) -> nn.Module:
    """Read edges that save_edges wrote into the model that they were trained on, all checked before anything changes.

    An nn.Linear becomes a SparseDeltaLinear, and is frozen; a SparseDeltaLinear goes on with the stored edges, in the
    same Parameter. The rest of the model is left as it is: call ``model.requires_grad_(False)`` before, if the edges
    alone shall train on. The file has a checksum of the frozen weights that the edges were trained with, which have to
    be those of the model; files of version 0.1 have none.

    Args:
        path: of a file written by save_edges.
        model: with a layer of the same shape under each stored name.
        check_base: False puts the edges onto other weights too, such as the same ones in half precision.

    Returns:
        The model; for a model that is itself an nn.Linear, the new layer.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged or another file, a layer is missing, or is of another
            shape or has other weights than the edges were trained with, or the model has SparseDeltaLinear layers of
            which the file says nothing, or is on the meta device. TypeError: a layer is no nn.Linear. Whatever is
            raised, nothing has changed.

    Example: see save_edges.
    """
    where = "io.load_edges"
    check_parts(where, model)
    content = archive.read(where, path)
    if "edges" not in content:
        raise ValueError(f"{where}: expected a file written by save_edges, {str(path)!r} is a checkpoint. Use io.load.")
    layout.check(where, path, content)
    stored: dict[str, dict[str, Any]] = content["edges"]
    if not stored:
        raise ValueError(f"{where}: expected a file with edges, {str(path)!r} has none. Write it anew with save_edges.")
    modules = dict(model.named_modules(remove_duplicate=False))
    named = [modules[name] for name in stored if name in modules]
    if len(set(named)) < len(named):
        raise ValueError(f"{where}: expected a layer for each stored name, some names are of one layer here.")
    lacking = [name for name, m in modules.items() if isinstance(m, SparseDeltaLinear) and m not in named]
    if lacking:
        raise ValueError(f"{where}: expected edges for {', '.join(map(repr, lacking))}, the file has none.")
    edges = {name: _checked(where, name, modules.get(name), entry) for name, entry in stored.items()}
    if check_base:
        for name, entry in stored.items():
            _check_base(where, name, modules[name], entry)
    present = {name: modules[name] for name in edges if isinstance(modules[name], SparseDeltaLinear)}
    edits = {layer: Edit.between(layer.topology, edges[name][0]) for name, layer in present.items()}
    change = Carried(where, None, edits)
    layers = {name: present.get(name) or SparseDeltaLinear(modules[name], edges[name][0]) for name in edges}
    change.layers()
    with torch.no_grad():
        for name, layer in layers.items():
            layer.values.copy_(edges[name][1])
            layer.values.grad = None
    return exchange(model, {modules[name]: layer for name, layer in layers.items() if name not in present})


def _stored(layer: SparseDeltaLinear) -> dict[str, Any]:
    t = layer.topology
    position = t.row.long() * t.shape[1] + t.col.long()
    narrow = torch.int32 if t.numel <= 2**31 else torch.int64
    return {
        "shape": list(t.shape), "position": position.to(narrow), "values": layer.values.detach(),
        "base": _checksum(layer.linear.weight),
    }  # fmt: skip


def _checksum(weight: Tensor) -> str:
    """The type of these numbers, and a CRC-32 of them as they are in memory."""
    return f"{str(weight.dtype).removeprefix('torch.')} {zlib.crc32(archive.bytes_of(weight)):08x}"


def _check_base(where: str, name: str, module: Any, entry: dict[str, Any]) -> None:
    linear = module.linear if isinstance(module, SparseDeltaLinear) else module
    wanted = entry.get("base")
    if wanted is None or wanted == (found := _checksum(linear.weight)):
        return
    types = found.split()[0], wanted.split()[0]
    other = "other numbers" if types[0] == types[1] else f"{types[0]}, the edges were trained beside {types[1]}"
    raise ValueError(
        f"{where}: expected the weight of {name!r} that the edges were trained with, got {other}. Load the pretrained "
        "weights before, or pass check_base=False to put the edges onto these."
    )


def _checked(where: str, name: str, module: nn.Module | None, entry: dict[str, Any]) -> tuple[Topology, Tensor]:
    if module is None:
        raise ValueError(f"{where}: expected a model with a layer {name!r}, there is none. Load into the same model.")
    if not isinstance(module, SparseDeltaLinear):
        check_linear(f"{where}: {name!r}", module)
    elif not isinstance(module.values, nn.Parameter):
        raise TypeError(f"{where}: expected values that are a Parameter, those of {name!r} are computed from others.")
    if any(p.is_meta for p in module.parameters()):
        raise ValueError(
            f"{where}: expected a model with memory, {name!r} is on the meta device, where nothing can be loaded. "
            "Load the pretrained weights before."
        )
    size: Any = (module.out_features, module.in_features)
    position, values, shape = entry["position"], entry["values"], tuple(entry["shape"])
    if shape != size:
        raise ValueError(f"{where}: expected edges of shape {size} for {name!r}, the file has {shape}.")
    whole = position.dtype in (torch.int32, torch.int64) and position.ndim == 1 and position.shape == values.shape
    position = position.long()
    inside = whole and bool(((position >= 0) & (position < size[0] * size[1])).all())
    if not inside or bool((position.diff() <= 0).any()) or not values.is_floating_point():
        raise ValueError(f"{where}: the edges of {name!r} in the file are damaged.")
    return Topology(*from_positions(position, size), size), values
