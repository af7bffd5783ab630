"""Results that are written into, as by nn.ReLU(inplace=True): on every backend, in every type and layout."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparsetrain as st

BACKENDS = pytest.mark.parametrize("backend", ["automatic", "blocks", "numba", "torch"])


def on(backend: str, call: Callable[[], Tensor]) -> Tensor:
    if backend == "automatic":
        return call()
    with st.ops.use_backend(backend):
        return call()


@BACKENDS
@pytest.mark.parametrize("density", [0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("feature_major", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_products(backend: str, density: float, dtype: torch.dtype, feature_major: bool, transpose: bool) -> None:
    layer = st.nn.SparseLinear(6, 6, density=density)
    x = torch.randn(3, 6).to(dtype)
    x = st.ops.feature_major(x) if feature_major else x
    model = layer.transposed() if transpose else layer
    (expected,) = torch.autograd.grad(model(x).relu().sum(), layer.values)
    (found,) = torch.autograd.grad(on(backend, lambda: model(x)).relu_().sum(), layer.values)
    torch.testing.assert_close(found, expected)


@BACKENDS
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_sampled_products(backend: str, density: float) -> None:
    t = st.patterns.uniform((5, 4), density)
    a, b = torch.randn(5, 3, requires_grad=True), torch.randn(4, 3)
    (expected,) = torch.autograd.grad(st.ops.sddmm(t, a, b).relu().sum(), a)
    (found,) = torch.autograd.grad(on(backend, lambda: st.ops.sddmm(t, a, b)).relu_().sum(), a)
    torch.testing.assert_close(found, expected)


@BACKENDS
def test_products_of_used_columns(backend: str) -> None:
    layer, x = st.nn.SparseLinear(6, 5, density=1.0, sparse_grad=True), torch.eye(6)[:2]
    on(backend, lambda: layer(x)).relu_().sum().backward()
    assert layer.values.grad is not None
    assert layer.values.grad.is_sparse
