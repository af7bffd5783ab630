"""The edges of a layer as one tensor of a state dict, in a form that the arithmetic of averaging leaves readable.

A state dict goes through many hands: averages in place or not, casts, files that hold tensors alone. So the edges are
one tensor of floating point, under the key that torch has for what is neither a parameter nor a buffer. It begins with
hexadecimal digits, small numbers that a mean of equal copies gives back after rounding, in float16 and bfloat16 too:
the sizes and the digest, which with the names are all that loading compares. Then come the edges of each row and the
columns, which are only read to go on with stored edges, and the names, UTF-8 in hexadecimal digits.
"""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..structure.index_types import LARGEST, PIECE
from ..structure.topology import Topology
from .packed_edges import packed

KEY = "_extra_state"  # as in torch.nn.Module
LEGACY = ("crow", "col", "shape", "digest", "inputs", "outputs")  # a tensor each, before version 0.2

SIZES = 5  # rows, columns, edges, bytes of the names of inputs and of outputs plus one (0: none)
BITS = {1: 8, 2: 4}  # of the digits of sizes and names, by version; bytes are too large to be added in bfloat16
DIGEST = 64  # hexadecimal digits

ADOPT = (
    "Make the layer from the stored topology, or go on with the stored edges: sparsetrain.io.adopt(model, state_dict), "
    'and for a file of io.save sparsetrain.io.load(path, model, topology="adopt").'
)
LEAVE_OUT = (
    f"Leave the keys that end in {KEY!r} out when states are averaged or converted, and keep those of one of them."
)


class Stored(NamedTuple):
    """What a state says of the edges of a layer."""

    shape: tuple[int, int]
    nnz: int
    digest: str
    inputs: list[str] | None
    outputs: list[str] | None
    fan_in: Tensor
    col: Tensor

    def topology(self) -> Topology:
        """The edges themselves, checked anew. ValueError: they are not those that were stored."""
        try:
            t = Topology(
                _pointers(_whole(self.fan_in)), _whole(self.col), self.shape, inputs=self.inputs, outputs=self.outputs
            )
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"the stored edges are damaged. {error} {LEAVE_OUT}") from None
        if t.digest != self.digest:
            raise ValueError(f"the stored edges are damaged: {t!r} has another digest than was stored. {LEAVE_OUT}")
        return t


def unpacked(state: Any) -> Stored:
    """What ``packed`` has written. ValueError: it was something else, or was changed since."""
    if not isinstance(state, Tensor) or state.ndim != 1 or state.layout is not torch.strided or state.is_complex():
        raise _no_header(state)
    if state.is_meta:
        raise ValueError("expected edges that hold numbers, got a meta tensor. Layers over edges can't be offloaded.")
    state = state.detach().cpu()
    version = _small(state[:1]).tolist()
    bits = BITS.get(version[0], 0) if version else 0
    if version and not bits:
        raise ValueError(f"the stored edges are damaged, or of another release of sparsetrain. {LEAVE_OUT}")
    sizes = SIZES * (64 // bits) if bits else 0
    if not version or state.numel() < 1 + sizes + DIGEST:
        raise _no_header(state)
    _, digits, of_digest, rest = state.split([1, sizes, DIGEST, state.numel() - 1 - sizes - DIGEST])
    rows, columns, nnz, *lengths = (
        int.from_bytes(_bytes(size, bits), "little") for size in digits.split(sizes // SIZES)
    )
    lengths = [max(0, length - 1) * (8 // bits) for length in lengths]
    if rest.numel() != rows + nnz + sum(lengths):
        raise ValueError(f"the stored edges are damaged: their sizes disagree. {LEAVE_OUT}")
    fan_in, col, inputs, outputs = rest.split([rows, nnz, *lengths])
    digest = "".join(f"{digit:x}" for digit in _small(of_digest, below=16).tolist())
    return Stored((rows, columns), nnz, digest, _names(inputs, bits), _names(outputs, bits), fan_in, col)


def difference(ours: Topology, stored: Stored) -> str:
    """What speaks against loading values of the stored edges into a layer with ours, or nothing."""
    if stored.shape != ours.shape:
        return f"expected edges of shape {ours.shape}, the checkpoint has {stored.shape}."
    if stored.digest != ours.digest:
        return f"expected the same {ours.nnz} edges, the checkpoint has other edges ({stored.nnz}). {ADOPT}"
    for side in ("inputs", "outputs"):
        names, other = getattr(ours, side), getattr(stored, side)
        if names is not None and other is not None and list(names) != other:
            k = next((k for k, pair in enumerate(zip(names, other, strict=False)) if pair[0] != pair[1]), -1)
            return (
                f"expected the same names in {side}, the checkpoint has {other[k]!r} where the layer has {names[k]!r} "
                f"(number {k}). {ADOPT}"
            )
    return ""


def upgrade(state: MutableMapping[str, Any], prefix: str) -> None:
    """Bring a state of version 0.1, with a tensor for each array, into today's form, in place.

    Its digest is a vector of bytes, which wrap around in a sum: after arithmetic the arrays alone say what the edges
    are. ValueError: they are damaged.
    """
    old = {name: state[prefix + name] for name in LEGACY if isinstance(state.get(prefix + name), Tensor)}
    if prefix + KEY in state or not {"crow", "col", "shape"} <= old.keys():
        return
    names = {side: _names(old[side]) for side in ("inputs", "outputs") if side in old}
    try:
        t = Topology(_whole(old["crow"]), _whole(old["col"]), _whole(old["shape"]).tolist(), **names)
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"the stored edges are damaged. {error}") from None
    digest = old.get("digest")
    if digest is not None and digest.dtype is torch.uint8 and bytes(digest.flatten().tolist()).hex() != t.digest:
        raise ValueError(
            "the stored edges are damaged: they have another digest than was stored. Leave crow, col, shape and digest "
            "out when states are averaged or converted, and keep those of one of them."
        )
    for name in old:
        del state[prefix + name]
    state[prefix + KEY] = packed(t)


def stored_in(state: Mapping[str, Any], prefix: str) -> Stored | None:
    """The edges of the layer of this prefix, or None where the state does not say."""
    return unpacked(state[prefix + KEY]) if prefix + KEY in state else None


def _pointers(fan_in: Tensor) -> Tensor:
    return torch.cat([fan_in.new_zeros(1), fan_in.cumsum(0)])


def _whole(numbers: Tensor) -> Tensor:
    """Integers that may have become floating point, and are whole but for rounding."""
    if not numbers.is_floating_point():
        return numbers
    # of the columns of a large matrix some at a time, into integers as narrow as they may be
    short = numbers.dtype is torch.float32
    whole, limit = torch.empty_like(numbers, dtype=torch.int32 if short else torch.int64), LARGEST if short else 2**53
    for first in range(0, numbers.numel(), PIECE):
        piece = numbers[first : first + PIECE].double().round()
        if not bool(piece.isfinite().all()):
            raise ValueError("Some are not finite.")
        whole[first : first + PIECE] = piece.clamp(-limit, limit)
    return whole


def _no_header(state: Any) -> ValueError:
    got = type(state).__name__
    if isinstance(state, Tensor):
        got = f"a tensor of shape {tuple(state.shape)}, {state.dtype}, {state.layout}"
    return ValueError(f"the stored edges are damaged: expected one vector that begins with a header, got {got}.")


def _bytes(digits: Tensor, bits: int) -> bytes:
    """The bytes that have these digits of so many bits each."""
    whole = _small(digits, below=1 << bits).reshape(-1, 8 // bits)
    return bytes(sum(column << bits * k for k, column in enumerate(whole.unbind(1))).tolist())  # type: ignore[union-attr]


def _small(numbers: Tensor, below: int = 256) -> Tensor:
    """Integers from 0 on after arithmetic that has not changed them but for rounding."""
    exact = numbers.double()
    whole = exact.round()
    if not bool(((exact - whole).abs() < 0.25).all()) or not bool(((whole >= 0) & (whole < below)).all()):
        raise ValueError(f"the stored edges were changed by arithmetic, as in a mean over other edges. {LEAVE_OUT}")
    return whole.long()


def _names(text: Tensor, bits: int = 8) -> list[str] | None:
    if not text.numel():
        return None
    try:
        names: list[str] = json.loads(_bytes(text.flatten(), bits))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the stored names are damaged ({error}).") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the stored names are damaged: they are no list of names.")
    return names
