"""SparseLinear(sparse_grad=True): the same numbers as a sparse layer, gradients over the edges of used columns alone."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sparsetrain as st
from sparsetrain.nn import SparseLinear

DOUBLE = torch.float64


def twins(
    inputs: int, outputs: int, density: float, bias: bool = True, **options: Any
) -> tuple[SparseLinear, SparseLinear]:
    """A layer with sparse_grad and the same without."""
    generator = torch.Generator().manual_seed(0)
    t = st.patterns.uniform((outputs, inputs), density, generator)
    layers = [
        SparseLinear(inputs, outputs, bias, topology=t, dtype=DOUBLE, sparse_grad=flag, **options)
        for flag in (True, False)
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    return layers[0], layers[1]


def with_columns(batch: int, inputs: int, columns: Any, seed: int = 0) -> Tensor:
    """Random numbers in some columns, zeros in the others."""
    x = torch.zeros(batch, inputs, dtype=DOUBLE)
    x[:, columns] = torch.randn(batch, len(columns), dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    return x


@settings(max_examples=60, deadline=None)
@given(
    some.integers(0, 12), some.integers(0, 9), some.sampled_from([0.0, 0.2, 1.0]), some.sampled_from([0, 1, 5, 40]),
    some.sets(some.integers(0, 11)), some.booleans(), some.booleans(), some.sampled_from(["numba", "torch"]),
)  # fmt: skip
def test_the_same_numbers(
    inputs: int, outputs: int, density: float, batch: int, columns: set[int], bias: bool, feature_major: bool, backend: str
) -> None:  # fmt: skip
    ours, plain = twins(inputs, outputs, density, bias)
    x = with_columns(batch, inputs, sorted(c for c in columns if c < inputs))
    x = st.ops.feature_major(x) if feature_major else x
    dy = torch.randn(batch, outputs, dtype=DOUBLE)
    results = []
    for layer in (ours, plain):
        leaf = x.detach().requires_grad_()
        with st.ops.use_backend(backend):
            y = layer(leaf)
            y.backward(dy)
        assert layer.values.grad is not None
        grad = layer.values.grad.to_dense() if layer.values.grad.is_sparse else layer.values.grad
        results.append((y.detach(), leaf.grad, grad, layer.bias.grad if layer.bias is not None else None, y.stride()))
    for one, other in zip(*results, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    if batch > 1 and outputs > 1 and inputs > 1:
        assert results[0][-1] == results[1][-1]  # the layout of the input


def test_the_gradient_names_the_edges_of_used_columns_alone() -> None:
    layer, _ = twins(20, 10, 0.3)
    x = with_columns(4, 20, [2, 7])
    layer(x).sum().backward()
    assert layer.values.grad is not None
    assert layer.values.grad.is_sparse
    named = layer.values.grad.coalesce().indices()[0].tolist()
    assert named == [e for e, c in enumerate(layer.topology.col.tolist()) if c in (2, 7)]


def test_any_leading_dimensions() -> None:
    ours, plain = twins(6, 5, 0.5)
    x = with_columns(6, 6, [1, 4]).view(2, 3, 6)
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(ours(x[0, 0]), plain(x[0, 0]), rtol=0, atol=1e-14)


def test_a_column_with_nan_is_used() -> None:
    ours, _ = twins(6, 5, 1.0)
    x = with_columns(3, 6, [1])
    x[1, 4] = torch.nan
    y = ours(x)
    assert y.isnan().any(1).tolist() == [False, True, False]


def test_second_derivatives() -> None:
    """Of the gradient's own values, with respect to dy, and of the gradient of x."""
    ours, plain = twins(6, 5, 0.5)
    x, dy = with_columns(4, 6, [1, 3]), torch.randn(4, 5, dtype=DOUBLE)
    results = []
    for layer in (ours, plain):
        leaf, out = x.detach().requires_grad_(), dy.detach().requires_grad_()
        dvalues, dx = torch.autograd.grad(layer(leaf), (layer.values, leaf), out, create_graph=True)
        numbers = dvalues.to_dense() if dvalues.is_sparse else dvalues
        objective = numbers.pow(3).sum() + dx.pow(3).sum()
        results.append(torch.autograd.grad(objective, (leaf, out)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("transform", ["grad", "jvp", "vmap"])
def test_under_transforms_the_gradient_is_over_all_edges(transform: str) -> None:
    ours, plain = twins(6, 5, 0.5)
    x = with_columns(4, 6, [1, 3])

    def loss(layer: SparseLinear) -> Any:
        return lambda values: torch.func.functional_call(layer, {"values": values}, (x,)).pow(2).sum()

    for layer in (ours, plain):
        layer.requires_grad_(False)
    if transform == "grad":
        results = [torch.func.grad(loss(layer))(layer.values) for layer in (ours, plain)]
    elif transform == "jvp":
        results = [torch.func.jvp(layer, (x,), (x,))[1] for layer in (ours, plain)]
    else:
        results = [torch.vmap(layer)(x) for layer in (ours, plain)]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-13)


def counted(layer: SparseLinear) -> Any:
    """The layer under a mode that only watches."""

    def call(x: Tensor) -> Tensor:
        with FlopCounterMode(display=False) as counter:
            y: Tensor = layer(x)
        used = (x != 0).any(0)[layer.topology.col.long()].sum()
        assert counter.get_total_flops() == 2 * int(used) * len(x)
        return y

    return call


SEEN: dict[str, Callable[[SparseLinear], Any]] = {
    "eager backend": lambda layer: torch.compile(layer, backend="eager", fullgraph=True),
    "aot_eager": lambda layer: torch.compile(layer, backend="aot_eager", fullgraph=True),
    "trace": lambda layer: torch.jit.trace(layer, with_columns(2, 30, [3, 5])),
    "watched": counted,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("way", SEEN)
@pytest.mark.parametrize("for_x", [False, True])
def test_layers_that_are_compiled_traced_or_watched_train_as_others(way: str, for_x: bool) -> None:
    ours, _ = twins(30, 20, 0.2)
    call = SEEN[way](ours)
    alone = copy.deepcopy(ours)
    step, twin = (st.optim.Adam(layer.parameters(), lr=0.1, unused="frozen") for layer in (ours, alone))
    for k, columns in enumerate(([2, 7], [0], [7, 11, 29], [])):
        leaves = [with_columns(3 + k, 30, columns, k).requires_grad_(for_x) for _ in range(2)]
        results = []
        for layer, x, each in ((call, leaves[0], step), (alone, leaves[1], twin)):
            each.zero_grad()
            y = layer(x)
            y.square().sum().backward()
            each.step()
            results.append(y)
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=1e-12)
        of_ours, of_alone = ours.values.grad, alone.values.grad
        assert of_ours is not None
        assert of_alone is not None
        assert of_ours.is_sparse
        assert torch.equal(of_ours.coalesce().indices(), of_alone.coalesce().indices())
        torch.testing.assert_close(ours.values, alone.values, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*", "ignore::torch.jit.TracerWarning")
def test_second_derivatives_of_a_trace() -> None:
    ours, plain = twins(6, 5, 0.5)
    x, dy = with_columns(4, 6, [1, 3]), torch.randn(4, 5, dtype=DOUBLE)
    results = []
    for layer, call in ((ours, torch.jit.trace(ours, x)), (plain, plain)):
        out = dy.detach().requires_grad_()
        (dvalues,) = torch.autograd.grad(call(x), layer.values, out, create_graph=True)
        numbers = dvalues.to_dense() if dvalues.is_sparse else dvalues
        results.append(torch.autograd.grad(numbers.pow(3).sum(), out)[0])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_operators_of_used_columns_refuse_what_does_not_fit() -> None:
    layer, _ = twins(6, 5, 0.5)
    t, ops = layer.topology, torch.ops.sparsetrain
    x, short = torch.ones(6, 2, dtype=DOUBLE), layer.values.detach()[:-1]
    with pytest.raises(ValueError, match="sparsetrain::spmm_used: expected values of shape"):
        ops.spmm_used(t.crow, t.col, short, x, None, "torch")
    with pytest.raises(ValueError, match="sparsetrain::gradient_used: expected a of shape"):
        ops.gradient_used(t.crow, t.col, x, x, "torch")


def test_an_exported_program_computes_the_same() -> None:
    layer, _ = twins(6, 5, 0.5)
    x = with_columns(4, 6, [1, 3])
    program = torch.export.export(nn.Sequential(layer), (x,)).module()
    other = with_columns(4, 6, [0, 5])
    torch.testing.assert_close(program(other), layer(other), rtol=0, atol=1e-13)


@pytest.mark.parametrize("optimizer", ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"])
@pytest.mark.parametrize("unused", ["frozen", "dense"])
def test_optimizers_over_used_edges(optimizer: str, unused: str) -> None:
    """Unused edges stand still with their state, or move as the dense optimizer moves them."""
    ours, plain = twins(30, 20, 0.2)
    options = {"lr": 0.05, **({"momentum": 0.9} if optimizer in ("SGD", "RMSprop") else {})}
    step = getattr(st.optim, optimizer)(ours.parameters(), unused=unused, **options)
    twin = getattr(torch.optim, optimizer)(plain.parameters(), **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        columns = torch.randint(30, (3,), generator=generator).unique().tolist()
        x = with_columns(4, 30, columns)
        before, state = ours.values.detach().clone(), copy.deepcopy(step.state[ours.values])
        for layer, each in ((ours, step), (plain, twin)):
            each.zero_grad()
            (layer(x) - 1).square().mean().backward()
            each.step()
        unnamed = torch.tensor([c not in columns for c in ours.topology.col.tolist()])
        if unused == "frozen":
            assert torch.equal(ours.values[unnamed], before[unnamed])
            for name, old in state.items():
                if old.ndim:
                    assert torch.equal(step.state[ours.values][name][unnamed], old[unnamed]), name
    step.flush()
    if unused == "dense":
        torch.testing.assert_close(ours.values, plain.values, rtol=0, atol=1e-13)


def test_saving_copying_and_converting_bring_edges_up_to_date() -> None:
    ours, plain = twins(8, 4, 0.5)
    optimizer = st.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9, unused="dense")
    twin = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for columns in ([0, 1], [2], [3]):
        for layer, each in ((ours, optimizer), (plain, twin)):
            each.zero_grad()
            layer(with_columns(3, 8, columns)).sum().backward()
            each.step()
    read = copy.deepcopy(ours)
    torch.testing.assert_close(read.values, plain.values, rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.to_dense().weight, plain.to_dense().weight, rtol=0, atol=1e-14)
    torch.testing.assert_close(ours.state_dict()["values"], plain.values.detach(), rtol=0, atol=1e-14)


def test_shows_that_its_gradient_is_sparse() -> None:
    ours, plain = twins(4, 3, 0.5)
    assert "sparse_grad=True" in repr(ours)
    assert "sparse_grad" not in repr(plain)
