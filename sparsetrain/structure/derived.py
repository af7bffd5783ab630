"""What follows from the edges of a topology alone: Topology.derived makes each at first use, and keeps it."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from ..arrays import array
from .csr import row_pointers
from .index_types import column_type, pieces

if TYPE_CHECKING:
    from .topology import Topology


class Transposed(NamedTuple):
    """The transpose plan: the same edges ordered by column. ``values_t = values[perm]``."""

    crow_t: Tensor  # (in + 1,)
    col_t: Tensor  # (nnz,) the row of each edge, in 16 bits where the transposed matrix keeps columns so
    perm: Tensor  # (nnz,) its position in the value array


def digest(t: "Topology") -> str:
    """SHA-256 of shape and edges, as 64-bit little-endian integers."""
    sha = hashlib.sha256(np.asarray(t.shape, dtype="<i8").tobytes())
    for index in (t.crow, t.stored_col):
        for _, piece in pieces(index):
            sha.update(array(piece.cpu()).astype("<i8", copy=False).data)
    return sha.hexdigest()


def transposed(t: "Topology") -> Transposed:
    """The transpose plan."""
    t.check_untouched()
    if t.device.type == "cpu" and COMPILES:
        narrow = column_type(t.shape[::-1], t.nnz, t.device) is torch.uint16
        arrays = kernels.transpose(array(t.crow), array(t.stored_col), t.shape[1], np.uint16 if narrow else None)
        with torch.inference_mode(False):  # they are used in training later
            return Transposed(*(torch.from_numpy(each) for each in arrays))
    perm = t.col.argsort(stable=True).to(t.crow.dtype)
    return Transposed(row_pointers(t.stored_col, t.shape[1]).to(t.crow.dtype), t.row[perm], perm)


def transpose(t: "Topology") -> "Topology":
    """The topology of the transposed matrix."""
    crow_t, col_t, _ = t.transposed
    return t._trusted(crow_t, col_t, (t.shape[1], t.shape[0]), t.outputs, t.inputs)


def copies(t: "Topology") -> "WeakValueDictionary[torch.device, Topology]":
    """Of a topology on other devices, itself among them; weakly, or it would live until cycles are collected."""
    return WeakValueDictionary({t.device: t})


def memory(t: "Topology") -> dict[object, int]:
    """Bytes of each array that a topology holds; arrays that topologies share have one key."""
    return {_key(each): each.nbytes for each in held(t)}


def _key(array: Any) -> object:
    address = array.data_ptr() if isinstance(array, Tensor) else 0
    return (array.device, address) if address else id(array)


def held(t: "Topology") -> Iterator[Any]:
    """Everything that counts as memory of a topology: index tensors, and the plans of kernels."""
    yield from (t.crow, t.stored_col)
    for derived in t._derived.values():
        if isinstance(derived, Transposed):
            yield from derived
        elif isinstance(derived, type(t)):
            yield from held(derived)
        elif hasattr(derived, "nbytes"):
            yield derived
