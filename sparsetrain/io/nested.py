"""Nested data with tensors in it, taken apart into JSON and tensors, and put together again.

JSON keeps None, booleans, integers, text, finite floats (exactly) and lists as they are. What it has no form for is an
object with one key that says what it is: ``{"tensor": name}``, ``{"tuple": items}``, ``{"dict": pairs}``,
``{"counter": pairs}`` and ``{"float": "inf"}``. These types are made again and no others, so a file can't run code.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..edges.packed_edges import PackedEdges

BITS = 8192  # of whole numbers: Python refuses to write longer ones in decimal digits


class Packer:
    """Takes nested data apart into JSON and tensors; a tensor that occurs twice is stored once.

    Edges that come as PackedEdges are ``in_pieces``; their tensors are zeros, which take no memory as long as nobody
    writes into them.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.tensors: dict[str, Tensor] = {}
        self.in_pieces: dict[str, PackedEdges] = {}
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
        if isinstance(value, PackedEdges):
            return {"tensor": self._reserve(value, path)}
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

    def _reserve(self, edges: PackedEdges, path: str) -> str:
        for name, other in self.in_pieces.items():
            if other is edges:
                return name
        path = self._unused(path)
        zeros = np.zeros(edges.numel, torch.empty(0, dtype=edges.dtype).numpy().dtype)
        self.tensors[path], self.in_pieces[path] = torch.from_numpy(zeros), edges
        return path

    def _unused(self, path: str) -> str:
        path = path.encode(errors="backslashreplace").decode()  # names in the format are UTF-8
        while path in self.tensors:  # keys 0 and "0" of one dict
            path += "'"
        return path

    def _store(self, tensor: Tensor, path: str) -> str:
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "a meta tensor" if tensor.is_meta else f"layout {tensor.layout}"
            raise TypeError(f"{self.where}: expected tensors that hold their numbers, got {kind} at {path}.")
        tensor = tensor.resolve_conj().resolve_neg()  # the format has bytes alone
        self._alive.append(tensor)
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        identity = (storage, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
        if not tensor.numel() or identity not in self._names:
            path = self._unused(path)
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
