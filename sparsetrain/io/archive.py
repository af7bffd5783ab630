"""Nested data with tensors in it, as one safetensors file: tensors as tensors, the rest as JSON that refers to them.

JSON keeps None, booleans, integers, text, finite floats (exactly) and lists as they are. What it has no form for is an
object with one key that says what it is: ``{"tensor": name}``, ``{"tuple": items}``, ``{"dict": pairs}``,
``{"counter": pairs}`` and ``{"float": "inf"}``. Reading makes these types and no others, so a file can't run code. A
checksum over all of it tells a damaged file.
"""

import json
import math
import os
import shutil
import zlib
from collections import Counter
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..text_table import size
from .readable import opened
from .whole_file import replacing

FORMAT, VERSION = "sparsetrain", "1"
BITS = 8192  # of whole numbers: Python refuses to write longer ones in decimal digits


class Packer:
    """Takes nested data apart into JSON and tensors; a tensor that occurs twice is stored once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._storages: set[tuple[torch.device, int]] = set()
        self._alive: list[Tensor] = []  # so that an address is one tensor's

    def pack(self, value: Any, path: str) -> Any:
        """The JSON of a value; its tensors are named after the path to them."""
        if isinstance(value, int) and value.bit_length() > BITS:
            raise ValueError(
                f"{self.where}: expected whole numbers of at most {BITS} bits, got a longer one at {path}."
            )
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
            kind = "counter" if isinstance(value, Counter) else "dict"  # the milestones of torch's MultiStepLR
            return {kind: [[self.pack(key, path), self.pack(item, f"{path}/{key}")] for key, item in value.items()]}
        raise TypeError(
            f"{self.where}: expected tensors, numbers, text, None, and lists, tuples and dicts of them, got "
            f"{type(value).__name__} at {path}."
        )

    def _store(self, tensor: Tensor, path: str) -> str:
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "a meta tensor" if tensor.is_meta else f"layout {tensor.layout}"
            raise TypeError(f"{self.where}: expected tensors that hold their numbers, got {kind} at {path}.")
        tensor = tensor.resolve_conj().resolve_neg()  # the format has bytes alone
        self._alive.append(tensor)
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        identity = (storage, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
        if not tensor.numel() or identity not in self._names:
            path = path.encode(errors="backslashreplace").decode()  # names in the format are UTF-8
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
    if kind == "counter":
        return Counter(unpacked({"dict": content}, tensors))
    if kind == "dict":
        return {unpacked(key, tensors): unpacked(item, tensors) for key, item in content}
    if kind == "float":
        return float(content)
    raise ValueError(f"unknown kind {kind!r}")


def write(where: str, path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write the content to a file; whatever happens, the path holds the old file or the new one, whole."""
    packer = Packer(where)
    try:
        packed = json.dumps({part: packer.pack(value, part) for part, value in content.items()}, allow_nan=False)
    except RecursionError:
        raise ValueError(
            f"{where}: expected data nested a few hundred levels deep at most, got more. Does a list or a dict contain "
            "itself?"
        ) from None
    metadata = {
        "format": FORMAT, "version": VERSION, "content": packed, "checksum": _checksum(packed, packer.tensors),
    }  # fmt: skip
    with replacing(where, path) as new:
        try:
            save_file(packer.tensors, new, metadata)
        except SafetensorError as error:  # a full disk, or a limit
            needed, free = sum(tensor.nbytes for tensor in packer.tensors.values()), shutil.disk_usage(new.parent).free
            raise OSError(
                f"{where}: expected room for {size(needed)} beside {os.fspath(path)!r}, where {size(free)} are free, "
                f"and nothing more could be written ({error}). What was there before is whole. Make room, or save "
                "elsewhere."
            ) from None


class _Copies(dict[str, Tensor]):
    """Tensors in memory of their own, each made when it is asked for."""

    def __init__(self, in_file: dict[str, Tensor]) -> None:
        super().__init__()
        self._in_file = in_file

    def __missing__(self, name: str) -> Tensor:
        self[name] = self._in_file[name].clone()
        return self[name]


def read(where: str, path: str | os.PathLike[str], in_file: str | None = None) -> dict[str, Any]:
    """The content of a file that ``write`` wrote, in memory of its own.

    Args:
        in_file: a part, a dict, whose own tensors are left in the file, for a reader that copies them where they
            belong: they are read from it when they are used, and are not to be kept.
    """
    with opened(where, "a checkpoint", path) as file:
        metadata, tensors = _read(where, path, file)
    # files of version 0.1 have no checksum
    if metadata.get("checksum", "") not in ("", checksum := _checksum(metadata["content"], tensors)):
        raise damaged(where, path, f"their checksum is {checksum}, it was {metadata['checksum']}")
    copies = _Copies(tensors)
    try:
        return {
            part: _left_in_file(value, tensors, copies) if part == in_file else unpacked(value, copies)
            for part, value in json.loads(metadata["content"]).items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise damaged(where, path, repr(error)) from None


def _left_in_file(packed: Any, tensors: dict[str, Tensor], copies: dict[str, Tensor]) -> Any:
    """A dict with the file's own tensors; those within its items are copies, and so are those of another form."""
    if not isinstance(packed, dict) or "dict" not in packed:
        return unpacked(packed, copies)
    return {
        unpacked(key, copies): unpacked(item, tensors if isinstance(item, dict) and "tensor" in item else copies)
        for key, item in packed["dict"]
    }


def _read(where: str, path: str | os.PathLike[str], file: BinaryIO) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header, checked, and the tensors, which are parts of the file, mapped into memory."""
    # safetensors opens a path twice, between which another may have been written, and takes UTF-8 alone
    name = f"/dev/fd/{file.fileno()}"
    name = name if os.path.exists(name) else os.fspath(path)
    try:
        with safe_open(name, framework="pt") as safe:
            metadata = safe.metadata() or {}
            _check_header(where, path, metadata)
            return metadata, {name: safe.get_tensor(name) for name in safe.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{where}: expected a checkpoint, {os.fspath(path)!r} is no whole safetensors file ({error}). It may have "
            "been cut off while it was written or copied."
        ) from None
    except (KeyError, RuntimeError) as error:  # types and sizes that torch does not have
        raise damaged(where, path, repr(error)) from None


def _checksum(content: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 of everything that a file holds, in hexadecimal."""
    checksum = zlib.crc32(content.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        # by DLPack: .numpy() marks memory as not resizable, and this is the user's
        data = np.from_dlpack(tensor.detach().cpu().reshape(-1).view(torch.uint8)).data
        checksum = zlib.crc32(data, checksum)
    return f"{checksum:08x}"


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
    strange = metadata.keys() - {"format", "version", "content", "checksum"}
    if strange or "content" not in metadata:
        raise damaged(where, path, f"the header has keys {sorted(metadata)}")


def damaged(where: str, path: str | os.PathLike[str], fault: str) -> ValueError:
    """What is said of a file that holds something else than what was written."""
    return ValueError(
        f"{where}: the contents of {os.fspath(path)!r} are damaged ({fault}). Copy it again, or go back to an older "
        "one."
    )
