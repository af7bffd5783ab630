"""The kernels of convolutions against their plain twins and torch's dense convolutions in float64."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import sparsetrain_kernels.convolution as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsetrain_kernels import half_precision
from sparsetrain_kernels.convolution import grids, reference
from sparsetrain_kernels.vectors import lanes
from structures import Array, Structure, structure_of
from test_kernels import NARROWED, close, dtypes, numbers

some = settings(max_examples=10 if NARROWED else 40, deadline=None)
DENSE = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


class Problem(NamedTuple):
    """A convolution: what torch's functions take, and the edges of its weight (outputs, channels / groups, taps)."""

    batch: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    weight: Structure

    @property
    def channels(self) -> int:
        return self.groups * self.weight.columns // int(np.prod(self.kernel))

    @property
    def out(self) -> tuple[int, ...]:
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(self.size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )

    def grid(self, dtype: type) -> Any:
        return kernels.grid(
            self.size, self.kernel, self.stride, self.dilation, self.padding, self.out, self.batch, self.channels,
            self.weight.rows, 8 * lanes(dtype), np.dtype(dtype).itemsize,
        )  # fmt: skip

    def edges(self) -> Any:
        w = self.weight
        return kernels.edges(w.crow, w.col, w.columns, int(np.prod(self.kernel)), self.groups)

    def operands(self, seed: int, dtype: type) -> tuple[Array, Array, Array, Array]:
        """values, bias, x, dy"""
        w = self.weight
        x = numbers(seed, self.batch, self.channels, int(np.prod(self.size)), dtype=dtype)
        dy = numbers(seed + 1, self.batch, w.rows, int(np.prod(self.out)), dtype=dtype)
        return numbers(seed + 2, w.col.size, dtype=dtype), numbers(seed + 3, w.rows, dtype=dtype), x, dy

    def oracle(self, values: Array, bias: Array, x: Array, dy: Array) -> list[Array]:
        """y, dx and the gradients of values and bias by torch, in float64"""
        w = self.weight
        weight = torch.tensor(w.dense(values)).view(w.rows, -1, *self.kernel).requires_grad_()
        inputs = torch.tensor(x, dtype=torch.float64).view(self.batch, self.channels, *self.size).requires_grad_()
        y = DENSE[len(self.size)](
            inputs,
            weight,
            torch.tensor(bias, dtype=torch.float64),
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )
        y.backward(torch.tensor(dy, dtype=torch.float64).view_as(y))  # type: ignore[no-untyped-call]
        assert inputs.grad is not None
        assert weight.grad is not None
        grad = weight.grad.view(w.rows, -1).numpy()[w.row, w.col]
        return [
            y.detach().numpy().reshape(dy.shape),
            inputs.grad.numpy().reshape(x.shape),
            grad,
            dy.astype(float).sum((0, 2)),
        ]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Any convolution of one to three dimensions whose kernel fits, with any edges."""
    dimensions = draw(st.integers(1, 3))

    def each(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, most), min_size=dimensions, max_size=dimensions)))

    kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 2), each(0, 3)
    least = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = tuple(max(1, n) + extra for n, extra in zip(least, each(0, 22 // dimensions**2), strict=True))
    groups, batch = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([0, 1, 2, 5, 23]))
    outputs, channels = groups * draw(st.integers(1, 4)), draw(st.integers(1, 4))
    density, seed = draw(st.sampled_from([0.0, 0.2, 0.6, 1.0])), draw(st.integers(0, 2**31))
    mask = np.random.default_rng(seed).random((outputs, channels * int(np.prod(kernel)))) < density
    weight = structure_of(mask)
    return Problem(batch, size, kernel, stride, padding, dilation, groups, weight)


def run(
    module: Any, p: Problem, values: Array, bias: Array | None, x: Array, dy: Array, threads: int = 1
) -> list[Array]:
    g, e = p.grid(values.dtype.type), p.edges()
    by_input = kernels.edges_by_input(e, g.phase, g.layout.phases)
    y, dx = np.full(dy.shape, 77, dy.dtype), np.zeros_like(x)
    grad = np.full(values.size, np.nan, values.dtype)
    module.forward(e, g, values, x, y, bias, threads)
    bias_grad = None if bias is None else np.full(bias.size, np.nan, values.dtype)
    module.backward(by_input, g, values, x, dy, dx, grad, bias_grad, threads)
    return [y, dx, grad] + ([] if bias_grad is None else [bias_grad])


@some
@given(problems(), dtypes, st.integers(0, 2**31))
def test_both_passes(p: Problem, dtype: type, seed: int) -> None:
    operands = p.operands(seed, dtype)
    exact = p.oracle(*operands)
    magnitudes = p.oracle(*map(np.abs, operands))
    terms = max(p.weight.columns, p.weight.rows * int(np.prod(p.kernel)), p.batch * int(np.prod(p.out)))
    for module in (kernels, reference):
        for got, right, magnitude in zip(run(module, p, *operands), exact, magnitudes, strict=True):
            close(got, right, magnitude, terms)


def large(stride: int = 1, batch: int = 9) -> Problem:
    """Several groups of images, spans, chunks of channels and segments, enough work for threads."""
    mask = np.random.default_rng(0).random((150, 70 * 9)) < 0.1
    return Problem(batch, (25, 25), (3, 3), (stride,) * 2, (1, 1), (1, 1), 1, structure_of(mask))


@pytest.mark.parametrize("stride", [1, 2])
def test_large_ones_in_spans(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "WINDOW", 1 << 15)
    grids.grid.cache_clear()
    p = large(stride)
    assert p.grid(np.float32).layout.spans > 1
    operands = p.operands(5, np.float32)
    exact, magnitudes = p.oracle(*operands), p.oracle(*map(np.abs, operands))
    results = [run(kernels, p, *operands, threads) for threads in (1, 2, 4)]
    for got, right, magnitude in zip(results[0], exact, magnitudes, strict=True):
        close(got, right, magnitude, 9 * 25 * 25)
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, another)
    grids.grid.cache_clear()


def test_half_precision_is_float32_rounded() -> None:
    half = half_precision.BFLOAT16  # the other differs in conversions alone: tests/test_half_conversions.py
    p = large(2, batch=3)
    values, bias, x, dy = p.operands(7, np.float32)
    x, dy = half_precision.rounded(x, half), half_precision.rounded(dy, half)
    wide = run(kernels, p, values, bias, half_precision.widened(x), half_precision.widened(dy))
    y, dx, grad, _ = run(kernels, p, values, bias, x, dy)
    np.testing.assert_array_equal(y, half_precision.rounded(wide[0], half))
    np.testing.assert_array_equal(dx, half_precision.rounded(wide[1], half))
    np.testing.assert_array_equal(grad, wide[2])


def test_long_indices_change_nothing() -> None:
    p = large(1, batch=2)
    w = p.weight
    operands = p.operands(11, np.float32)
    long = p._replace(weight=w._replace(crow=w.crow.astype(np.int64), col=w.col.astype(np.int64)))
    for one, another in zip(run(kernels, p, *operands), run(kernels, long, *operands), strict=True):
        np.testing.assert_array_equal(one, another)


def test_nothing_that_is_not_stored_contributes() -> None:
    p = large(1, batch=2)
    values, bias, x, dy = p.operands(1, np.float32)
    x[0, p.weight.col[0] // 9, :] = np.inf
    y, *_ = run(kernels, p, values, bias, x, dy)
    reading = np.unique(p.weight.row[p.weight.col // 9 == p.weight.col[0] // 9])
    others = np.setdiff1d(np.arange(150), reading)
    assert not np.isfinite(y[0, reading]).all()
    assert np.isfinite(y[0, others]).all()
    assert np.isfinite(y[1]).all()


def test_a_frozen_input_has_no_gradient() -> None:
    p = large(1, batch=3)
    values, bias, x, dy = p.operands(3, np.float32)
    with_dx = run(kernels, p, values, bias, x, dy)
    g, grad = p.grid(np.float32), np.full(values.size, np.nan, np.float32)
    kernels.backward(kernels.edges_by_input(p.edges(), g.phase, g.layout.phases), g, values, x, dy, None, grad)
    np.testing.assert_array_equal(grad, with_dx[2])
