"""Nested data with tensors in it, as one safetensors file: tensors as tensors, the rest as JSON that refers to them.

A checksum over all of it tells a damaged file.
"""

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..edges.packed_edges import PackedEdges
from ..text_table import size
from .nested import Packer, unpacked
from .readable import opened
from .whole_file import replacing

FORMAT, VERSION = "sparsetrain", "1"


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
    checksum = _checksum(packed, packer.tensors, packer.in_pieces)
    metadata = {"format": FORMAT, "version": VERSION, "content": packed, "checksum": checksum}
    with replacing(where, path) as new:
        try:
            save_file(packer.tensors, new, metadata)
            _fill(new, packer.in_pieces)
        except (SafetensorError, OSError) as error:  # a full disk, or a limit
            needed, free = sum(tensor.nbytes for tensor in packer.tensors.values()), shutil.disk_usage(new.parent).free
            raise OSError(
                f"{where}: expected room for {size(needed)} beside {os.fspath(path)!r}, where {size(free)} are free, "
                f"and nothing more could be written ({error}). What was there before is whole. Make room, or save "
                "elsewhere."
            ) from None


def _fill(path: Path, in_pieces: dict[str, PackedEdges]) -> None:
    """Write edges where zeros were written for them: the library writes whole tensors alone."""
    if not in_pieces:
        return
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, edges in in_pieces.items():
            file.seek(8 + length + header[name]["data_offsets"][0])
            for piece in edges.pieces():
                file.write(bytes_of(piece))


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


def _checksum(
    content: str, tensors: dict[str, Tensor], in_pieces: Mapping[str, PackedEdges] = MappingProxyType({})
) -> str:
    """CRC-32 of everything that a file holds, in hexadecimal."""
    checksum = zlib.crc32(content.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        for piece in in_pieces[name].pieces() if name in in_pieces else (tensor,):
            checksum = zlib.crc32(bytes_of(piece), checksum)
    return f"{checksum:08x}"


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a tensor as they are in memory, row by row."""
    # by DLPack: .numpy() marks memory as not resizable, and this is the user's
    return np.from_dlpack(tensor.detach().cpu().reshape(-1).view(torch.uint8)).data


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
