"""Layers and optimizers that compute by Triton's kernels are trained as those that compute by torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends.choice import BACKENDS
from sparsetrain.backends.triton.available import interpreted

DEVICE = "cpu" if interpreted() else "cuda"
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": (st.optim.Adam, {"unused": "dense"}),
    "adamw-amsgrad": (st.optim.AdamW, {"unused": "dense", "amsgrad": True}),
    "adam-l1": (st.optim.Adam, {"l1": 0.1}),
    "sgd": (st.optim.SGD, {"unused": "dense", "momentum": 0.9}),
    "rmsprop": (st.optim.RMSprop, {"unused": "dense", "momentum": 0.5}),
    "adagrad": (st.optim.Adagrad, {}),
}


def trained(backend: str, optimizer: str, dtype: torch.dtype) -> list[Tensor]:
    """The parameters of a small model after three steps, and its last outputs."""
    torch.manual_seed(0)
    table = st.nn.LookupTable(30, 8).to(DEVICE)
    layer = st.nn.SparseLinear(8, 12, density=0.3).to(DEVICE)
    kind, options = OPTIMIZERS[optimizer]
    steps = kind([*table.parameters(), *layer.parameters()], lr=0.01, **options)
    ids = torch.randint(0, 10, (3, 16), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    ids[1] += 20  # some rows wait
    with st.ops.use_backend(backend):
        for named in ids:
            outputs = layer(table(named).to(dtype))
            steps.zero_grad()
            outputs.float().square().mean().backward()
            steps.step()
        steps.flush()
    return [*(p.detach() for p in (*table.parameters(), *layer.parameters())), outputs.detach()]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: str) -> None:
    results, twins = (trained(backend, optimizer, torch.float32) for backend in ("triton", "torch"))
    for got, expected in zip(results, twins, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_half_precision() -> None:
    halves, twins = (trained(backend, "sgd", torch.bfloat16) for backend in ("triton", "torch"))
    assert [tensor.dtype for tensor in halves] == [torch.float32] * 3 + [torch.bfloat16]
    for got, expected in zip(halves, twins, strict=True):
        torch.testing.assert_close(got.float(), expected.float(), rtol=2**-7, atol=2e-4)


@pytest.mark.parametrize("of_x", [False, True])
@pytest.mark.parametrize("of_dy", [False, True])
def test_gradients_have_the_layout_of_the_input(of_x: bool, of_dy: bool) -> None:
    """And results may be written into."""
    layer = st.nn.SparseLinear(8, 12, density=0.3).to(DEVICE)
    x, dy = torch.randn(5, 8, device=DEVICE), torch.randn(5, 12, device=DEVICE)
    x, dy = st.ops.feature_major(x) if of_x else x, st.ops.feature_major(dy) if of_dy else dy
    _, dx, _ = BACKENDS["triton"].backward(layer.topology, layer.values, x.t(), dy.t(), False)
    assert dx.t().stride() == x.stride()
    with st.ops.use_backend("triton"):
        y = layer(x)
    y.relu_().backward(dy)
