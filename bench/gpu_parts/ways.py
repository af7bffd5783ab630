"""The ways to compute a layer that are measured: ours by each backend, and the rivals."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.backends.choice import FORCIBLE
from sparsetrain.backends.triton.available import usable

from .machine import Machine

PRECISIONS = ("fp32", "tf32", "bf16")  # of dense products; values and gradients of values are float32
ACTIVATION = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@contextmanager
def tensor_cores(allowed: bool) -> Iterator[None]:
    """Whether dense products of float32 may compute in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class TorchCsr(nn.Module):
    """torch.sparse.mm over a CSR tensor, made around its values in each forward pass."""

    def __init__(self, t: st.Topology, dtype: torch.dtype) -> None:
        super().__init__()
        self.topology = t
        self.values = nn.Parameter(torch.randn(t.nnz, device=t.device, dtype=dtype))
        self.bias = nn.Parameter(torch.randn(t.shape[0], device=t.device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        t = self.topology
        matrix = torch.sparse_csr_tensor(t.crow, t.col, self.values, t.shape, check_invariants=False)
        product: Tensor = torch.sparse.mm(matrix, x.t())
        return product.t() + self.bias


def backends(device: torch.device) -> list[str]:
    """Those of ours that compute there."""
    return ["blocks", "torch"] + (["triton"] if usable(device) else [])


def layer_of(way: str, t: st.Topology, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A layer of this structure."""
    out, inputs = t.shape
    place: dict[str, Any] = {"device": t.device, "dtype": dtype}
    if way == "dense":
        return nn.Linear(inputs, out, **place)
    if way == "masked":
        return st.nn.MaskedLinear(inputs, out, topology=t, **place)
    if way == "torch CSR":
        return TorchCsr(t, dtype)
    return st.nn.SparseLinear(inputs, out, topology=t, **place)


class Steps:
    """Forward passes, and forward with backward passes, of a layer by one way and precision."""

    def __init__(self, machine: Machine, way: str, precision: str, t: st.Topology, batch: int) -> None:
        dtype = ACTIVATION[precision]
        self.machine, self.way, self.precision = machine, way, precision
        self.layer = layer_of(way, t)
        self.x = [x.requires_grad_() for x in machine.turns(batch, t.shape[1], dtype=dtype)]
        self.dy = machine.turns(batch, t.shape[0], dtype=dtype)

    def forward(self, k: int) -> Tensor:
        """Under autocast in bf16, whose copies of weights live as long as one pass."""
        autocast = torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        forced = st.ops.use_backend(self.way) if self.way in FORCIBLE else nullcontext()
        with tensor_cores(self.precision == "tf32"), autocast, forced:
            y: Tensor = self.layer(self.x[k % len(self.x)])
        return y

    def train(self, k: int) -> tuple[Tensor, ...]:
        """Gradients of the input and of the parameters."""
        y = self.forward(k)
        with tensor_cores(self.precision == "tf32"):
            return torch.autograd.grad(
                y, [self.x[k % len(self.x)], *self.layer.parameters()], self.dy[k % len(self.dy)]
            )


def optimizer_step(parameters: list[nn.Parameter]) -> Callable[[int], object]:
    """A step of Adam in one kernel, over gradients that are there."""
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.Adam(parameters, fused=True)
    return lambda _: optimizer.step()
