"""Engines of convolutions over two dimensions, by name, made for a case: they must know kernel and stride."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

import sparsetrain as st

from .engine import Engine, total_bytes
from .full_weight import Dense, DenseBf16
from .ours import Blocks, Sparsetrain
from .sparseprop import SparseProp


class Convolution(Protocol):
    """What an engine asks a case."""

    @property
    def channels(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def kernel(self) -> int: ...
    @property
    def stride(self) -> int: ...


def sparse_convolution(case: Convolution, t: st.Topology, values: Tensor, bias: Tensor) -> st.nn.SparseConv2d:
    """Our layer with these numbers, padded by half a kernel."""
    layer = st.nn.SparseConv2d(
        case.channels, case.outputs, case.kernel, case.stride, padding=case.kernel // 2, topology=t
    )
    with torch.no_grad():
        layer.values.copy_(values)
        layer.bias.copy_(bias)  # type: ignore[union-attr]
    return layer


class _OfCase(Engine):
    def __init__(self, case: Convolution) -> None:
        self.case = case


class SparseConvolution(_OfCase, Sparsetrain):
    """SparseConv2d as it chooses to compute."""

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return sparse_convolution(self.case, t, values, bias)


class BlocksConvolution(SparseConvolution, Blocks):
    """SparseConv2d through dense blocks, whatever the density."""


class DenseConvolution(_OfCase, Dense):
    """nn.Conv2d, which torch computes by oneDNN."""

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        layer: nn.Module = sparse_convolution(self.case, t, values, bias).to_dense()
        return layer

    def edge_gradient(self, layer: Any, t: st.Topology) -> Tensor:
        gradient: Tensor = layer.weight.grad.reshape(t.shape)
        return gradient[t.row.long(), t.col.long()]


class ChannelsLastConvolution(DenseConvolution):
    """nn.Conv2d with weight and images in channels_last, as a whole network would have them."""

    name = "dense, channels_last"

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        layer: nn.Module = super().layer(t, values, bias).to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        return layer

    def operand(self, x: Tensor) -> Tensor:
        return x.to(memory_format=torch.channels_last)


class Bf16Convolution(DenseConvolution):
    """nn.Conv2d in bfloat16."""

    name, dtype = DenseBf16.name, DenseBf16.dtype

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return super().layer(t, values, bias).to(torch.bfloat16)


class SparsePropConvolution(_OfCase, SparseProp):
    """The one of SparseProp's two convolutions that it times as the faster."""

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        from sparseprop.modules import sparsify_conv2d_auto

        case = self.case
        dense = sparse_convolution(case, t, values, bias).to_dense()
        layer: nn.Module = sparsify_conv2d_auto(dense, (case.batch, case.channels, case.size, case.size))
        return layer

    def edge_gradient(self, layer: Any, t: st.Topology) -> Tensor:
        from sparseprop.modules.utils import from_sparse_format_conv2d

        case = self.case
        shape = (case.outputs, case.channels, case.kernel, case.kernel)
        gradient: Tensor = from_sparse_format_conv2d(layer.W_val.grad, layer.W_idx, shape).reshape(t.shape)
        return gradient[t.row.long(), t.col.long()]

    def kept_bytes(self, layer: Any) -> int:
        return total_bytes(layer.parameters()) + total_bytes(layer.W_idx)


CONVOLUTIONS: dict[str, type[_OfCase]] = {
    engine.name: engine
    for engine in (
        SparseConvolution, BlocksConvolution, DenseConvolution, ChannelsLastConvolution, Bf16Convolution,
        SparsePropConvolution,
    )
}  # fmt: skip
