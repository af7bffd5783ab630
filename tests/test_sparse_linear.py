"""SparseLinear as a citizen of torch: shapes, states, copies, dtypes, ties, optimizers, against a dense twin."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as strategy
from structures import Structure, structures
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import MaskedLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def layer() -> SparseLinear:
    """3 inputs, 2 outputs: y0 = x0 + 2 x2 + 10, y1 = 3 x1 + 20."""
    layer = SparseLinear(3, 2, topology=st.Topology.from_mask([[1, 0, 1], [0, 1, 0]]))
    with torch.no_grad():
        layer.values.copy_(torch.tensor([1.0, 2.0, 3.0]))
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
    return layer


def dense_weight(layer: Any) -> Tensor:
    """The weight (out, in) of a sparse layer, differentiable in its values."""
    t = layer.topology
    matrix = layer.values.new_zeros(t.shape).index_put((t.row.long(), t.col.long()), layer.values)
    return matrix.t() if layer.in_features == t.shape[0] != layer.out_features else matrix


def test_literal_values(layer: SparseLinear) -> None:
    assert layer(torch.tensor([1.0, 1.0, 1.0])).tolist() == [13.0, 23.0]
    assert layer(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 5.0]])).tolist() == [[11.0, 20.0], [20.0, 23.0]]
    layer(torch.tensor([[1.0, 2.0, 4.0]])).sum().backward()
    assert layer.values.grad.tolist() == [1.0, 4.0, 2.0]
    assert layer.bias.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("leading", [(), (1,), (0,), (7,), (2, 3), (2, 0, 3), (1, 1, 1, 5)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_any_leading_shape(leading: tuple[int, ...], bias: bool) -> None:
    layer = SparseLinear(6, 5, bias, density=0.4, dtype=torch.float64)
    x = torch.randn(*leading, 6, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    twin = nn.functional.linear(x, dense_weight(layer), layer.bias)
    assert y.shape == (*leading, 5)
    torch.testing.assert_close(y, twin, rtol=1e-12, atol=1e-12)
    leaves = [x, *layer.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(y.sin().sum(), leaves), torch.autograd.grad(twin.sin().sum(), leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(s=structures(20), batch=strategy.sampled_from([0, 1, 5]))
def test_any_structure(s: Structure, batch: int) -> None:
    t = st.Topology(s.crow, s.col, (s.rows, s.columns))
    layer = SparseLinear(s.columns, s.rows, topology=t, dtype=torch.float64)
    x = torch.randn(batch, s.columns, dtype=torch.float64)
    expected = x @ torch.from_numpy(s.dense(layer.values.detach().numpy())).t() + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert layer.to_dense()(x).shape == (batch, s.rows)
    assert SparseLinear.from_dense(layer.to_dense(), t).values.equal(layer.values)


@pytest.mark.parametrize(("inputs", "outputs", "density"), [(0, 4, 0.5), (4, 0, 0.5), (0, 0, 1.0), (4, 3, 0.0)])
def test_empty_layers(inputs: int, outputs: int, density: float) -> None:
    layer = SparseLinear(inputs, outputs, density=density)
    assert layer.topology.nnz == 0
    x = torch.randn(2, inputs, requires_grad=True)
    y = layer(x)
    assert y.equal(torch.zeros(2, outputs))  # also the bias is zero where no edge arrives
    y.sum().backward()
    assert layer.values.grad.shape == (0,)
    assert x.grad.equal(torch.zeros(2, inputs))


def test_full_density_is_nn_linear() -> None:
    everything = st.Topology.from_mask(torch.ones(5, 7))
    torch.manual_seed(1)
    sparse = SparseLinear(7, 5, topology=everything)
    torch.manual_seed(1)
    dense = nn.Linear(7, 5)
    torch.testing.assert_close(sparse.to_dense().weight, dense.weight)  # drawn by the same rule, in the same order
    torch.testing.assert_close(sparse.bias, dense.bias)


def test_repr(layer: SparseLinear) -> None:
    assert repr(layer) == "SparseLinear(in_features=3, out_features=2, nnz=3, density=0.5, bias=True)"
    assert repr(layer.transposed(bias=False)) == (
        "TransposedSparseLinear(in_features=2, out_features=3, nnz=3, density=0.5, bias=False)"
    )


def test_generator_and_seed() -> None:
    def drawn(**how: Any) -> SparseLinear:
        return SparseLinear(30, 20, density=0.1, **how)

    one, same, other = (drawn(generator=torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert one.topology.digest == same.topology.digest != other.topology.digest
    assert one.values.equal(same.values)
    assert one.bias.equal(same.bias)
    torch.manual_seed(3)
    first = drawn()
    torch.manual_seed(3)
    again = drawn()
    assert first.topology.digest == again.topology.digest
    assert first.values.equal(again.values)


def test_initial_values_lie_within_one_over_root_of_the_mean_fan_in() -> None:
    layer = SparseLinear(400, 50, density=0.04)  # 16 edges for each output
    assert 0.24 < layer.values.abs().max() < 0.25
    assert layer.bias.abs().max() < 0.25
    before = layer.values.clone()
    layer.reset_parameters(torch.Generator().manual_seed(0))
    assert not layer.values.equal(before)


# ---- dense twins -------------------------------------------------------------------------------------------------------


def test_from_dense_and_back() -> None:
    dense = nn.Linear(4, 3).double().eval()
    dense.weight.requires_grad_(False)
    mask = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 0]])
    sparse = SparseLinear.from_dense(dense, mask)
    assert sparse.values.tolist() == [dense.weight[i, j].item() for i, j in ((0, 0), (0, 3), (2, 1), (2, 2))]
    assert (sparse.values.requires_grad, sparse.bias.requires_grad) == (False, True)
    assert not sparse.training
    back = sparse.to_dense()
    assert back.weight.equal(dense.weight * mask)
    assert back.bias.equal(dense.bias)
    assert back.bias is not dense.bias
    assert (back.weight.requires_grad, back.training, back.weight.dtype) == (False, False, torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(sparse(x), back(x), rtol=1e-14, atol=1e-14)


def test_from_dense_without_a_mask_keeps_what_is_not_zero() -> None:
    dense = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[0.0, 3.0], [4.0, 0.0]]))
    sparse = SparseLinear.from_dense(dense)
    assert sparse.values.tolist() == [3.0, 4.0]
    assert sparse.bias is None
    assert SparseLinear.from_dense(dense, sparse.topology).topology is sparse.topology


def test_compiled_whole_and_called_functionally() -> None:
    encoder = SparseLinear(7, 4, density=0.4)
    model = nn.Sequential(encoder, nn.Tanh(), encoder.transposed())
    x = torch.randn(5, 7)
    expected = model(x)
    assert torch.compile(model, fullgraph=True, backend="aot_eager")(x).equal(expected)
    doubled = {name: 2 * parameter for name, parameter in encoder.named_parameters()}
    torch.testing.assert_close(torch.func.functional_call(encoder, doubled, x), 2 * encoder(x))


# ---- ties --------------------------------------------------------------------------------------------------------------


def test_a_tied_gradient_is_the_sum_of_both_uses() -> None:
    encoder = SparseLinear(7, 4, density=0.4, dtype=torch.float64)
    decoder = encoder.transposed()
    assert decoder.values is encoder.values
    assert decoder.topology is encoder.topology
    x = torch.randn(5, 7, dtype=torch.float64)
    loss = (decoder(encoder(x).tanh()) - x).square().sum()
    weight = dense_weight(encoder)
    hidden = nn.functional.linear(x, weight, encoder.bias).tanh()
    twin = (nn.functional.linear(hidden, weight.t(), decoder.bias) - x).square().sum()
    leaves = [encoder.values, encoder.bias, decoder.bias]
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(twin, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_one_layer_used_twice() -> None:
    layer = SparseLinear(4, 4, density=0.5, dtype=torch.float64)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    assert len(list(model.parameters())) == 2
    x = torch.randn(3, 4, dtype=torch.float64)
    weight = dense_weight(layer)
    twin = nn.functional.linear(nn.functional.linear(x, weight, layer.bias).tanh(), weight, layer.bias)
    ours, theirs = (torch.autograd.grad(y.sum(), layer.values)[0] for y in (model(x), twin))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_ties_survive_moves_and_copies() -> None:
    encoder = SparseLinear(7, 4, density=0.4)
    model = copy.deepcopy(nn.ModuleList([encoder, encoder.transposed(bias=False)]).double())
    assert model[0].values is model[1].values
    assert model[0].topology is model[1].topology
    assert [name for name, _ in model.named_parameters()] == ["0.values", "0.bias"]
    assert model[1].bias is None


# ---- optimizers --------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "Adam": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.1}),
}
FORMS = [{"foreach": False}, {"foreach": True}, {"fused": True}]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_stock_optimizers_step_as_on_a_masked_twin(name: str, form: dict[str, bool]) -> None:
    kind, options = OPTIMIZERS[name]
    sparse = nn.Sequential(
        SparseLinear(8, 10, density=0.3), nn.Tanh(), nn.Linear(10, 6), nn.Tanh(), SparseLinear(6, 3, density=0.5)
    ).double()
    masked = nn.Sequential(
        MaskedLinear.from_sparse(sparse[0]), nn.Tanh(), copy.deepcopy(sparse[2]), nn.Tanh(),
        MaskedLinear.from_sparse(sparse[4]),
    )  # fmt: skip
    x, target = torch.randn(16, 8, dtype=torch.float64), torch.randn(16, 3, dtype=torch.float64)
    losses = []
    for model in (sparse, masked):
        optimizer = kind(model.parameters(), **options, **form)
        losses.append([])
        for _ in range(8):
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < losses[0][0]
    for i in (0, 4):
        torch.testing.assert_close(sparse[i].to_dense().weight, masked[i].weight, rtol=1e-12, atol=1e-12)


def test_optimizer_state_has_the_size_of_the_edges() -> None:
    layer = SparseLinear(100, 50, density=0.1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(100)).sum().backward()
    optimizer.step()
    assert layer.values.grad.shape == optimizer.state[layer.values]["exp_avg"].shape == (500,)
    assert layer.values.grad.layout is torch.strided


def test_clip_grad_norm(layer: SparseLinear) -> None:
    layer(torch.tensor([3.0, 2.0, 0.0])).sum().backward()  # gradients (3, 0, 2) and (1, 1)
    norm = nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    assert norm.item() == pytest.approx(15**0.5)
    torch.testing.assert_close(layer.values.grad, torch.tensor([3.0, 0.0, 2.0]) / 15**0.5)


# ---- messages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: SparseLinear(784, 10, density=0.1)(torch.ones(32, 768)),
            ValueError,
            "SparseLinear: expected 784 input features, got 768 (x has shape (32, 768)).",
        ),
        (
            lambda: SparseLinear(4, 2, density=0.5)(torch.ones(4, dtype=torch.float64)),
            TypeError,
            "SparseLinear: expected one dtype, got x torch.float64, values torch.float32, bias torch.float32.",
        ),
        (
            lambda: SparseLinear(4, 2, density=0.5)(torch.ones(4).long()),
            TypeError,
            "expected x in float32, float64, float16",
        ),
        (lambda: SparseLinear(4, 2, density=0.5)(torch.tensor(1.0)), ValueError, "expected 4 input features, got none"),
        (lambda: SparseLinear(4, 2), ValueError, "expected exactly one of density and topology, got neither."),
        (
            lambda: SparseLinear(4, 2, density=0.5, topology=st.patterns.uniform((2, 4), 0.5)),
            ValueError,
            "expected exactly one of density and topology, got both.",
        ),
        (
            lambda: SparseLinear(4, 2, topology=st.patterns.uniform((4, 2), 0.5)),
            ValueError,
            "SparseLinear: expected a topology of shape (out, in) = (2, 4), got (4, 2).",
        ),
        (lambda: SparseLinear(4, 2, density=float("nan")), ValueError, "from 0 to 1, got nan"),
        (lambda: SparseLinear(4, 2, density=1.5), ValueError, "from 0 to 1, got 1.5"),
        (
            lambda: SparseLinear.from_dense(nn.Linear(4, 2), torch.ones(4, 2)),
            ValueError,
            "SparseLinear.from_dense: expected a mask of shape (2, 4), got (4, 2).",
        ),
        (lambda: SparseLinear(4, 2, density=0.5).transposed()(torch.ones(4)), ValueError, "expected 2 input features"),
    ],
)
def test_messages(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
