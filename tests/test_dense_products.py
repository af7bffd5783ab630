"""Dense products by oneDNN: float64's numbers for every shape and stride, and only where it is the faster."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hyp
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.backends import dense_products
from sparsetrain.backends.dense_products import FEWEST, LEAST, dense_product, fastest_precision

onednn_is_faster = dense_products.onednn_is_faster.__wrapped__
HALF_UNIT = 2.0**-24  # the relative error of a float32 operation
TOLERANCE = 2e-6  # of the largest magnitude: sums of at most some hundred float32 products


@pytest.fixture(autouse=True, scope="module")
def onednn_everywhere() -> Iterator[None]:
    """As on a processor of AMD's, and for the smallest products."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_products, "onednn_is_faster", lambda: True)
        patch.setattr(dense_products, "FEWEST", 1)
        patch.setattr(dense_products, "LEAST", 1)
        yield


def laid_out(shape: tuple[int, int], layout: str) -> Tensor:
    """A matrix of this shape: whole, a transposed view, a part of one, with gaps, repeated, or lying upon itself."""
    rows, columns = shape
    if layout == "transposed":
        return torch.randn(columns, rows).t()
    if layout == "gaps":
        return torch.randn(rows, 2 * columns + 3)[:, 3::2]
    if layout == "part":
        return torch.randn(rows + 2, columns + 5)[1:-1, 2:-3]
    if layout == "upon itself":
        return torch.randn(rows + columns - 1).unfold(0, columns, 1)
    if layout == "repeated":
        return torch.randn(rows, 1).expand(shape)
    return torch.randn(shape)


def onednn_calls(x: Tensor, weight: Tensor) -> int:
    with torch.profiler.profile() as profile:
        dense_product(x, weight)
    return sum("mkldnn::_linear_pointwise" in event.name for event in profile.events())


layouts = hyp.sampled_from(["whole", "transposed", "part", "gaps", "repeated", "upon itself"])
biases = hyp.sampled_from(["none", "whole", "column", "one number"])


@settings(max_examples=150, deadline=None)
@given(batch=hyp.integers(1, 40), inputs=hyp.integers(1, 70), outputs=hyp.integers(1, 70), of_x=layouts,
       of_weight=layouts, of_bias=biases)  # fmt: skip
def test_products_are_those_of_float64(
    batch: int, inputs: int, outputs: int, of_x: str, of_weight: str, of_bias: str
) -> None:
    x, weight = laid_out((batch, inputs), of_x), laid_out((outputs, inputs), of_weight)
    bias = {
        "none": None, "whole": torch.randn(outputs), "column": torch.randn(outputs, 3)[:, 1],
        "one number": torch.randn(1).expand(outputs),
    }[of_bias]  # fmt: skip
    expected = nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = dense_product(x, weight, bias)
    assert got.shape == (batch, outputs)
    assert got.dtype is torch.float32
    size = nn.functional.linear(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs())
    assert bool(((got - expected).abs() <= (inputs + 1) * HALF_UNIT * size).all())


def test_numbers_that_are_not_finite_go_through() -> None:
    x, weight = torch.randn(9, 20), torch.randn(4, 20)
    x[2, 3], x[5, 1] = float("nan"), float("inf")
    assert torch.equal(dense_product(x, weight).isnan().any(1).nonzero().flatten(), torch.tensor([2]))
    assert dense_product(x, weight)[5].isinf().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(9, 20, dtype=dtype), torch.randn(4, 20, dtype=dtype)
    assert torch.equal(dense_product(x, weight), nn.functional.linear(x, weight))


@pytest.mark.parametrize(("batch", "features", "calls"), [(FEWEST, 1024, 1), (FEWEST - 1, 2048, 0), (64, 128, 0)])
def test_only_large_products_are_taken_from_torch(
    batch: int, features: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_products, "FEWEST", FEWEST)
    monkeypatch.setattr(dense_products, "LEAST", LEAST)
    x, weight = torch.randn(batch, features), torch.randn(features, features)
    assert onednn_calls(x, weight) == calls


def test_what_does_not_suit_is_left_to_torch() -> None:
    x, weight = torch.randn(64, 300), torch.randn(200, 300)
    for shape in ((1,), (1, 200), (64, 200)):  # which torch broadcasts
        bias = torch.randn(shape)
        torch.testing.assert_close(dense_product(x, weight, bias), x @ weight.t() + bias)
    with pytest.raises(RuntimeError, match="must match the existing size"):
        dense_product(x, weight, torch.randn(7))


def test_who_switches_onednn_off_has_torch() -> None:
    x, weight = torch.randn(64, 300), torch.randn(200, 300)
    assert onednn_calls(x, weight) == 1
    torch._C._set_mkldnn_enabled(False)  # torch.backends.mkldnn.flags warns of Intel's GPUs
    try:
        assert onednn_calls(x, weight) == 0
    finally:
        torch._C._set_mkldnn_enabled(True)


@pytest.mark.parametrize(
    ("name", "avx512", "faster"),
    [("znver4", True, True), ("znver5", True, True), ("znver3", False, False), ("sapphirerapids", True, False)],
)
def test_only_wide_processors_of_amd_use_it(
    name: str, avx512: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_products.binding, "get_host_cpu_name", lambda: name)
    monkeypatch.setattr(dense_products.binding, "get_host_cpu_features", lambda: {"avx512f": avx512})
    assert onednn_is_faster() is faster
    monkeypatch.setattr(dense_products, "onednn_is_faster", onednn_is_faster)
    assert fastest_precision() == ("medium" if faster else "highest")


def test_a_delta_layer_has_the_gradients_of_a_dense_one() -> None:
    linear = nn.Linear(60, 50)
    layer = st.nn.SparseDeltaLinear(linear, st.patterns.uniform((50, 60), 0.05))
    with torch.no_grad():
        layer.values.normal_()
    t = layer.topology
    delta = torch.zeros(50, 60, dtype=torch.float64)
    delta[t.row.long(), t.col.long()] = layer.values.detach().double()
    delta.requires_grad_()
    x = torch.randn(30, 60, requires_grad=True)
    twin_x = x.detach().double().requires_grad_()
    y = layer(x)
    expected = nn.functional.linear(twin_x, linear.weight.double() + delta, linear.bias.double())
    dy = torch.randn_like(y)
    with torch.profiler.profile() as profile:
        layer(x)
        y.backward(dy)
    assert sum("mkldnn::_linear_pointwise" in event.name for event in profile.events()) == 2
    expected.backward(dy.double())
    assert delta.grad is not None
    pairs = [(y, expected), (x.grad, twin_x.grad), (layer.values.grad, delta.grad[t.row.long(), t.col.long()])]
    for got, want in pairs:
        assert got is not None
        assert want is not None
        assert float((got - want).detach().abs().max()) <= TOLERANCE * float(want.detach().abs().max())
