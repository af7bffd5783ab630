"""Initial weights of edge sets, by the fans of each edge, truncated, and by the user's own rules."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_init import KINDS, check_normal, check_uniform, layer_of, weights
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain import init
from sparsetrain.nn import MaskedLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


SCALED = ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"]
RULES: dict[str, Callable[..., Any]] = {
    **{name: getattr(init, name) for name in [*SCALED, "normal_", "uniform_", "trunc_normal_", "zeros_", "ones_"]},
    **{f"{name} by edge": lambda a, name=name, **o: getattr(init, name)(a, fans="edge", **o) for name in SCALED},
    "constant_": lambda a, edges=None: init.constant_(a, 7.0, edges=edges),
    "custom_": lambda a, edges=None, **o: init.custom_(a, lambda t: t.cauchy_(**o), edges=edges),
}
FIXED = {"zeros_", "ones_", "constant_"}


def seed(name: str, number: int = 1) -> dict[str, Any]:
    return {} if name in FIXED else {"generator": torch.Generator().manual_seed(number)}


def hubs() -> st.Topology:
    """1,000 inputs, 30 outputs: output 0 has 800 edges, the others 20 each; input 0 goes everywhere."""
    generator = torch.Generator().manual_seed(4)
    mask = torch.zeros(30, 1000)
    for i in range(30):
        mask[i, torch.randperm(1000, generator=generator)[: 800 if i == 0 else 20]] = 1
    mask[:, 0] = 1
    return st.Topology.from_mask(mask)


# ---- edge sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_the_rest_stays_and_the_twin_is_drawn_alike(name: str) -> None:
    t = hubs()
    keep = torch.rand(t.nnz, generator=torch.Generator().manual_seed(2)) < 0.3
    some = st.Topology.from_coo(t.row[keep], t.col[keep], t.shape)
    sparse = init.constant_(SparseLinear(1000, 30, topology=t), 42.0)
    with torch.no_grad():
        before = sparse.values.clone()
    for edges in (some, keep, keep.nonzero().flatten()):
        init.constant_(sparse, 42.0)
        masked = MaskedLinear.from_sparse(sparse)
        for layer in (sparse, masked):
            assert RULES[name](layer, edges=edges, **seed(name)) is layer
        assert sparse.values[~keep].equal(before[~keep])
        assert sparse.values[keep].ne(42.0).all()
        assert masked.weight.equal(sparse.to_dense().weight)


@pytest.mark.parametrize("name", RULES)
def test_the_dense_layer(name: str) -> None:
    layer = init.constant_(nn.Linear(40, 30), 42.0)
    chosen = torch.zeros(30, 40, dtype=torch.bool)
    chosen[3, 5] = chosen[20, 39] = True
    RULES[name](layer, edges=st.Topology.from_mask(chosen), **seed(name))
    assert layer.weight[~chosen].eq(42.0).all()
    assert layer.weight[chosen].ne(42.0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_in_the_order_of_the_set(kind: str) -> None:
    layer = init.zeros_(layer_of(kind))
    init.custom_(layer, lambda t: torch.arange(1.0, 4.0), edges=[7, 0, 3])
    assert weights(layer)[:8].tolist() == [2.0, 0, 0, 3.0, 0, 0, 0, 1.0]
    assert weights(layer).count_nonzero() == 3
    init.ones_(layer, edges=[])
    assert weights(layer).sum() == 6.0


def test_xavier_on_one_set_and_42_on_another() -> None:
    layer = SparseLinear(200, 100, density=0.1)
    first = torch.arange(2000) < 1200
    init.xavier_uniform_(layer, edges=first)
    init.constant_(layer, 42, edges=~first)
    a = math.sqrt(6 / 30)  # the fans of the layer, not of the set
    check_uniform(layer.values.detach()[first], -a, a)
    assert layer.values[~first].eq(42).all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3, 4)], ids=str)
def test_layers_without_edges_and_on_the_meta_device(shape: tuple[int, int]) -> None:
    for rule in RULES.values():
        for edges in (None, []):
            rule(SparseLinear(*shape, density=0.0), edges=edges)
            rule(MaskedLinear(*shape, density=0.0), edges=edges)
        meta = SparseLinear(3, 4, density=0.5, device="meta")
        rule(meta, edges=[1])
        assert rule(meta).values.is_meta


def test_owed_steps_come_before() -> None:
    layer = SparseLinear(4, 2, density=1.0, sparse_grad=True)
    optimizer = st.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5, unused="dense")
    for x in (torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0, 1.0, 0, 0]])):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    init.constant_(layer, 3.0)
    optimizer.flush()
    assert layer.values.eq(3.0).all()


# ---- fans of each edge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("name", "options", "variance"),
    [
        ("xavier_normal_", {"gain": 3.0}, lambda i, o: 9 * 2 / (i + o)),
        ("xavier_uniform_", {}, lambda i, o: 2 / (i + o)),
        ("kaiming_normal_", {"nonlinearity": "relu"}, lambda i, o: 2 / i),
        ("kaiming_uniform_", {"mode": "fan_out", "a": 0.5}, lambda i, o: 2 / (1 + 0.5**2) / o),
    ],
)
def test_scales_are_those_of_the_formulas(
    name: str, options: dict[str, Any], variance: Callable[..., Tensor], transposed: bool
) -> None:
    """Every weight over what the same generator draws for a scale of one."""
    t = hubs()
    layer: Any = SparseLinear(1000, 30, topology=t, dtype=torch.float64)
    layer = layer.transposed() if transposed else layer
    mask = t.to_mask().double()
    fan_in, fan_out = mask.sum(1)[t.row.long()], mask.sum(0)[t.col.long()]
    if transposed:
        fan_in, fan_out = fan_out, fan_in
    getattr(init, name)(layer, **options, fans="edge", **seed(name))
    unit = torch.empty(t.nnz, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    if "normal" in name:
        unit.normal_(generator=generator)
    else:
        unit.uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)
    expected = unit * variance(fan_in, fan_out).sqrt()
    torch.testing.assert_close(layer.values.detach(), expected, rtol=1e-13, atol=1e-15)


def test_hubs_are_as_loud_as_others_by_edge_alone() -> None:
    """Outputs of 4,000 samples of a graph whose output 0 has 40 times the edges of the others."""
    layer = SparseLinear(1000, 30, bias=False, topology=hubs())
    x = torch.randn(4000, 1000)
    spread = {}
    for fans in ("mean", "edge"):
        stds = [init.kaiming_normal_(layer, nonlinearity="linear", fans=fans)(x).detach().std(0) for _ in range(20)]  # type: ignore[arg-type]
        spread[fans] = torch.stack(stds).square().mean(0).sqrt()
    assert spread["edge"].sub(1).abs().max() < 0.25  # 20 draws of 20 edges: five standard errors
    mean_fan = hubs().nnz / 30
    hub, others = spread["mean"][0], spread["mean"][1:].mean()
    assert hub.item() == pytest.approx(math.sqrt(800 / mean_fan), rel=0.05)
    assert others.item() == pytest.approx(math.sqrt(20.6 / mean_fan), rel=0.05)


@pytest.mark.parametrize("name", SCALED)
def test_neurons_with_equal_fans_make_no_difference(name: str) -> None:
    t = st.patterns.banded((30, 30), 30)
    layers = [SparseLinear(30, 30, topology=t, dtype=torch.float64) for _ in range(2)]
    for layer, fans in zip(layers, ("mean", "edge"), strict=True):
        getattr(init, name)(layer, fans=fans, **seed(name))
    torch.testing.assert_close(layers[0].values, layers[1].values, rtol=1e-12, atol=1e-13)
    dense = [getattr(init, name)(nn.Linear(30, 20), fans=fans, **seed(name)).weight for fans in ("mean", "edge")]
    assert dense[0].equal(dense[1])


# ---- truncated normal, custom rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_trunc_normal(kind: str) -> None:
    layer = layer_of(kind)
    numbers = weights(init.trunc_normal_(layer, 1.0, 2.0, -3.0, 5.0))
    assert -3.0 <= numbers.min() < -2.6
    assert 4.6 < numbers.max() <= 5.0
    n = numbers.numel()
    std = 2.0 * 0.879626  # of a normal distribution cut at two standard deviations
    assert abs(numbers.mean() - 1.0) < 5 * std / math.sqrt(n)
    assert numbers.std() == pytest.approx(std, rel=5 / math.sqrt(2 * n))


def rule_of_three(t: Tensor) -> None:
    """U(5, 10) with probability 1/4, 0 with 1/2, U(-10, -5) with 1/4."""
    t.uniform_(-10, 10)
    t *= t.abs() >= 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_custom_rule_in_three_parts(kind: str) -> None:
    layer = layer_of(kind)
    numbers = weights(init.custom_(layer, rule_of_three))
    n = numbers.numel()
    error = 5 * math.sqrt(0.25 / n)
    assert (numbers == 0).double().mean() == pytest.approx(0.5, abs=error)
    check_uniform(numbers[numbers > 0], 5.0, 10.0)
    check_uniform(numbers[numbers < 0], -10.0, -5.0)
    assert (numbers > 0).double().mean() == pytest.approx(0.25, abs=error)


def test_the_program_of_parameters() -> None:
    """normal(0, 0.01) with zero bias, a constant, Xavier on one layer and 42 on another, then set directly."""
    model = nn.Sequential(SparseLinear(100, 80, density=0.5), nn.ReLU(), SparseLinear(80, 10, density=0.5))

    def small(module: nn.Module) -> None:
        if isinstance(module, SparseLinear):
            init.normal_(module, 0.0, 0.01)
            nn.init.zeros_(module.bias)

    model.apply(small)
    check_normal(weights(model[0]), 0.0, 0.01)
    assert not model[0].bias.any()
    init.xavier_uniform_(model[0])
    init.constant_(model[2], 42)
    a = math.sqrt(6 / (50 + 40))
    check_uniform(weights(model[0]), -a, a)
    assert model[2].values.unique().tolist() == [42.0]
    init.custom_(model[0], rule_of_three)
    assert (weights(model[0]) == 0).double().mean() == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / 4000))
    with torch.no_grad():
        before = model[0].values.clone()
        model[0].values += 1
        row, col = int(model[0].topology.row[7]), int(model[0].topology.col[7])
        model[0].values[model[0].topology.position(row, col)] = 42
    assert model[0].values[7] == 42
    assert model[0].to_dense().weight[row, col] == 42
    assert model[0].values[8:].equal(before[8:] + 1)
    assert init.custom_(model[0], nn.init.ones_).values.sum() == 4000


def test_custom_rules_get_what_is_there_and_may_return_another_tensor() -> None:
    layer = init.constant_(SparseLinear(4, 3, density=1.0), 2.0)
    version = layer.values._version
    assert init.custom_(layer, lambda t: t * 3).values.unique().tolist() == [6.0]
    assert layer.values._version > version
    assert layer.values.is_leaf
    dense = init.custom_(nn.Linear(4, 4), nn.init.eye_)
    assert dense.weight.equal(torch.eye(4))


def fails(t: Tensor) -> None:
    t.zero_()
    raise KeyError("a rule of its own")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a: init.custom_(a, 3), TypeError, "init.custom_: expected a rule that can be called with a tensor, got 3"),
        (lambda a: init.custom_(a, lambda t: 3.0), TypeError, "expected the rule to return a tensor or None, got float."),
        (lambda a: init.custom_(a, lambda t: t[:2]), ValueError, "expected the rule to leave shape (12,), one number fo"),
        (lambda a: init.custom_(a, lambda t: t.sum(), [1]), ValueError, "to leave shape (1,), one number for each edge"),
        (lambda a: init.custom_(a, lambda t: t.resize_(3)), ValueError, "expected the rule to leave shape (12,)"),
        (lambda a: init.custom_(a, fails), KeyError, "a rule of its own"),
        (lambda a: init.custom_(a, nn.init.xavier_uniform_), ValueError, "Fan in and fan out can not be computed"),
        (lambda a: init.normal_(a, edges=[12]), IndexError, "init.normal_: expected edges from 0 to 11, got 12"),
        (lambda a: init.xavier_normal_(a, edges=[1, 1], fans="edge"), ValueError, "init.xavier_normal_: expected each ed"),
        (lambda a: init.zeros_(a, edges=st.Topology.from_mask([[1]])), ValueError, "as a Topology of shape (3, 4), got (1"),
        (lambda a: init.xavier_uniform_(a, fans="own"), ValueError, "expected fans to be one of ['mean', 'edge'], got 'own'"),
        (lambda a: init.kaiming_normal_(a, fans="own"), ValueError, "expected fans to be one of ['mean', 'edge'], got 'own'"),
        (lambda a: init.trunc_normal_(a, std=0.0), ValueError, "init.trunc_normal_: expected std > 0, got 0.0."),
        (lambda a: init.trunc_normal_(a, std=math.nan), ValueError, "init.trunc_normal_: expected std > 0, got nan."),
        (lambda a: init.trunc_normal_(a, a=1.0, b=1.0), ValueError, "expected a < b, got a = 1.0 and b = 1.0."),
    ],
)  # fmt: skip
def test_messages(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    layer = SparseLinear(4, 3, density=1.0)
    before = layer.values.detach().clone()
    with pytest.raises(error, match=re.escape(message)):
        call(layer)
    assert layer.values.equal(before)


def test_computed_weights_are_refused_with_what_to_do() -> None:
    layer = st.constrain.frozen(SparseLinear(4, 3, density=1.0))
    with pytest.raises(TypeError, match="Initialize before a layer is constrained"):
        init.xavier_normal_(layer, edges=[0])
    init.reset_bias_(layer)
