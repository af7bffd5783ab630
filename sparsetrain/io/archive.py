"""Nested data with tensors in it, as one safetensors file: tensors as tensors, the rest as JSON that refers to them.

JSON keeps None, booleans, integers, text, finite floats (exactly) and lists as they are. What it has no form for is an
object with one key that says what it is: ``{"tensor": name}``, ``{"tuple": items}``, ``{"dict": pairs}`` and
``{"float": "inf"}``. Reading makes these types and no others, so a file can't run code.
"""

import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT, VERSION = "sparsetrain", "1"


class Packer:
    """Takes nested data apart into JSON and tensors; a tensor that occurs twice is stored once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._storages: set[tuple[torch.device, int]] = set()

    def pack(self, value: Any, path: str) -> Any:
        """The JSON of a value; its tensors are named after the path to them."""
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            return {"tensor": self._store(value.detach(), path)}
        if isinstance(value, list | tuple):
            items = [self.pack(item, f"{path}/{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, dict):
            return {"dict": [[self.pack(key, path), self.pack(item, f"{path}/{key}")] for key, item in value.items()]}
        raise TypeError(
            f"{self.where}: expected tensors, numbers, text, None, and lists, tuples and dicts of them, got "
            f"{type(value).__name__} at {path}."
        )

    def _store(self, tensor: Tensor, path: str) -> str:
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "a meta tensor" if tensor.is_meta else f"layout {tensor.layout}"
            raise TypeError(f"{self.where}: expected tensors that hold their numbers, got {kind} at {path}.")
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        identity = (storage, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
        if not tensor.numel() or identity not in self._names:
            while path in self.tensors:  # keys 0 and "0" of one dict
                path += "'"
            # the format has no overlaps; what is left of them when aliases are gone is stored apart
            apart = storage in self._storages
            self.tensors[path] = tensor.clone(memory_format=torch.contiguous_format) if apart else tensor.contiguous()
            self._names[identity] = path
            self._storages.add(storage)
        return self._names[identity]


def unpacked(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that ``Packer.pack`` made this JSON of."""
    if isinstance(packed, list):
        return [unpacked(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpacked(content, tensors))
    if kind == "dict":
        return {unpacked(key, tensors): unpacked(item, tensors) for key, item in content}
    if kind == "float":
        return float(content)
    raise ValueError(f"unknown kind {kind!r}")


def write(where: str, path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write the content to a file; whatever happens, the path holds the old file or the new one, whole."""
    packer = Packer(where)
    packed = {part: packer.pack(value, part) for part, value in content.items()}
    metadata = {"format": FORMAT, "version": VERSION, "content": json.dumps(packed, allow_nan=False)}
    target = Path(os.path.realpath(path))  # a link stays a link
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{where}: expected a file in a folder that exists, there is no folder {target.parent}."
        )
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        permissions = temporary.stat().st_mode
        save_file(packer.tensors, temporary, metadata)
        temporary.chmod(permissions)  # those that any new file gets, and safetensors does not give
        _flush(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(target.parent)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(where: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a file that ``write`` wrote, in memory of its own."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{where}: expected a checkpoint, there is no file {os.fspath(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_header(where, path, metadata)
            # copies: what safetensors returns may be a view of the file itself
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{where}: expected a checkpoint, {os.fspath(path)!r} is no whole safetensors file ({error}). It may have "
            "been cut off while it was written or copied."
        ) from None
    try:
        return {part: unpacked(value, tensors) for part, value in json.loads(metadata["content"]).items()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: the contents of {os.fspath(path)!r} are damaged ({error!r}).") from None


def _check_header(where: str, path: str | os.PathLike[str], metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{where}: expected a checkpoint written by io.save, {os.fspath(path)!r} is another safetensors file. Its "
            "tensors can be read by safetensors.torch.load_file."
        )
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"{where}: expected a checkpoint of version {VERSION}, {os.fspath(path)!r} has version "
            f"{metadata.get('version')}. Read it with the release of sparsetrain that wrote it."
        )
