"""Products and dense blocks of rows by Triton's kernels, against torch twins and a dense oracle in float64."""

from typing import Any

import numpy as np
import pytest
import sparsetrain_triton as kernels
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as strategy
from sparsetrain_triton import dense_rows
from structures import Structure, structure_of, structures
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends.torch import products as torch_products
from sparsetrain.backends.triton import products
from sparsetrain.backends.triton.available import interpreted
from sparsetrain.dtypes import widened

DEVICE = "cpu" if interpreted() else "cuda"
# half a unit in the last place; to bfloat16 the interpreter rounds towards zero
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
UNIT[torch.bfloat16] *= 2 if interpreted() else 1
TYPES = [(torch.float64, torch.float64)]
TYPES += [(dtype, torch.float32) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
SUBNORMAL = 2.0**-24  # the smallest step of float16 near zero

# without shrinking, which in the interpreter takes minutes
some = settings(
    max_examples=15 if interpreted() else 50, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
types = strategy.sampled_from(TYPES)
indices = strategy.sampled_from([np.int32, np.int64])
batches = strategy.sampled_from([0, 1, 19, 130])
seeds = strategy.integers(0, 2**32 - 1)


@strategy.composite
def any_structure(draw: strategy.DrawFn) -> Structure:
    """Also with hubs: a full row and a full column."""
    s = draw(structures(24))
    mask = np.zeros((s.rows, s.columns), bool)
    mask[s.row, s.col] = True
    if mask.size and draw(strategy.booleans()):
        mask[draw(strategy.integers(0, s.rows - 1))] = mask[:, draw(strategy.integers(0, s.columns - 1))] = True
    return structure_of(mask, draw(indices))


class Case:
    """Tensors of one structure, and its matrix in float64."""

    def __init__(self, s: Structure, dtype: torch.dtype, values: torch.dtype, batch: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.crow, self.col = torch.from_numpy(s.crow).to(DEVICE), torch.from_numpy(s.col).to(DEVICE)
        self.values, self.bias = self.normal(values, s.col.size), self.normal(values, s.rows)
        self.x, self.dy = self.normal(dtype, s.columns, batch), self.normal(dtype, s.rows, batch)
        self.row = torch.from_numpy(s.row).to(DEVICE)
        self.matrix = torch.zeros(s.rows, s.columns, dtype=torch.float64, device=DEVICE)
        self.matrix[self.row, self.col.long()] = self.values.double()
        self.edges = max(np.diff(s.crow).max(initial=0), np.bincount(s.col).max(initial=0))

    def normal(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(dtype).to(DEVICE)


def within(got: Tensor, exact: Tensor, magnitudes: Tensor, terms: int, summed: torch.dtype) -> None:
    """As near as sums of so many terms, of these sums of magnitudes, are; rounded to the type of the result at the end."""
    bound = (terms + 2) * UNIT[summed] * magnitudes
    if got.dtype != summed:
        bound = bound + UNIT[got.dtype] * (exact.abs() + bound) + SUBNORMAL
    assert got.shape == exact.shape
    assert bool(((got.double() - exact).abs() <= bound).all())


def spoilt(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.full(shape, torch.nan, dtype=dtype or like.dtype, device=like.device)


cases = strategy.builds(
    lambda s, dtypes, batch, seed: Case(s, *dtypes, batch, seed), any_structure(), types, batches, seeds
)


@some
@given(cases, strategy.data())
def test_rows_expand_and_are_gathered(case: Case, data: strategy.DataObject) -> None:
    rows, columns = case.matrix.shape
    first = data.draw(strategy.integers(0, rows))
    last = data.draw(strategy.integers(first, rows))
    begin, end = int(case.crow[first]), int(case.crow[last])
    values = case.values.to(case.x.dtype).to(case.values.dtype)  # so that nothing is rounded
    out = spoilt(case.x, last - first, columns)
    kernels.expand(case.crow, case.col, values, first, last, out)
    dense = torch.zeros_like(case.matrix)
    dense[case.row, case.col.long()] = values.double()
    assert torch.equal(out.double(), dense[first:last])
    back = torch.full_like(values, 7)
    kernels.gather(case.crow, case.col, out, first, last, back)
    assert torch.equal(back[begin:end], values[begin:end])
    assert (back[:begin] == 7).all()
    assert (back[end:] == 7).all()
    turned = spoilt(case.x, columns, last - first).t()
    kernels.expand(case.crow, case.col, values, first, last, turned)
    assert torch.equal(turned, out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_expanding_rounds(dtype: torch.dtype) -> None:
    case = Case(structure_of(np.ones((3, 5), bool)), dtype, torch.float32, 1, 0)
    out = spoilt(case.x, 3, 5)
    kernels.expand(case.crow, case.col, case.values, 0, 3, out)
    within(out, case.matrix, case.matrix.abs(), 0, torch.float32)


@some
@given(cases, strategy.booleans(), strategy.booleans(), strategy.booleans())
def test_spmm(case: Case, transpose: bool, bias: bool, strided: bool) -> None:
    x, matrix = (case.dy, case.matrix.t()) if transpose else (case.x, case.matrix)
    crow, col, values, perm = case.crow, case.col, case.values, None
    if transpose:
        t = st.Topology(case.crow, case.col, tuple(case.matrix.shape))
        crow, col, perm = t.transposed
    beside = case.normal(values.dtype, matrix.shape[0]) if bias else None
    y = spoilt(x, *matrix.shape[:1], x.shape[1])
    if strided:
        x, y = x.t().contiguous().t(), y.t().contiguous().t()
    kernels.spmm(crow, col, values, x, y, beside, perm)
    exact, magnitudes = matrix @ x.double(), matrix.abs() @ x.double().abs()
    if beside is not None:
        exact, magnitudes = exact + beside.double()[:, None], magnitudes + beside.double().abs()[:, None]
    within(y, exact, magnitudes, case.edges, values.dtype)


@some
@given(cases, strategy.booleans())
def test_sddmm(case: Case, strided: bool) -> None:
    a, b = (case.dy.t().contiguous().t(), case.x.t().contiguous().t()) if strided else (case.dy, case.x)
    out = spoilt(case.values, case.col.numel())
    kernels.sddmm(case.crow, case.col, a, b, out)
    at = (case.row, case.col.long())
    exact, magnitudes = a.double() @ b.double().t(), a.double().abs() @ b.double().abs().t()
    within(out, exact[at], magnitudes[at], a.shape[1], out.dtype)


@some
@given(cases, strategy.sampled_from(["row-major", "feature-major", "expanded"]))
def test_the_backend_is_like_torchs(case: Case, layout: str) -> None:
    t = st.Topology(case.crow, case.col, tuple(case.matrix.shape))
    x, dy = (laid_out(tensor, layout) for tensor in (case.x, case.dy))
    y = products.spmm(t, case.values, x, case.bias, False)
    grad, dx, bias_grad = products.backward(t, case.values, x, dy, True)
    assert (y.dtype, dx.dtype, grad.dtype, bias_grad.dtype) == (x.dtype, x.dtype, *[case.values.dtype] * 2)
    twin_y = torch_products.spmm(t, case.values, widened(x), case.bias, False)
    twins = (twin_y, *torch_products.backward(t, case.values, widened(x), widened(dy), True))
    at, matrix = (case.row, case.col.long()), case.matrix
    exact = of_products(matrix, x.double(), dy.double(), case.bias.double())
    sizes = of_products(matrix.abs(), x.double().abs(), dy.double().abs(), case.bias.double().abs())
    for got, twin, oracle, size in zip((y, grad, dx, bias_grad), twins, exact, sizes, strict=True):
        oracle, size = (tensor[at] if got is grad else tensor for tensor in (oracle, size))
        within(got, oracle, size, case.edges + x.shape[1], case.values.dtype)
        within(got, twin.double(), 2 * size, case.edges + x.shape[1], case.values.dtype)
        assert layout == "expanded" or min(*x.shape, *dy.shape) < 2 or got.stride() == twin.stride()


def of_products(matrix: Tensor, x: Tensor, dy: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients, the values' as a whole matrix."""
    return matrix @ x + bias[:, None], dy @ x.t(), matrix.t() @ dy, dy.sum(1)


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "row-major":
        return x.t().contiguous().t()
    return x if layout == "feature-major" or not x.shape[1] else x[:, :1].expand(x.shape)


@pytest.mark.parametrize("programs", [1, 4096])
def test_rows_and_batches_of_more_than_one_program(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of edges that end within a row, batches that end within a block, and programs that take several blocks."""
    monkeypatch.setattr(dense_rows, "PROGRAMS", programs)
    mask = np.random.default_rng(0).random((20, 120)) < 0.5
    mask[3] = False
    case = Case(structure_of(mask), torch.float32, torch.float32, 600, 0)
    assert case.col.numel() > dense_rows.EDGES
    y = spoilt(case.x, 20, 600)
    kernels.spmm(case.crow, case.col, case.values, case.x, y, None)
    within(y, case.matrix @ case.x.double(), case.matrix.abs() @ case.x.double().abs(), case.edges, torch.float32)
    out = spoilt(case.x, 20, 120)
    kernels.expand(case.crow, case.col, case.values, 0, 20, out)
    assert torch.equal(out.double(), case.matrix)
    back: Any = spoilt(case.x, case.col.numel())
    kernels.gather(case.crow, case.col, out, 0, 20, back)
    assert torch.equal(back, case.values)
