"""Initial weights: exact ranges and spreads from the real fans, on every kind of layer, in place."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsetrain import init
from sparsetrain.nn import MaskedLinear, SparseLinear

KINDS = ["sparse", "transposed", "masked", "dense"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def layer_of(kind: str) -> Any:
    """A layer of 200 inputs and 100 outputs whose mean fans are 20 in and 10 out; 200 and 100 if it is dense."""
    if kind == "dense":
        return nn.Linear(200, 100)
    if kind == "transposed":
        return SparseLinear(100, 200, density=0.1).transposed()
    return {"sparse": SparseLinear, "masked": MaskedLinear}[kind](200, 100, density=0.1)


def weights(layer: Any) -> Tensor:
    """The weights that exist."""
    if isinstance(layer, MaskedLinear):
        return layer.weight.detach()[layer.mask.bool()]
    return (layer.weight if isinstance(layer, nn.Linear) else layer.values).detach().flatten()


def check_uniform(numbers: Tensor, low: float, high: float) -> None:
    n = numbers.numel()
    middle, width = (low + high) / 2, high - low
    assert low <= numbers.min() < low + 0.02 * width
    assert high - 0.02 * width < numbers.max() <= high
    assert abs(numbers.mean() - middle) < 5 * width / math.sqrt(12 * n)  # five standard errors
    assert numbers.std() == pytest.approx(width / math.sqrt(12), rel=0.05)


def check_normal(numbers: Tensor, mean: float, std: float) -> None:
    n = numbers.numel()
    assert abs(numbers.mean() - mean) < 5 * std / math.sqrt(n)
    assert numbers.std() == pytest.approx(std, rel=5 / math.sqrt(2 * n))
    assert ((numbers - mean).abs() > 2 * std).double().mean() == pytest.approx(0.0455, abs=0.02)  # not uniform


def fans(kind: str) -> tuple[int, int]:
    return (200, 100) if kind == "dense" else (20, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_xavier(kind: str) -> None:
    both = sum(fans(kind))
    layer = layer_of(kind)
    assert init.xavier_uniform_(layer, gain=3.0) is layer
    a = 3.0 * math.sqrt(6 / both)
    check_uniform(weights(layer), -a, a)
    check_normal(weights(init.xavier_normal_(layer)), 0.0, math.sqrt(2 / both))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_kaiming(kind: str, mode: str) -> None:
    fan = fans(kind)[mode == "fan_out"]
    layer = layer_of(kind)
    b = math.sqrt(2.0) * math.sqrt(3 / fan)
    check_uniform(weights(init.kaiming_uniform_(layer, mode=mode, nonlinearity="relu")), -b, b)
    std = math.sqrt(2 / (1 + 0.5**2)) / math.sqrt(fan)
    check_normal(weights(init.kaiming_normal_(layer, a=0.5, mode=mode)), 0.0, std)


@pytest.mark.parametrize("rule", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"])
def test_a_dense_layer_gets_what_torch_gives_it(rule: str) -> None:
    layer = nn.Linear(30, 20)
    getattr(init, rule)(layer, generator=torch.Generator().manual_seed(5))
    expected = getattr(nn.init, rule)(torch.empty(20, 30), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(layer.weight.detach(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_rules(kind: str) -> None:
    layer = layer_of(kind)
    check_normal(weights(init.normal_(layer, 5.0, 0.01)), 5.0, 0.01)
    check_uniform(weights(init.uniform_(layer, 3.0, 4.0)), 3.0, 4.0)
    assert weights(init.constant_(layer, 42)).unique().tolist() == [42.0]
    assert weights(init.ones_(layer)).unique().tolist() == [1.0]
    assert weights(init.zeros_(layer)).unique().tolist() == [0.0]


@pytest.mark.parametrize("rule", ["xavier_uniform_", "kaiming_normal_", "normal_", "uniform_", "reset_"])
def test_a_masked_twin_starts_alike(rule: str) -> None:
    sparse = SparseLinear(20, 30, density=0.2)
    masked = MaskedLinear(20, 30, topology=sparse.topology)
    for layer in (sparse, masked):
        getattr(init, rule)(layer, generator=torch.Generator().manual_seed(1))
    assert sparse.to_dense().weight.equal(masked.weight)  # zeros between the edges included


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_and_without_a_graph(kind: str) -> None:
    layer = layer_of(kind)
    parameter = next(layer.parameters())
    version = parameter._version
    init.normal_(layer)
    assert next(layer.parameters()) is parameter
    assert parameter.is_leaf
    assert parameter._version > version  # a graph recorded before notices


def test_randomness() -> None:
    layer = SparseLinear(20, 30, density=0.2)
    drawn = [init.normal_(layer, generator=torch.Generator().manual_seed(seed)).values.clone() for seed in (1, 1, 2)]
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])
    torch.manual_seed(9)
    first = init.normal_(layer).values.clone()
    torch.manual_seed(9)
    assert init.normal_(layer).values.equal(first)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_draws_weights_and_bias_within_one_over_root_of_the_mean_fan_in(kind: str) -> None:
    layer = layer_of(kind)
    init.constant_(layer, 42)
    k = 1 / math.sqrt(fans(kind)[0])
    check_uniform(weights(init.reset_(layer)), -k, k)
    kept = weights(layer).clone()
    init.reset_bias_(layer)
    assert 0.9 * k < layer.bias.abs().max() <= k
    assert layer.bias.min() < 0 < layer.bias.max()
    assert weights(layer).equal(kept)


RULES: list[Callable[[Any], Any]] = [
    init.xavier_uniform_, init.xavier_normal_, init.kaiming_uniform_, init.kaiming_normal_, init.normal_, init.uniform_,
    init.zeros_, init.ones_, init.reset_, init.reset_bias_,
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3, 4)], ids=str)
def test_layers_without_edges_and_on_the_meta_device(rule: Callable[[Any], Any], shape: tuple[int, int]) -> None:
    rule(SparseLinear(*shape, density=0.0))
    rule(MaskedLinear(*shape, density=0.0))
    rule(SparseLinear(*shape, density=0.0, bias=False).transposed())
    assert rule(SparseLinear(*shape, density=0.5, device="meta")).values.is_meta
    assert rule(MaskedLinear(*shape, density=0.5, device="meta")).weight.is_meta


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: init.normal_(nn.Conv2d(1, 1, 1)),
            TypeError,
            "init.normal_: expected a layer over edges such as SparseLinear, a MaskedLinear or an nn.Linear, got Conv2d.",
        ),
        (lambda: init.zeros_(torch.ones(3)), TypeError, "init.zeros_: expected a layer over edges"),
        (lambda: init.normal_(nn.Linear(2, 2), std=-1.0), ValueError, "init.normal_: expected std >= 0, got -1.0."),
        (lambda: init.normal_(nn.Linear(2, 2), std=math.nan), ValueError, "expected std >= 0, got nan."),
        (lambda: init.uniform_(nn.Linear(2, 2), 2.0, 1.0), ValueError, "expected a <= b, got a = 2.0 and b = 1.0."),
        (lambda: init.xavier_normal_(nn.Linear(2, 2), gain=-1.0), ValueError, "expected gain >= 0, got -1.0."),
        (
            lambda: init.kaiming_normal_(nn.Linear(2, 2), mode="fan"),
            ValueError,
            "init.kaiming_normal_: expected mode to be one of ['fan_in', 'fan_out'], got 'fan'.",
        ),
        (lambda: init.kaiming_normal_(nn.Linear(2, 2), nonlinearity="x"), ValueError, "Unsupported nonlinearity x"),
    ],
)
def test_messages(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_computed_weights_are_refused() -> None:
    layer = SparseLinear(4, 4, density=0.5)
    nn.utils.parametrize.register_parametrization(layer, "values", nn.Tanh(), unsafe=True)
    with pytest.raises(TypeError, match="expected values of ParametrizedSparseLinear to be a Parameter"):
        init.normal_(layer)
