"""Layers whose inputs and results are in half precision, beside float32 values: every kind, with and without autocast."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_comparison import setting
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.cli.network import KINDS, network

HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
UNIT = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
INPUTS, OUTPUTS, BATCH = 40, 30, 12

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "sparse": lambda: st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.2),
    "nearly dense": lambda: st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.95),
    "full": lambda: st.nn.SparseLinear(INPUTS, OUTPUTS, density=1.0),
    "sparse_grad": lambda: st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.2, sparse_grad=True),
    "transposed": lambda: st.nn.SparseLinear(OUTPUTS, INPUTS, density=0.2).transposed(),
    "delta": lambda: st.nn.SparseDeltaLinear(nn.Linear(INPUTS, OUTPUTS), st.patterns.uniform((OUTPUTS, INPUTS), 0.1)),
}


def rounded(half: torch.dtype) -> Tensor:
    return torch.randn(BATCH, INPUTS, generator=torch.Generator().manual_seed(0)).to(half)


def total(layer: Any) -> Tensor:
    """The weight in float64."""
    if isinstance(layer, st.nn.SparseDeltaLinear):
        return copy.deepcopy(layer).merge().weight.double()
    weight: Tensor = (layer.origin if hasattr(layer, "origin") else layer).to_dense().weight.detach().double()
    return weight.t() if hasattr(layer, "origin") else weight


@HALVES
@pytest.mark.parametrize("kind", LAYERS)
def test_results_are_half_and_values_are_not(kind: str, half: torch.dtype) -> None:
    torch.manual_seed(0)
    layer: Any = LAYERS[kind]()
    if kind == "delta":
        nn.init.normal_(layer.values)
    layer.to(half)
    assert layer.values.dtype is torch.float32
    x = rounded(half).requires_grad_()
    y = layer(x)
    assert y.dtype is half
    weight, twin = total(layer).requires_grad_(), x.detach().double().requires_grad_()
    bias = layer.linear.bias if kind == "delta" else layer.bias
    expected = nn.functional.linear(twin, weight, bias.detach().double())
    dy = torch.randn(y.shape).to(half)
    y.backward(dy)
    expected.backward(dy.double())
    unit = UNIT[half] * (3 if kind == "delta" else 1)  # the weight is half, and the two products are rounded apart
    torch.testing.assert_close(y.double(), expected, rtol=unit, atol=unit)
    torch.testing.assert_close(x.grad.double(), twin.grad, rtol=unit, atol=unit)
    t, of_values = layer.topology, layer.values.grad
    assert of_values.dtype is torch.float32
    at_edges = (weight.grad.t() if kind == "transposed" else weight.grad)[t.row.long(), t.col.long()]
    torch.testing.assert_close(of_values.to_dense().double(), at_edges, rtol=1e-5, atol=1e-5)  # sums in float32


@HALVES
def test_autocast_changes_nothing_about_the_types(half: torch.dtype) -> None:
    for density in (0.2, 0.95, 1.0):
        layer, x = st.nn.SparseLinear(INPUTS, OUTPUTS, density=density), rounded(half)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype is half
            wide = layer(x.float())
        assert wide.dtype is torch.float32
        torch.testing.assert_close(wide, layer(x.float()), rtol=1e-5, atol=1e-5)


@HALVES
def test_compiled_graphs_know_the_types(half: torch.dtype) -> None:
    layer, x = st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.2), rounded(half).requires_grad_()
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert y.dtype is half
    y.float().sum().backward()
    of_values, of_x = layer.values.grad, x.grad
    layer.values.grad = x.grad = None
    layer(x).float().sum().backward()
    torch.testing.assert_close(of_values, layer.values.grad)
    torch.testing.assert_close(of_x, x.grad)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, activation="gelu")
    return st.convert.sparsify(nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), 0.1)


@pytest.mark.parametrize("way", ["autocast", "to"])
def test_a_transformer_of_twelve_layers_trains(way: str) -> None:
    torch.manual_seed(0)
    model = transformer()
    x, target = torch.randn(4, 10, 32), torch.randn(4, 10, 32)
    if way == "to":
        model.to(torch.bfloat16)
        x, target = x.bfloat16(), target.bfloat16()
    optimizer = st.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "autocast"):
            y = model(x)
        loss = (y.float() - target.float()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    values = [module.values for module in model.modules() if isinstance(module, st.nn.SparseLinear)]
    assert len(values) == 72
    assert all(p.dtype is torch.float32 and p.grad is not None and p.grad.any() for p in values)
    assert all(optimizer.state[p]["exp_avg"].dtype is torch.float32 for p in values)
    assert losses[-1] < 0.9 * losses[0]


@HALVES
def test_tables_return_what_is_asked_for_and_stay_wide(half: torch.dtype) -> None:
    ids = torch.tensor([[1, 2], [2, 0]])
    for options in ({}, {"pool": "sum"}, {"pool": "max"}, {"padding_idx": 0}, {"columns": True}):
        table = st.nn.LookupTable(5, 3, **options).to(half)  # type: ignore[arg-type]
        y = table(ids)
        assert (y.dtype, table.weight.dtype) == (half, torch.float32)
        y.float().sum().backward()
        assert table.weight.grad is not None
        assert table.weight.grad.dtype is torch.float32
        st.optim.Adam([table.weight]).step()
    assert table.to("cpu")(ids).dtype is half
    assert copy.deepcopy(table)(ids).dtype is half
    assert table.float()(ids).dtype is torch.float32
    assert st.nn.LookupTable(5, 3, dtype=half)(ids).dtype is half


@HALVES
def test_layers_that_are_made_in_half_precision(half: torch.dtype) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(half)  # as from_pretrained does
    try:
        layer = st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.2)
    finally:
        torch.set_default_dtype(before)
    assert (layer.values.dtype, layer.bias.dtype) == (torch.float32, torch.float32)  # type: ignore[union-attr]
    model = nn.Sequential(nn.Linear(INPUTS, OUTPUTS), nn.ReLU(), nn.Linear(OUTPUTS, 4)).to(half)
    twin = copy.deepcopy(model)
    st.convert.sparsify(model, 1.0)
    torch.testing.assert_close(model(rounded(half)), twin(rounded(half)), rtol=4 * UNIT[half], atol=4 * UNIT[half])
    assert st.convert.densify(model)(rounded(half)).dtype is half


def test_the_networks_of_a_comparison_in_bfloat16() -> None:
    for kind in KINDS:
        model = network(kind, "forward", setting(dtype="bfloat16"))
        y = model(torch.rand(3, 784).bfloat16())
        assert y.dtype is torch.bfloat16
        y.float().sum().backward()
        kept = {p.dtype for p in model.parameters()}
        assert kept == {torch.float32 if kind == "sparse" else torch.bfloat16}


@HALVES
def test_edges_change_in_half_precision_as_in_float32(half: torch.dtype) -> None:
    """The factors of gradients are widened before rules compare them."""
    torch.manual_seed(0)
    layer, x = st.nn.SparseLinear(INPUTS, OUTPUTS, density=0.2), rounded(half)
    twin = copy.deepcopy(layer)
    changed = []
    for model, batch in ((layer, x), (twin, x.float())):
        optimizer = st.optim.Adam(model.parameters())
        schedule = st.evolve.Constant(interval=1, start=1, prune_fraction=0.3)
        evolver = st.evolve.Evolver(model, optimizer, st.evolve.RigL(), schedule)
        model(batch).float().sum().backward()
        optimizer.step()
        changed.append(evolver.step())
    assert all(change is not None for change in changed)
    assert layer.topology.digest == twin.topology.digest


@pytest.mark.parametrize(
    ("x", "values", "message"),
    [
        (
            torch.bfloat16,
            torch.bfloat16,
            "expected values in float32 or float64, got torch.bfloat16. Convert with .float()",
        ),
        (torch.bfloat16, torch.float64, "expected one dtype, got x torch.bfloat16, values torch.float64"),
        (torch.float32, torch.float64, "expected one dtype, got x torch.float32, values torch.float64"),
        (
            torch.float8_e4m3fn,
            torch.float32,
            "expected x in float32, float64, float16 or bfloat16, got torch.float8_e4m3fn",
        ),
        (torch.int64, torch.float32, "expected x in float32, float64, float16 or bfloat16, got torch.int64"),
    ],
)
def test_refused(x: torch.dtype, values: torch.dtype, message: str) -> None:
    t = st.Topology.from_mask(torch.eye(3))
    with pytest.raises(TypeError, match=f"linear: {message}"):
        st.ops.linear(torch.ones(2, 3).to(x), t, torch.ones(3, dtype=values))


@HALVES
def test_a_delta_layer_in_float32_takes_half_precision(half: torch.dtype) -> None:
    layer = LAYERS["delta"]()
    nn.init.normal_(layer.values)
    x, wide = (leaf.requires_grad_() for leaf in (rounded(half), rounded(half).float()))
    y, expected = layer(x), layer(wide)
    assert y.dtype is half
    torch.testing.assert_close(y, expected.to(half), rtol=0, atol=0)
    dy = torch.randn(y.shape).to(half)
    y.backward(dy)
    found, layer.values.grad = layer.values.grad, None
    expected.backward(dy.float())
    assert x.grad is not None
    assert x.grad.dtype is half
    torch.testing.assert_close(found, layer.values.grad)


@HALVES
def test_weights_of_samples_in_half_precision(half: torch.dtype) -> None:
    table, ids = st.nn.LookupTable(5, 3, pool="sum", dtype=half), torch.tensor([[1, 2], [2, 0]])
    weights = torch.rand(2, 2).to(half).requires_grad_()
    y = table(ids, per_sample_weights=weights)
    twin = nn.functional.embedding_bag(ids, table.weight, per_sample_weights=weights.float(), mode="sum")
    torch.testing.assert_close(y, twin.to(half), rtol=0, atol=0)
    y.sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, table.weight.detach()[ids].sum(-1).to(half))


def test_a_delta_layer_says_which_type_its_weight_has() -> None:
    layer = LAYERS["delta"]().to(torch.bfloat16)
    with pytest.raises(TypeError, match=r"SparseDeltaLinear: expected x in torch.bfloat16, .* got torch.float32"):
        layer(torch.ones(2, INPUTS))
