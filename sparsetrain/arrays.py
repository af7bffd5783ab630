"""Tensors as arrays: the only way from the one to the other.

``Tensor.numpy()`` marks the storage for good as one that can't be resized, which FSDP and others do to their own
tensors. An array is over memory that its tensor may leave at any time, as tensors that are sent to a process do. It is
made anew for each call; who keeps one asks before each use whether the tensor is still there.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


class _Versioned:
    """A capsule of DLPack 1.0, whose arrays can be written into; those of older versions can't."""

    __slots__ = ("capsule",)

    def __init__(self, tensor: Tensor) -> None:
        # not Tensor.__dlpack__, which takes three times as long and refuses tensors that require a gradient
        self.capsule = torch._C._to_dlpack_versioned(tensor)

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # a CPU; the capsule itself says so again, and is refused otherwise


class _Interface:
    """numpy's own protocol, for versions of numpy and torch without DLPack 1.0: a microsecond more."""

    __slots__ = ("__array_interface__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cpu":
            raise BufferError(f"expected a tensor on the CPU, got one on {tensor.device}.")
        kind = str(tensor.dtype).removeprefix("torch.")
        self.tensor = tensor  # lives as long as the array
        self.__array_interface__ = {
            "version": 3,
            "typestr": np.dtype(kind).str,
            "shape": tuple(tensor.shape),
            "strides": tuple(stride * tensor.itemsize for stride in tensor.stride()),
            "data": (tensor.data_ptr(), False),
        }


DLPACK = np.lib.NumpyVersion(np.__version__) >= "2.1.0" and hasattr(torch._C, "_to_dlpack_versioned")


def array(tensor: Tensor) -> Array:
    """The numbers of a CPU tensor as an array: over the same memory, but for negated views and unaligned memory."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if not tensor.data_ptr() and tensor.numel():
        raise RuntimeError(
            f"expected a tensor with data, got one of shape {tuple(tensor.shape)} whose storage is empty. "
            "It was freed, as by FSDP after use, which gathers nothing for a backward pass where the result of a "
            "sharded layer was changed in place; or resized; or it is a fake tensor, which has none."
        )
    if not DLPACK and not tensor.numel():  # without memory there is no address, which the protocol wants
        return np.empty(tensor.shape, str(tensor.dtype).removeprefix("torch."))
    result: Array = np.from_dlpack(_Versioned(tensor)) if DLPACK else np.asarray(_Interface(tensor))
    return result if result.flags.aligned else result.copy()


BITS = {torch.float16: torch.int16, torch.bfloat16: torch.uint16}  # as sparsetrain_kernels.half_precision has them


def operand(tensor: Tensor) -> Array:
    """As ``array``; half precision as its bits, in integers of 16, which is how kernels take it."""
    bits = BITS.get(tensor.dtype)
    return array(tensor if bits is None else tensor.detach().resolve_neg().view(bits))


def flat(tensor: Tensor) -> Array:
    """The numbers of a tensor in their order, one after another: over the same memory where they lie so."""
    if tensor.ndim != 1 or not tensor.is_contiguous():
        tensor = tensor.detach().contiguous().view(-1)
    return array(tensor)


def lends_memory(tensor: Tensor) -> bool:
    """Whether ``array`` is over the tensor's own memory, so that what is written into it arrives."""
    return not tensor.is_neg() and tensor.data_ptr() % tensor.itemsize == 0
