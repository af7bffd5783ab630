"""Activations of which the largest magnitudes of each row stay."""

import math

import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from sparsetrain_kernels import reference
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.ops import abs_topk


def plain(x: Tensor, k: int) -> Tensor:
    """Row by row, by sorting."""
    sizes = x.detach().abs().nan_to_num(nan=math.inf)
    return torch.where(sizes >= sizes.sort(-1).values[..., -k, None], x, 0)


@settings(deadline=None, max_examples=100)
@given(some.data(), some.sampled_from([np.float32, np.float64]))
def test_the_kernels_are_their_plain_twin(data: some.DataObject, dtype: type) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
    numbers = some.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-42, 3.0])
    x = data.draw(arrays.arrays(dtype, shape, elements=numbers | some.floats(width=32)))
    count = data.draw(some.integers(1, shape[1]))
    others = np.random.default_rng(0).normal(size=shape).astype(dtype)
    for of in (x, others):
        got = kernels.reaching(x, kernels.limits(x, count), of)
        np.testing.assert_array_equal(got, reference.reaching(x, count, of))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (3, 33), (2, 3, 100), (700, 257)])
def test_the_largest_stay(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype).requires_grad_()
    for k in (1, shape[-1] // 4 + 1, shape[-1]):
        y = abs_topk(x, k)
        torch.testing.assert_close(y, plain(x, k), rtol=0, atol=0)
        assert y.dtype == dtype
        dy = torch.randn(shape).to(dtype)
        (dx,) = torch.autograd.grad(y, x, dy)
        torch.testing.assert_close(dx, torch.where(plain(x, k) != 0, dy, 0), rtol=0, atol=0)


def test_threads_strides_and_rows_of_equal_numbers() -> None:
    x = torch.randn(3000, 160).t().reshape(160, 30, 100).transpose(0, 1)
    threads = torch.get_num_threads()
    try:
        both = []
        for number in (1, 2):
            torch.set_num_threads(number)
            both.append(abs_topk(x, 30))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*both)
    assert torch.equal(both[0], plain(x, 30))
    equal = torch.tensor([[2.0, -2.0, 1.0, 2.0], [0.0, 0.0, -0.0, 1.0]])
    assert torch.equal(abs_topk(equal, 2), torch.tensor([[2.0, -2.0, 0.0, 2.0], [0.0, 0.0, 0.0, 1.0]]))
    lost = abs_topk(torch.tensor([[math.nan, math.inf, 1.0, -2.0]]), 1)
    assert lost[0, 0].isnan()
    assert torch.equal(lost[0, 1:], torch.zeros(3))


def test_every_derivative() -> None:
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        return abs_topk(x, 3).pow(3)

    assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, x)
    each = torch.func.vmap(torch.func.grad(lambda row: f(row).sum()))(x.detach())
    torch.testing.assert_close(each, torch.autograd.grad(f(x).sum(), x)[0])


def test_graphs_other_layouts_and_a_network() -> None:
    network = nn.Sequential(nn.Linear(6, 9), Largest(), nn.Linear(9, 2))
    x = torch.randn(4, 6)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))
    network(x).sum().backward()
    assert network[0].weight.grad.count_nonzero(1).bool().any()
    z = torch.randn(3, 5, dtype=torch.complex64).conj().imag  # a negated view
    assert torch.equal(abs_topk(z, 2), plain(z, 2))
    assert abs_topk(torch.empty(0, 4), 2).shape == (0, 4)
    assert abs_topk(x.to("meta"), 2).shape == x.shape


class Largest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return abs_topk(x, 3)


def test_an_input_that_changes_before_backward_is_noticed() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    inner = x * 1
    y = st.ops.abs_topk(inner, 3)
    inner.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(("x", "k", "error", "words"), [
    (torch.ones(2, 3), 0, ValueError, "from 1 to the 3 features of x, got 0"),
    (torch.ones(2, 3), 4, ValueError, "from 1 to the 3 features of x, got 4"),
    (torch.tensor(1.0), 1, ValueError, "got a scalar"),
    (torch.ones(2, 3), 0.5, TypeError, "expected k as an integer, got float"),
    (torch.ones(2, 3), True, TypeError, "expected k as an integer, got bool"),
    (torch.ones(2, 3, dtype=torch.int64), 1, TypeError, "floating-point numbers, got torch.int64"),
    (torch.ones(2, 3, dtype=torch.complex64), 1, TypeError, "floating-point numbers, got torch.complex64"),
], ids=["none", "too many", "scalar", "part", "boolean", "integers", "complex"])  # fmt: skip
def test_bad_input(x: Tensor, k: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        abs_topk(x, k)
