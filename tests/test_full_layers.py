"""Layers in which each position has an edge, where torch's own linear function computes them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import sparsetrain as st
from sparsetrain.backends import choice

INPUTS, OUTPUTS, BATCH = 5, 3, 4


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """As on processors on which torch's products are as fast as any; the weights that it is called with."""
    called: list[Tensor] = []
    linear = nn.functional.linear

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        called.append(weight)
        return linear(x, weight, bias)

    monkeypatch.setattr(choice, "torch_is_as_fast", lambda: True)
    monkeypatch.setattr(nn.functional, "linear", noted)
    yield called
    assert all(weight.shape in ((OUTPUTS, INPUTS), (INPUTS, OUTPUTS)) for weight in called)


def one_hot(column: int) -> Tensor:
    return nn.functional.one_hot(torch.full((BATCH,), column), INPUTS).float()


def test_it_computes(by_torch: list[Tensor]) -> None:
    layer = st.nn.SparseLinear(INPUTS, OUTPUTS, density=1.0)
    x = torch.randn(BATCH, INPUTS)
    layer.transposed()(layer(x))
    assert [weight.data_ptr() for weight in by_torch] == [layer.values.data_ptr()] * 2


def test_all_derivatives() -> None:
    t = st.Topology.from_mask(torch.ones(OUTPUTS, INPUTS))
    shapes = (BATCH, INPUTS), (t.nnz,), (OUTPUTS,)
    operands = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def product(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return st.ops.linear(x, t, values, bias)

    assert gradcheck(product, operands, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(product, operands, check_batched_grad=True)


def test_sparse_gradients_stay_sparse() -> None:
    layer = st.nn.SparseLinear(INPUTS, OUTPUTS, density=1.0, sparse_grad=True)
    layer(one_hot(2)).sum().backward()
    assert layer.values.grad is not None
    assert layer.values.grad.layout is torch.sparse_coo
    assert layer.topology.col[layer.values.grad.coalesce().indices()[0]].tolist() == [2] * OUTPUTS


@pytest.mark.parametrize("shape", [(BATCH, INPUTS), (2, BATCH, INPUTS)])
def test_feature_major_inputs_give_feature_major_results(shape: tuple[int, ...]) -> None:
    layer = st.nn.SparseLinear(INPUTS, OUTPUTS, density=1.0)
    x = torch.randn(shape)
    y = layer(st.ops.feature_major(x))
    assert y.stride(-1) == x.numel() // INPUTS
    torch.testing.assert_close(y, layer(x))


@pytest.mark.parametrize("for_x", [False, True])
def test_edges_that_change_after_the_forward_pass(for_x: bool) -> None:
    layer = st.nn.SparseLinear(INPUTS, OUTPUTS, density=1.0)
    y = layer(torch.randn(BATCH, INPUTS, requires_grad=for_x))
    t = st.patterns.uniform((OUTPUTS, INPUTS), 0.5)
    layer.replace_edges(t, torch.ones(t.nnz))
    with pytest.raises(RuntimeError, match="modified by an inplace" if for_x else "expected 15 values, got 8"):
        y.sum().backward()
    assert layer.values.grad is None
