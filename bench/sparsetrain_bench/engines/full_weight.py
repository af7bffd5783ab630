"""Engines with a weight of the full shape: dense, masked in its two forms, and both with their products by oneDNN."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn.masked import Form

from .engine import Engine
from .ours import sparse_linear
from .precision import onednn_allowed


class Dense(Engine):
    """nn.Linear: every edge exists and trains."""

    name, module = "dense", "torch"
    dense_bytes = 12  # weight, gradient, momentum

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return sparse_linear(t, values, bias).to_dense()

    def edge_gradient(self, layer: Any, t: st.Topology) -> Tensor:
        gradient: Tensor = layer.weight.grad
        return gradient[t.row.long(), t.col.long()]


class MaskedInForward(Dense):
    """A dense weight that is multiplied by its mask in each forward pass."""

    name, module = "masked, in forward", "torch"
    dense_bytes = 20  # and the mask, and the product
    form: Form = "forward"

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return st.nn.MaskedLinear.from_sparse(sparse_linear(t, values, bias), form=self.form)


class MaskedAfterStep(MaskedInForward):
    """A dense weight whose mask is applied after each step of the optimizer."""

    name = "masked, after step"
    dense_bytes = 16
    form: Form = "step"

    def after_step(self, layer: Any) -> None:
        layer.apply_mask()


class DenseOneDnn(Dense):
    """nn.Linear by oneDNN."""

    name = "dense, oneDNN"

    def context(self) -> AbstractContextManager[Any]:
        return onednn_allowed()


class DenseBf16(Dense):
    """nn.Linear in bfloat16, weight and all: fast where a processor multiplies bfloat16 (AVX-512 BF16, AMX)."""

    name, dtype = "dense, bf16", torch.bfloat16
    dense_bytes = 6

    def layer(self, t: st.Topology, values: Tensor, bias: Tensor) -> nn.Module:
        return super().layer(t, values, bias).to(torch.bfloat16)


class MaskedOneDnn(MaskedAfterStep):
    """The mask after each step, which leaves both passes alone, over nn.Linear by oneDNN."""

    name = "masked, oneDNN"

    def context(self) -> AbstractContextManager[Any]:
        return onednn_allowed()
