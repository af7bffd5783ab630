"""What an engine has to say for itself: how it makes a layer, where the gradient of its edges is, what it keeps."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain import Topology


class Engine(ABC):
    """One way to compute a linear layer of which only the edges of a topology exist."""

    name: str
    module: str  # what must be installed
    trains = True
    strides = True  # whether it minds the strides of its input
    dtype = torch.float32  # of inputs, results and their gradients
    dense_bytes = 0  # for each position of the full weight matrix, while it trains

    @abstractmethod
    def layer(self, t: Topology, values: Tensor, bias: Tensor) -> nn.Module:
        """A layer (batch, in) -> (batch, out) with these numbers, which it does not share."""

    @abstractmethod
    def edge_gradient(self, layer: Any, t: Topology) -> Tensor:
        """The gradient of the edges in the topology's order, after a backward pass."""

    def operand(self, x: Tensor) -> Tensor:
        """An input, or a gradient of an output, as the engine likes it."""
        return x.to(self.dtype)

    def after_step(self, layer: Any) -> None:
        """What a training loop has to do after each step of the optimizer."""
        return

    def kept_bytes(self, layer: Any) -> int:
        """Bytes of weights and indices between steps."""
        return total_bytes([*layer.parameters(), *layer.buffers()])

    def context(self) -> AbstractContextManager[Any]:
        """What a step happens in."""
        return nullcontext()


def total_bytes(arrays: Iterable[Any]) -> int:
    """Bytes of tensors and numpy arrays."""
    return sum(array.nbytes for array in arrays)
