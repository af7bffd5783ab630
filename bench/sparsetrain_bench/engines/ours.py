"""sparsetrain itself, by its kernels and by its torch backend."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import sparsetrain as st

from .engine import Engine
from .precision import onednn_allowed


def sparse_linear(t: st.Topology, values: Tensor, bias: Tensor) -> st.nn.SparseLinear:
    """Our layer with these numbers."""
    layer = st.nn.SparseLinear(t.shape[1], t.shape[0], topology=t)
    with torch.no_grad():
        layer.values.copy_(values)
        layer.bias.copy_(bias)  # type: ignore[union-attr]
    return layer


class Sparsetrain(Engine):
    """SparseLinear as it chooses to compute. Where that is by dense products they are those of "dense, oneDNN"."""

    name, module = "sparsetrain", "sparsetrain"

    def context(self) -> AbstractContextManager[Any]:
        return onednn_allowed()

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return sparse_linear(t, values, bias)

    def edge_gradient(self, layer: Any, t: st.Topology) -> Tensor:
        gradient: Tensor = layer.values.grad
        return gradient

    def kept_bytes(self, layer: Any) -> int:
        return super().kept_bytes(layer) + int(layer.topology.nbytes)


class SparsetrainBf16(Sparsetrain):
    """SparseLinear with inputs and results in bfloat16 beside float32 values."""

    name, dtype = "sparsetrain, bf16", torch.bfloat16


class Blocks(Sparsetrain):
    """SparseLinear on dense blocks, whatever the density."""

    name = "sparsetrain, blocks"

    @contextmanager
    def context(self) -> Iterator[None]:
        with onednn_allowed(), st.ops.use_backend("blocks"):
            yield


class TorchBackend(Sparsetrain):
    """SparseLinear on torch.sparse: what other devices would get."""

    name = "sparsetrain, torch backend"

    def context(self) -> AbstractContextManager[Any]:
        return st.ops.use_backend("torch")
