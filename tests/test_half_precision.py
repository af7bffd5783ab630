"""Half precision beside float32 values: what float32 gives for the same numbers, rounded once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as hyp
from sparsetrain_kernels import reference
from sparsetrain_kernels.half_precision import BFLOAT16, FLOAT16, rounded, widened
from sparsetrain_kernels.narrow import NARROW
from sparsetrain_kernels.vectors import lanes
from sparsetrain_kernels.width import MOST_VECTORS
from structures import LAYOUTS, Array, Structure, laid_out, structure_of, structures
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends.layout import is_feature_major
from sparsetrain.backends.numba import products

FRACTION = {FLOAT16: 10, BFLOAT16: 7}  # bits after the point
LEAST = {FLOAT16: -24, BFLOAT16: -133}  # the power of two of the smallest subnormal
UNIT = 1.2e-7  # float32's: an error for each term of a sum

some = settings(max_examples=30, deadline=None)
halves = hyp.sampled_from([FLOAT16, BFLOAT16])
layouts = hyp.sampled_from(LAYOUTS)
seeds = hyp.integers(0, 2**32 - 1)
FULL = MOST_VECTORS * lanes(np.float32)  # samples of the widest tile
sizes = hyp.sampled_from([1, 2, NARROW, NARROW + 1, FULL, 2 * FULL - 3])


def numbers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def half(seed: int, shape: tuple[int, int], dtype: Any, layout: str) -> Array:
    return laid_out(rounded(numbers(seed, *shape), dtype), layout)


def close(got: Array, exact: Array, magnitude: Array, terms: int) -> None:
    """Within float32's error of a sum of so many terms and, in half precision, half a unit in the last place."""
    bound = (terms + 2) * UNIT * magnitude
    if got.dtype in FRACTION:
        with np.errstate(divide="ignore"):
            power = np.floor(np.log2(np.abs(exact) + bound)) - FRACTION[got.dtype]
        bound = bound + np.exp2(np.maximum(power, LEAST[got.dtype]) - 1)
    assert got.shape == exact.shape
    assert (np.abs(widened(got) - exact) <= bound).all()


@some
@given(structures(), sizes, halves, layouts, layouts, hyp.booleans(), seeds)
def test_spmm(s: Structure, batch: int, dtype: Any, layout: str, out: str, with_bias: bool, seed: int) -> None:
    values, bias = numbers(seed, s.col.size), numbers(seed + 1, s.rows) if with_bias else None
    x, plan = half(seed + 2, (s.columns, batch), dtype, layout), kernels.plan(s.crow, s.col, s.columns)
    y, twin = (laid_out(np.full((s.rows, batch), -1).astype(dtype), out) for _ in range(2))  # of NaN
    wide = np.full((s.rows, batch), np.nan, np.float32)
    kernels.spmm(plan, values, x, y, bias)
    kernels.spmm(plan, values, widened(x), wide, bias)
    np.testing.assert_array_equal(y, rounded(wide, dtype))
    reference.spmm(plan, values, x, twin, bias)
    dense, shift = s.dense(values), 0 if bias is None else bias.astype(np.float64)[:, None]
    exact, magnitude = dense @ widened(x) + shift, np.abs(dense) @ np.abs(widened(x)) + np.abs(shift)
    close(y, exact, magnitude, s.columns)
    close(twin, exact, magnitude, s.columns)


@some
@given(structures(), sizes, halves, layouts, layouts, seeds)
def test_gradients(s: Structure, batch: int, dtype: Any, layout_x: str, layout_dy: str, seed: int) -> None:
    values = numbers(seed, s.col.size)
    x, dy = half(seed + 1, (s.columns, batch), dtype, layout_x), half(seed + 2, (s.rows, batch), dtype, layout_dy)
    crow_t, col_t, perm = kernels.transpose(s.crow, s.col, s.columns)
    plan, plan_t, dense = kernels.plan(s.crow, s.col, s.columns), kernels.plan(crow_t, col_t, s.rows), s.dense(values)
    wide_x, wide_dy = widened(x), widened(dy)
    exact = (wide_dy.astype(np.float64) @ wide_x.T)[s.row, s.col]
    magnitude = (np.abs(wide_dy).astype(np.float64) @ np.abs(wide_x.T))[s.row, s.col]
    sums, sizes_of = wide_dy.sum(1, dtype=np.float64), np.abs(wide_dy).sum(1, dtype=np.float64)
    found = []
    for module, a, b in ((kernels, dy, x), (kernels, wide_dy, wide_x), (reference, dy, x)):
        dx = laid_out(np.zeros(b.shape, b.dtype), layout_x)
        out, grad, bias_grad = (np.full(n, np.nan, np.float32) for n in (s.col.size, s.col.size, s.rows))
        module.backward(plan_t, perm, values, b, a, dx, grad, bias_grad)
        module.sddmm(plan, a, b, out)
        found.append((dx if dx.dtype == dtype else rounded(dx, dtype), grad, bias_grad, out))
        close(dx, dense.T @ wide_dy, np.abs(dense.T) @ np.abs(wide_dy), s.rows)
        close(grad, exact, magnitude, batch)
        close(out, exact, magnitude, batch)
        close(bias_grad, sums, sizes_of, batch)
    for got, expected in zip(found[0], found[1], strict=True):
        np.testing.assert_array_equal(got, expected)


@some
@given(hyp.integers(0, 40), hyp.sampled_from([0, 1, 5]), halves, layouts, seeds)
def test_used(features: int, batch: int, dtype: Any, layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    zeros, tiny = (0, 0x8000), (1, 0x8001, 0x7FFF)  # subnormals are not zero
    x = rng.choice([*zeros, *tiny], (features, batch), p=[0.5, 0.44, 0.02, 0.02, 0.02]).astype(np.uint16).view(dtype)
    np.testing.assert_array_equal(kernels.used(laid_out(x, layout)), reference.used(x))
    np.testing.assert_array_equal(kernels.used(x), (widened(x) != 0).any(1))


def test_int64_indices() -> None:
    """Gathered: tiles of half precision are read by float32's loops, which tests/test_kernels.py shows for both."""
    found, batch = [], 1
    for index in (np.int32, np.int64):
        s = structure_of(np.random.default_rng(0).random((30, 40)) < 0.3, index)
        values, x, dy = (
            numbers(0, s.col.size),
            half(1, (40, batch), BFLOAT16, "row-major"),
            half(2, (30, batch), BFLOAT16, "row-major"),
        )
        crow_t, col_t, perm = kernels.transpose(s.crow, s.col, 40)
        y, dx, out, grad = np.empty_like(dy), np.empty_like(x), np.empty_like(values), np.empty_like(values)
        kernels.spmm(kernels.plan(s.crow, s.col, 40), values, x, y)
        kernels.sddmm(kernels.plan(s.crow, s.col, 40), dy, x, out)
        kernels.backward(kernels.plan(crow_t, col_t, 30), perm, values, x, dy, dx, grad)
        found.append((y, dx, out, grad))
    for narrow, wide in zip(*found, strict=True):
        np.testing.assert_array_equal(narrow, wide)


def test_what_float16_cannot_hold_is_infinite() -> None:
    s, y = structure_of(np.ones((1, 4), bool)), np.empty((1, 4), np.int16)
    x = np.full((4, 4), 30000, np.float16).view(np.int16)
    kernels.spmm(kernels.plan(s.crow, s.col, 4), np.ones(4, np.float32), x, y)
    assert np.isposinf(widened(y)).all()
    kernels.spmm(kernels.plan(s.crow, s.col, 4), np.array([1, 1, -1, 0.5], np.float32), x, y)
    np.testing.assert_array_equal(widened(y), 45000 - 45000 % 32)  # sums are float32: no part of one overflows


@pytest.mark.parametrize("batch", [1, FULL])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16])
def test_nan_and_infinity_propagate(dtype: Any, batch: int) -> None:
    """To where they do in float32: the results of edges that are stored."""
    s = structure_of(np.random.default_rng(0).random((30, 40)) < 0.3)
    values, x, found = numbers(0, s.col.size), numbers(1, 40, batch), []
    x[3, 0], x[7, batch // 2], x[20, batch - 1] = np.nan, np.inf, -np.inf
    for operand in (rounded(x, dtype), widened(rounded(x, dtype))):
        y, out = np.empty((30, batch), operand.dtype), np.empty_like(values)
        kernels.spmm(kernels.plan(s.crow, s.col, 40), values, operand, y)
        kernels.sddmm(kernels.plan(s.crow, s.col, 40), operand[:30], operand, out)
        found.append((widened(y if y.dtype == dtype else rounded(y, dtype)), out))
    for got, expected in zip(*found, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert np.isnan(got).any()
        assert np.isinf(got).any()


TOPOLOGY = st.patterns.uniform((300, 420), 0.3, torch.Generator().manual_seed(0))
BATCH = 2 * FULL - 3


def tensor(features: int, dtype: torch.dtype, kind: str, seed: int) -> Tensor:
    """A matrix (features, batch) in half precision: plain, with gaps, repeated, shifted, or off by a byte in memory."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "repeated samples":
        return torch.randn(features, 1, generator=generator).to(dtype).expand(features, BATCH)
    if kind == "repeated features":
        return torch.randn(1, BATCH, generator=generator).to(dtype).expand(features, BATCH)
    x = torch.randn(BATCH, features, generator=generator).to(dtype)
    if kind == "gaps":
        wide = torch.full((2 * BATCH, 3 * features), float("nan"), dtype=dtype)
        wide[::2, 1::3] = x
        return wide[::2, 1::3].t()
    if kind == "unaligned":
        memory = bytearray(2 * x.numel() + 1)
        memory[1:] = x.view(torch.int16).numpy().tobytes()
        return torch.frombuffer(memory, dtype=dtype, offset=1).view(BATCH, features).t()
    return x.t() if kind == "row-major" else x.t().contiguous()


KINDS = ["row-major", "feature-major", "gaps", "repeated samples", "repeated features", "unaligned"]


def all_products(values: Tensor, x: Tensor, dy: Tensor, bias: Tensor) -> list[Tensor]:
    grad, dx, bias_grad = products.backward(TOPOLOGY, values, x, dy, True)
    assert bias_grad is not None
    y, plain = products.spmm(TOPOLOGY, values, x, bias, False), products.spmm(TOPOLOGY, values, dy, None, True)
    return [y, plain, dx, grad, bias_grad, products.sddmm(TOPOLOGY, dy, x)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So that kernels are compiled in one of their forms; results do not depend on it, as the test after these shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_of_tensors(dtype: torch.dtype, kind: str) -> None:
    values, bias = torch.randn(TOPOLOGY.nnz), torch.randn(300)
    x, dy = tensor(420, dtype, kind, 1), tensor(300, dtype, kind, 2)
    copies = x.clone(), dy.clone()
    found = all_products(values, x, dy, bias)
    wide = all_products(values, x.float(), dy.float(), bias)
    for got, expected, result in zip(found, wide, [dtype] * 3 + [torch.float32] * 3, strict=True):
        assert got.dtype is result
        assert torch.equal(got, expected.to(result))
    for got, source in zip(found, (x, dy, x), strict=False):
        assert is_feature_major(got) == is_feature_major(source)
    assert torch.equal(x, copies[0])
    assert torch.equal(dy, copies[1])
    assert torch.equal(products.used(x), products.used(x.float()))


@pytest.mark.parametrize("batch", [NARROW, BATCH])
def test_results_do_not_depend_on_threads(batch: int) -> None:
    values, bias, before = torch.randn(TOPOLOGY.nnz), torch.randn(300), torch.get_num_threads()
    x, dy = (tensor(features, torch.bfloat16, "row-major", 1)[:, :batch] for features in (420, 300))
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(all_products(values, x, dy, bias))
    finally:
        torch.set_num_threads(before)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (4, 3)])
def test_empty_operands(shape: tuple[int, int], dtype: torch.dtype) -> None:
    rows, columns = shape
    t = st.Topology([0] * (rows + 1), [], shape)
    for batch in (0, 2, 5):
        x, dy = (torch.ones(n, batch, dtype=dtype) for n in (columns, rows))
        bias = torch.arange(rows).float()
        y = products.spmm(t, torch.empty(0), x, bias, False)
        assert y.dtype is dtype
        assert torch.equal(y, bias[:, None].to(dtype).expand(rows, batch))
        grad, dx, bias_grad = products.backward(t, torch.empty(0), x, dy, True)
        assert bias_grad is not None
        assert (grad.dtype, dx.dtype, bias_grad.dtype) == (torch.float32, dtype, torch.float32)
        assert torch.equal(dx, torch.zeros(columns, batch, dtype=dtype))
        assert torch.equal(bias_grad, torch.full((rows,), float(batch)))
