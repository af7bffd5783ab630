"""Norms of stored weights against torch on dense float64 matrices: numbers, gradients, corners, extremes."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hypo
from structures import Structure, structures
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import sparsetrain as st
from sparsetrain import penalty
from sparsetrain.nn import MaskedLinear, SparseLinear

POWERS = [1, 1.0, 1.5, 2, 2.0, 3, 4.0, 7.5, 100, math.inf]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def leaf(*numbers: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, requires_grad=True)


@settings(deadline=None)
@given(structures(most=12), hypo.sampled_from(POWERS), hypo.integers(0, 2**32 - 1))
def test_norms_are_those_of_the_dense_matrix(structure: Structure, p: float, seed: int) -> None:
    t = st.Topology(structure.crow, structure.col, (structure.rows, structure.columns))
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(t.nnz, generator=generator) < 0.7
    layer = SparseLinear(t.shape[1], t.shape[0], topology=t, dtype=torch.float64)
    with torch.no_grad():
        layer.values.copy_(torch.randn(t.nnz, generator=generator, dtype=torch.float64))
    row, col = t.row[keep].long(), t.col[keep].long()
    values = layer.values.detach()[keep].clone().requires_grad_()
    dense = torch.zeros(t.shape, dtype=torch.float64).index_put((row, col), values)
    norm = penalty.lp(layer, p, edges=keep)
    expected = torch.linalg.vector_norm(dense, p) if dense.numel() else values.sum()
    torch.testing.assert_close(norm, expected, rtol=1e-13, atol=0)
    if values.numel():
        (expected_grad,) = torch.autograd.grad(expected, values)
        norm.backward()
        torch.testing.assert_close(layer.values.grad[keep], expected_grad, rtol=1e-12, atol=1e-15)
        assert not layer.values.grad[~keep].any()
    torch.testing.assert_close(penalty.l1(layer, keep), dense.abs().sum(), rtol=1e-14, atol=0)
    torch.testing.assert_close(penalty.l2(layer, keep), dense.square().sum() / 2, rtol=1e-14, atol=0)
    assert penalty.l0(layer, keep) == dense.count_nonzero()


@pytest.mark.parametrize("p", POWERS)
def test_derivatives(p: float) -> None:
    w = leaf(0.3, -1.2, 2.5, -0.7)
    assert gradcheck(lambda w: penalty.lp(w, p), w)
    assert gradgradcheck(lambda w: penalty.lp(w, p), w)
    assert gradgradcheck(penalty.l2, w)


@pytest.mark.parametrize("p", [2, 2.0, 3, 4])
def test_second_derivatives_at_zeros_are_those_of_the_formula(p: float) -> None:
    w = leaf(0.0, -1.2, 2.5)
    assert gradgradcheck(lambda w: penalty.lp(w, p), w)


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("numbers", [(0.0, 0.0), (0.0, 2.0, -1.0), (1e-300, 0.0), (5e-324, -5e-324)], ids=str)
def test_derivatives_are_finite_at_zeros(p: float, numbers: tuple[float, ...]) -> None:
    w = leaf(*numbers)
    norm = penalty.lp(w, p)
    unit = max(map(abs, numbers)) or 1.0
    torch.testing.assert_close(norm.detach(), torch.linalg.vector_norm(w.detach() / unit, p) * unit, rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(norm, w, create_graph=True)
    assert gradient.isfinite().all()
    assert gradient[w == 0].eq(0).all()
    if gradient.requires_grad and unit > 1e-300:  # or else the second derivative, 1 / unit, is beyond all numbers
        (second,) = torch.autograd.grad(gradient.sum(), w)
        assert not second.isnan().any()


@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_overflows_that_the_result_does_not(p: float, dtype: torch.dtype) -> None:
    large, small = torch.finfo(dtype).max / 4, torch.finfo(dtype).tiny
    for size in (large, small):
        w = torch.tensor([1.0, -0.5, 0.25], dtype=dtype) * size
        w.requires_grad_()
        norm = penalty.lp(w, p)
        expected = torch.linalg.vector_norm(torch.tensor([1.0, -0.5, 0.25], dtype=dtype), p) * size
        torch.testing.assert_close(norm.detach(), expected, rtol=1e-6 if dtype is torch.float32 else 1e-14, atol=0)
        norm.backward()
        assert w.grad is not None
        assert w.grad.isfinite().all()
        assert w.grad.count_nonzero() == (1 if p == math.inf else 3) or p == 100
    half = leaf(math.sqrt(torch.finfo(dtype).max) * 1.2, dtype=dtype)
    assert penalty.l2(half).isfinite()
    assert (half * half).isinf()


@pytest.mark.parametrize("p", [np.float32(2), np.int64(2)])
def test_powers_of_numpy(p: Any) -> None:
    assert penalty.lp(leaf(3.0, 4.0), p).item() == 5.0


def test_infinity_shares_its_gradient_between_ties() -> None:
    w = leaf(2.0, -2.0, 1.0)
    penalty.lp(w, math.inf).backward()
    assert w.grad is not None
    assert w.grad.tolist() == [0.5, -0.5, 0.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("p", POWERS)
def test_what_is_not_finite_stays_visible(p: float, bad: float) -> None:
    assert str(penalty.lp(leaf(1.0, bad), p).item()) == str(bad)
    assert penalty.l0(leaf(0.0, bad)) == 1


def test_halves_are_summed_in_float32() -> None:
    w = torch.full((100_000,), 1.0, dtype=torch.float16)
    assert penalty.l1(w).item() == 100_000.0
    assert penalty.lp(w, 2).dtype is torch.float32


def kinds() -> list[Any]:
    sparse = SparseLinear(6, 5, density=0.4)
    return [sparse, MaskedLinear.from_sparse(sparse), sparse.transposed()]


def test_every_kind_of_layer() -> None:
    for layer in kinds():
        sparse = kinds()[0] if layer is None else layer
        t = layer.topology
        values = layer.weight[layer.mask.bool()] if isinstance(layer, MaskedLinear) else sparse.values
        some = st.Topology.from_coo(t.row[::2], t.col[::2], t.shape)
        for edges, chosen in ((None, values), (some, values[::2]), ([3, 1], values[[3, 1]])):
            assert penalty.l1(layer, edges).item() == pytest.approx(chosen.abs().sum().item(), rel=1e-6)
    dense = nn.Linear(3, 2)
    mask = torch.tensor([[1, 0, 0], [0, 1, 1]])
    assert penalty.l2(dense, st.Topology.from_mask(mask)).item() == pytest.approx(
        ((dense.weight * mask).square().sum() / 2).item()
    )
    assert penalty.l0(dense) == 6


def test_masked_weights_that_do_not_count_are_left_out() -> None:
    layer = MaskedLinear(2, 2, mask=[[1, 0], [1, 1]])
    with torch.no_grad():
        layer.weight.fill_(3.0)
    penalty.l1(layer, [0, 2]).backward()
    assert penalty.l1(layer).item() == 9.0
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_l1_of_chosen_edges_while_all_train() -> None:
    """One SGD step in three forms, lambda 0.1: the loss's term, the subgradient by hand, and the dense twin."""
    torch.set_default_dtype(torch.float64)
    try:
        layer = SparseLinear(4, 3, density=0.5)
    finally:
        torch.set_default_dtype(torch.float32)
    chosen, x = [0, 2, 5], torch.randn(7, 4, dtype=torch.float64)
    before = layer.values.detach().clone()
    dense = layer.to_dense()
    (layer(x).square().mean() + 0.1 * penalty.l1(layer, chosen)).backward()
    row, col = layer.topology.row[chosen].long(), layer.topology.col[chosen].long()
    (dense(x).square().mean() + 0.1 * dense.weight[row, col].abs().sum()).backward()
    assert dense.weight.grad is not None
    expected = dense.weight.grad[layer.topology.row.long(), layer.topology.col.long()]
    torch.testing.assert_close(layer.values.grad, expected, rtol=1e-13, atol=1e-15)
    layer.zero_grad()
    layer(x).square().mean().backward()
    layer.values.grad[chosen] += 0.1 * before[chosen].sign()
    torch.testing.assert_close(layer.values.grad, expected, rtol=1e-13, atol=1e-15)


def test_owed_steps_are_made_before_values_are_read() -> None:
    layer = SparseLinear(4, 2, density=1.0, sparse_grad=True)
    optimizer = st.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5, unused="dense")
    for x in (torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 1.0, 0, 0]])):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    norm = penalty.l1(layer)
    optimizer.flush()
    assert norm.item() == layer.values.abs().sum().item()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: penalty.lp(w, 0.99), ValueError, "penalty.lp: expected p >= 1, got 0.99: below 1 it is no norm."),
        (lambda w: penalty.lp(w, -math.inf), ValueError, "penalty.lp: expected p >= 1, got -inf"),
        (lambda w: penalty.lp(w, math.nan), ValueError, "penalty.lp: expected p >= 1, got nan"),
        (lambda w: penalty.lp(w, "2"), TypeError, "penalty.lp: expected p to be a number, got '2'."),
        (lambda w: penalty.lp(w, True), TypeError, "penalty.lp: expected p to be a number, got True."),
        (lambda w: penalty.l1(w, [3]), IndexError, "penalty.l1: expected edges from 0 to 1, got 3 at position 0."),
        (lambda w: penalty.l2(w, [1, 1]), ValueError, "penalty.l2: expected each edge once, got 1 again"),
        (
            lambda w: penalty.l0(w, st.Topology.from_mask([[1, 1]])),
            TypeError,
            "penalty.l0: expected edges as integers or booleans, got a Topology",
        ),
        (lambda w: penalty.l1(nn.Conv2d(1, 1, 1)), TypeError, "penalty.l1: expected a layer over edges such as"),
        (lambda w: penalty.l1(None), TypeError, "penalty.l1: expected a layer over edges such as SparseLinear"),
        (lambda w: penalty.l1(torch.tensor([1])), TypeError, "expected floating-point values, got torch.int64."),
        (
            lambda w: penalty.l2(w.detach().to_sparse()),
            TypeError,
            "expected a dense tensor of values, got torch.sparse",
        ),
    ],
)
def test_messages(call: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(leaf(1.0, 2.0))


@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
@pytest.mark.parametrize("bad", [-0.1, math.nan, torch.tensor([0.1, -0.1])])
def test_optimizers_refuse_a_negative_lambda(kind: str, bad: Any) -> None:
    with pytest.raises(ValueError, match=f"{kind}: expected l1 >= 0, got "):
        getattr(st.optim, kind)([leaf(1.0, 2.0)], lr=0.1, l1=bad)
    with pytest.raises(ValueError, match="expected l1 >= 0"):
        getattr(st.optim, kind)([{"params": [leaf(1.0, 2.0)], "l1": bad}], lr=0.1)
    w = leaf(1.0, 2.0)
    optimizer = getattr(st.optim, kind)([w], lr=0.1)
    penalty.l1(w).backward()
    if not isinstance(bad, Tensor):
        optimizer.param_groups[0]["l1"] = bad
        with pytest.raises(ValueError, match="expected l1 >= 0"):
            optimizer.step()
        assert w.tolist() == [1.0, 2.0]
