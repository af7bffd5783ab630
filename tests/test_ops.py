"""The operations against a dense float64 twin: values, every derivative, compiled graphs, layouts, messages."""

import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as strategy
from structures import Structure, structures
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import sparsetrain as st
from sparsetrain.backends.numba import products as numba_products
from sparsetrain.ops import library

ROWS, COLUMNS, BATCH = 6, 5, 3
backends = pytest.mark.parametrize("backend", ["numba", "torch", "blocks"])
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def t() -> st.Topology:
    return st.Topology.from_mask(torch.rand(ROWS, COLUMNS) < 0.5)


@pytest.fixture
def small() -> st.Topology:
    """What takes few numbers to differentiate by: with an empty row, an empty column and a row of several edges."""
    return st.Topology.from_mask(torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]).bool())


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def dense_spmm(t: st.Topology, values: Tensor, x: Tensor, transpose: bool = False) -> Tensor:
    matrix = torch.zeros(t.shape, dtype=values.dtype).index_put((t.row.long(), t.col.long()), values)
    return (matrix.t() if transpose else matrix) @ x


def dense_sddmm(t: st.Topology, a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.t())[t.row.long(), t.col.long()]


@backends
@pytest.mark.parametrize("transpose", [False, True])
@settings(max_examples=30, deadline=None)
@given(s=structures(12), batch=strategy.sampled_from([0, 1, 4, 7]), seed=strategy.integers(0, 1000))
def test_products_of_any_structure(backend: str, transpose: bool, s: Structure, batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    t = st.Topology(s.crow, s.col, (s.rows, s.columns))
    values, x = leaf(normal(t.nnz)), leaf(normal(s.rows if transpose else s.columns, batch))
    twin_values, twin_x = leaf(values), leaf(x)
    with st.ops.use_backend(backend):
        y = st.ops.spmm(t, values, x, transpose=transpose)
        dy = torch.randn_like(y)
        y.backward(dy)
        twin = dense_spmm(t, twin_values, twin_x, transpose)
        twin.backward(dy)
        a, b = normal(s.rows, batch), normal(s.columns, batch)
        torch.testing.assert_close(st.ops.sddmm(t, a, b), dense_sddmm(t, a, b), rtol=0, atol=1e-13)
    for got, expected in ((y, twin), (values.grad, twin_values.grad), (x.grad, twin_x.grad)):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@backends
@pytest.mark.parametrize("transpose", [False, True])
def test_spmm_gradients(small: st.Topology, backend: str, transpose: bool) -> None:
    with st.ops.use_backend(backend):
        arguments = leaf(normal(small.nnz)), leaf(normal(small.shape[not transpose], 2))
        product: Callable[..., Tensor] = lambda v, x: st.ops.spmm(small, v, x, transpose=transpose)  # noqa: E731
        assert gradcheck(product, arguments, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(product, arguments, check_batched_grad=True)


@backends
@pytest.mark.parametrize("transpose", [False, True])
def test_linear_gradients(small: st.Topology, backend: str, transpose: bool) -> None:
    inputs, outputs = small.shape if transpose else reversed(small.shape)
    with st.ops.use_backend(backend):
        arguments = leaf(normal(2, 2, inputs)), leaf(normal(small.nnz)), leaf(normal(outputs))
        layer: Callable[..., Tensor] = lambda x, v, b: st.ops.linear(x, small, v, b, transpose=transpose)  # noqa: E731
        assert gradcheck(layer, arguments, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(layer, arguments)


@backends
def test_sddmm_gradients(small: st.Topology, backend: str) -> None:
    with st.ops.use_backend(backend):
        arguments = leaf(normal(4, BATCH)), leaf(normal(3, BATCH))
        sampled: Callable[..., Tensor] = lambda a, b: st.ops.sddmm(small, a, b)  # noqa: E731
        assert gradcheck(sampled, arguments, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(sampled, arguments)


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_only_the_gradients_that_are_asked_for(t: st.Topology, needs: tuple[bool, bool]) -> None:
    values, x = normal(t.nnz).requires_grad_(needs[0]), normal(COLUMNS, BATCH).requires_grad_(needs[1])
    y = st.ops.spmm(t, values, x)
    assert y.requires_grad == any(needs)
    if any(needs):
        y.sum().backward()
    assert (values.grad is not None, x.grad is not None) == needs


def transforms(f: Callable[[Tensor, Tensor], Tensor], v: Tensor, x: Tensor, dv: Tensor, dx: Tensor) -> dict[str, Any]:
    def energy(v: Tensor) -> Tensor:
        return f(v, x).pow(2).sum()

    pairs = torch.stack([x, 2 * x])
    return {
        "grad": grad(energy)(v),
        "jvp": jvp(f, (v, x), (dv, dx))[1],
        "vjp": vjp(f, v, x)[1](f(v, x).detach()),
        "jacrev": jacrev(f, argnums=(0, 1))(v, x),
        "jacfwd": jacfwd(f, argnums=(0, 1))(v, x),
        "hessian": hessian(energy)(v),
        "vmap over x": vmap(lambda x: f(v, x))(pairs),
        "vmap over values": vmap(lambda v: f(v, x))(torch.stack([v, dv])),
        "vmap over both": vmap(f, in_dims=(1, 2))(torch.stack([v, dv], 1), torch.stack([x, dx], 2)),
        "vmap of grad": vmap(grad(lambda v, x: f(v, x).pow(2).sum()), in_dims=(None, 0))(v, pairs),
        "grad of jvp": grad(lambda v: jvp(lambda x: f(v, x), (x,), (dx,))[1].pow(2).sum())(v),
    }


@backends
@pytest.mark.parametrize("transpose", [False, True])
def test_function_transforms_of_spmm(t: st.Topology, backend: str, transpose: bool) -> None:
    features = ROWS if transpose else COLUMNS
    v, x, dv, dx = normal(t.nnz), normal(features, BATCH), normal(t.nnz), normal(features, BATCH)
    with st.ops.use_backend(backend):
        got = transforms(lambda v, x: st.ops.spmm(t, v, x, transpose=transpose), v, x, dv, dx)
    for name, expected in transforms(lambda v, x: dense_spmm(t, v, x, transpose), v, x, dv, dx).items():
        torch.testing.assert_close(got[name], expected, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_function_transforms_of_sddmm(t: st.Topology) -> None:
    a, b, da, db = normal(ROWS, BATCH), normal(COLUMNS, BATCH), normal(ROWS, BATCH), normal(COLUMNS, BATCH)
    got = transforms(lambda a, b: st.ops.sddmm(t, a, b), a, b, da, db)
    for name, expected in transforms(lambda a, b: dense_sddmm(t, a, b), a, b, da, db).items():
        torch.testing.assert_close(got[name], expected, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def compilers() -> list[Any]:
    needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
    return ["aot_eager", pytest.param("inductor", marks=[needs_compiler])]


@backends
@pytest.mark.parametrize("compiler", compilers())
def test_compiled_without_a_graph_break(t: st.Topology, backend: str, compiler: str) -> None:
    torch._dynamo.reset()
    arguments = [leaf(normal(4, COLUMNS)), leaf(normal(t.nnz)), leaf(normal(ROWS))]

    def loss(x: Tensor, v: Tensor, b: Tensor) -> Tensor:
        return st.ops.linear(x, t, v, b).relu().pow(2).sum()

    with st.ops.use_backend(backend):
        compiled = torch.compile(loss, fullgraph=True, backend=compiler)(*arguments)
        compiled.backward()
        got = [argument.grad for argument in arguments]
        twins = [leaf(argument) for argument in arguments]
        expected = loss(*twins)
        expected.backward()
    torch.testing.assert_close(compiled, expected, rtol=1e-12, atol=0)
    for one, other in zip(got, twins, strict=True):
        torch.testing.assert_close(one, other.grad, rtol=0, atol=1e-12)


def test_function_transforms_leave_a_compiled_graph(t: st.Topology) -> None:
    torch._dynamo.reset()
    v, dv, x = normal(t.nnz), normal(t.nnz), normal(COLUMNS, BATCH)

    def tangent(dv: Tensor) -> Tensor:
        return jvp(lambda v: st.ops.spmm(t, v, x), (v,), (dv,))[1]

    def slope(v: Tensor) -> Tensor:
        return grad(lambda v: st.ops.spmm(t, v, x).pow(2).sum())(v)

    torch.testing.assert_close(torch.compile(tangent, backend="aot_eager")(dv), dense_spmm(t, dv, x))
    torch.testing.assert_close(torch.compile(slope, backend="aot_eager")(v), slope(v))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(tangent, backend="aot_eager", fullgraph=True)(dv)


class Layer(torch.nn.Module):
    def __init__(self, t: st.Topology) -> None:
        super().__init__()
        self.topology, self.values = t, torch.nn.Parameter(normal(t.nnz))

    def forward(self, x: Tensor) -> Tensor:
        return st.ops.linear(x, self.topology, self.values)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_export_with_any_batch_size(t: st.Topology) -> None:
    layer, other = Layer(t), normal(9, COLUMNS)
    program = torch.export.export(layer, (normal(4, COLUMNS),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(program.module()(other), layer(other))


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
def test_linearize_and_traced_graphs_see_the_operators(t: st.Topology) -> None:
    layer, x, dx = Layer(t), normal(4, COLUMNS), normal(4, COLUMNS)
    y, tangent_of = torch.func.linearize(layer, x)
    torch.testing.assert_close(y, layer(x))
    torch.testing.assert_close(tangent_of(dx), layer(dx))
    torch.testing.assert_close(make_fx(lambda x: layer(x))(x)(dx), layer(dx))


def test_operators_find_the_topology_again(t: st.Topology) -> None:
    assert library.topology_of(t.crow, t.col, COLUMNS) is t
    alone = library.topology_of(t.crow.clone(), t.col.clone(), COLUMNS)
    assert alone is not t
    assert library.topology_of(alone.crow, alone.col, COLUMNS) is alone


def test_both_gradients_come_from_one_pass(t: st.Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    fused = numba_products.backward
    monkeypatch.setattr(numba_products, "backward", lambda *operands: passes.append(1) or fused(*operands))
    st.ops.spmm(t, leaf(normal(t.nnz)), leaf(normal(COLUMNS, BATCH))).sum().backward()
    assert passes == [1]


def test_vmap_over_empty_batches(t: st.Topology) -> None:
    assert vmap(Layer(t))(normal(3, 0, COLUMNS)).shape == (3, 0, ROWS)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own in torch 2.14
@backends
def test_operators_pass_opcheck(t: st.Topology, backend: str) -> None:
    v, x, a, b = leaf(normal(t.nnz)), leaf(normal(COLUMNS, BATCH)), leaf(normal(ROWS, BATCH)), leaf(normal(ROWS))
    operators = torch.ops.sparsetrain
    torch.library.opcheck(operators.spmm.default, (t.crow, t.col, v, x, b, COLUMNS, False, backend))
    torch.library.opcheck(operators.spmm.default, (t.crow, t.col, v, a, None, COLUMNS, True, backend))
    torch.library.opcheck(operators.sddmm.default, (t.crow, t.col, a, x, backend))
    for bias in (False, True):
        torch.library.opcheck(operators.backward.default, (t.crow, t.col, v, x, a, bias, backend))


def test_operators_are_closed_under_differentiation(t: st.Topology) -> None:
    operators = torch.ops.sparsetrain
    v, x, a = leaf(normal(t.nnz)), leaf(normal(COLUMNS, BATCH)), leaf(normal(ROWS, BATCH))
    assert gradgradcheck(lambda v, x: operators.spmm(t.crow, t.col, v, x, None, COLUMNS, False, "numba"), (v, x))
    assert gradgradcheck(lambda v, a: operators.spmm(t.crow, t.col, v, a, None, COLUMNS, True, "numba"), (v, a))
    assert gradgradcheck(lambda a, x: operators.sddmm(t.crow, t.col, a, x, "numba"), (a, x))
    assert gradcheck(lambda v, x, a: operators.backward(t.crow, t.col, v, x, a, True, "numba"), (v, x, a))
    assert gradcheck(lambda v, x, a: operators.backward(t.crow, t.col, v, x, a, False, "numba")[:2], (v, x, a))


@backends
@pytest.mark.parametrize("batch", [1, 4])
def test_results_follow_the_layout_of_the_input(t: st.Topology, backend: str, batch: int) -> None:
    values, x = normal(t.nnz), normal(batch, COLUMNS)
    expected = dense_spmm(t, values, x.t()).t()
    with st.ops.use_backend(backend):
        row_major = st.ops.linear(x, t, values)
        feature_major = st.ops.linear(st.ops.feature_major(x), t, values)
    assert row_major.stride() == (ROWS, 1)
    assert feature_major.stride() == ((1, batch) if batch > 1 else (ROWS, 1))
    assert feature_major.relu().stride() == feature_major.stride()
    for got in (row_major, feature_major):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_feature_major_of_any_shape() -> None:
    x = normal(2, 3, 4)
    y = st.ops.feature_major(x)
    assert torch.equal(x, y)
    assert y.stride() == (3, 1, 6)
    assert st.ops.feature_major(normal(0, 4)).shape == (0, 4)
    with pytest.raises(ValueError, match="feature_major: expected a tensor"):
        st.ops.feature_major(torch.tensor(1.0))


@pytest.mark.parametrize("view", ["columns", "steps", "expanded", "slice of output"])
def test_views_in_and_out(t: st.Topology, view: str) -> None:
    wide, values = normal(8, 3 * COLUMNS), leaf(normal(t.nnz))
    x = {
        "columns": wide[:, 2 : 2 + COLUMNS],
        "steps": wide[::2, ::3],
        "expanded": wide[:1, :COLUMNS].expand(8, -1),
    }.get(view, wide[:, :COLUMNS])
    y = st.ops.linear(x, t, values)
    part = y[::2, 1:3] if view == "slice of output" else y
    part.sum().backward()  # an expanded gradient: strides of zero
    twin = leaf(values)
    expected = dense_spmm(t, twin, x.t()).t()
    (expected[::2, 1:3] if view == "slice of output" else expected).sum().backward()
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(values.grad, twin.grad, rtol=0, atol=1e-13)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_backends_agree(device: str) -> None:
    t = st.patterns.uniform((40, 30), 0.2).to(device)
    values, x = torch.randn(t.nnz, device=device), torch.randn(30, 70, device=device)
    with st.ops.use_backend("torch"):
        expected = st.ops.spmm(t, values, x)
    torch.testing.assert_close(st.ops.spmm(t, values, x), expected, rtol=0, atol=2e-6)


def test_backward_keeps_the_backend_of_forward(t: st.Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    with st.ops.use_backend("torch"):
        y = st.ops.spmm(t, leaf(normal(t.nnz)), leaf(normal(COLUMNS, BATCH)))
    for verb in ("spmm", "sddmm", "backward"):
        monkeypatch.setattr(numba_products, verb, None)
    y.sum().backward()


def test_backend_for() -> None:
    assert st.ops.backend_for("cpu", torch.float32) == "numba"
    assert st.ops.backend_for("cuda", torch.float64) == "torch"
    with st.ops.use_backend("torch"):
        assert st.ops.backend_for("cpu", torch.float32) == "torch"
        with st.ops.use_backend("numba"):
            assert st.ops.backend_for("cpu", torch.float32) == "numba"
    assert st.ops.backend_for("cpu", torch.float32) == "numba"
    with pytest.raises(TypeError, match=r"float32 or float64, got torch.float16"):
        st.ops.backend_for("cpu", torch.float16)
    with (
        pytest.raises(ValueError, match=r"expected one of \['blocks', 'numba', 'torch', 'triton'\], got 'cuda'"),
        st.ops.use_backend("cuda"),
    ):
        pass


def test_sums_are_float32_under_autocast(t: st.Topology) -> None:
    values, x = leaf(torch.randn(t.nnz)), torch.randn(4, COLUMNS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = st.ops.linear(x.bfloat16(), t, values)
    y.sum().backward()
    assert y.dtype is torch.bfloat16
    exact = dense_spmm(t, values.double(), x.bfloat16().double().t()).t()
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=1e-6)  # rounded once


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: st.ops.linear(torch.ones(2, 4), t, torch.ones(t.nnz)), ValueError, "linear: expected 5 input features, got 4 (x has shape (2, 4))."),
        (lambda t: st.ops.linear(torch.tensor(1.0), t, torch.ones(t.nnz)), ValueError, "expected 5 input features, got none"),
        (lambda t: st.ops.linear(torch.ones(2, 5), t, torch.ones(1)), ValueError, "expected values of shape (18,), one for each edge"),
        (lambda t: st.ops.linear(torch.ones(2, 5), t, torch.ones(t.nnz), torch.ones(5)), ValueError, "expected bias of shape (6,), got (5,)"),
        (lambda t: st.ops.linear(torch.ones(2, 5).int(), t, torch.ones(t.nnz)), TypeError, "expected x in float32, float64, float16 or bfloat16, got torch.int32"),
        (lambda t: st.ops.linear(torch.ones(2, 5).double(), t, torch.ones(t.nnz)), TypeError, "expected one dtype, got x torch.float64, values torch.float32"),
        (lambda t: st.ops.linear(torch.ones(2, 5, device="meta"), t, torch.ones(t.nnz)), TypeError, "expected x on cpu, where the topology is, got meta"),
        (lambda t: st.ops.linear(np.ones((2, 5)), t, torch.ones(t.nnz)), TypeError, "linear: expected x to be a torch.Tensor, got ndarray"),
        (lambda t: st.ops.linear(torch.ones(2, 5), torch.ones(t.nnz), t), TypeError, "linear: expected t to be a sparsetrain.Topology, got Tensor. Call it as linear(x, t, values, bias)."),
        (lambda t: st.ops.linear(torch.ones(2, 5), t, [1.0] * t.nnz), TypeError, "linear: expected values to be a torch.Tensor, got list. Call it as linear(x, t, values, bias)"),
        (lambda t: st.ops.linear(torch.ones(2, 5), t, torch.ones(t.nnz), [0.0] * 6), TypeError, "linear: expected bias to be a torch.Tensor, got list"),
        (lambda t: st.ops.spmm(torch.ones(t.nnz), t, torch.ones(5, 2)), TypeError, "spmm: expected t to be a sparsetrain.Topology, got Tensor. Call it as spmm(t, values, x)."),
        (lambda t: st.ops.spmm(t, np.ones(t.nnz), torch.ones(5, 2)), TypeError, "spmm: expected values to be a torch.Tensor, got ndarray"),
        (lambda t: st.ops.sddmm(torch.ones(6, 2), torch.ones(5, 2), t), TypeError, "sddmm: expected t to be a sparsetrain.Topology, got Tensor. Call it as sddmm(t, a, b)."),
        (lambda t: st.nn.SparseLinear(3, 3, topology=torch.eye(3)), TypeError, "SparseLinear: expected a Topology, got Tensor. Make one with Topology.from_mask"),
        (lambda t: st.ops.spmm(t, torch.ones(t.nnz), torch.ones(6, 2)), ValueError, "spmm: expected x of shape (5, batch), got (6, 2)"),
        (lambda t: st.ops.spmm(t, torch.ones(t.nnz), torch.ones(5)), ValueError, "spmm: expected x of shape (5, batch), got (5,)"),
        (lambda t: st.ops.sddmm(t, torch.ones(6, 2), torch.ones(5, 3)), ValueError, "sddmm: expected a and b of one batch size, got 2 and 3"),
        (lambda t: st.ops.sddmm(t, torch.ones(5, 2), torch.ones(5, 2)), ValueError, "sddmm: expected a of shape (6, batch), got (5, 2)"),
    ],
)  # fmt: skip
def test_messages(t: st.Topology, call: Callable[[st.Topology], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call(t)


def test_a_graph_older_than_a_change_of_topology_raises() -> None:
    layer = st.nn.SparseLinear(5, 6, density=0.5)
    for other in (st.patterns.uniform((6, 5), 0.2), st.patterns.uniform((6, 5), 0.2)):  # of another and of equal nnz
        y = layer(torch.randn(2, 5, requires_grad=True))
        layer.replace_edges(other, torch.zeros(other.nnz))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
        del y  # torch keeps a parameter's shape as long as a graph of it lives
        layer(torch.randn(2, 5)).sum().backward()
        assert layer.values.grad is not None
        assert layer.values.grad.shape == (other.nnz,)


def test_values_of_another_length_in_a_recorded_graph_are_refused(t: st.Topology) -> None:
    values, x = leaf(normal(t.nnz)), leaf(normal(COLUMNS, BATCH))
    y = st.ops.spmm(t, values, x)
    values.data = values.data[:3]
    with pytest.raises(RuntimeError, match=f"backward: expected {t.nnz} values, got 3"):
        y.sum().backward()
