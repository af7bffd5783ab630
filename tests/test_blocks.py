"""Products through dense blocks, and the choice between them and kernels."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jvp, vmap

import sparsetrain as st
from sparsetrain.backends import choice as module
from sparsetrain.backends.blocks import products
from sparsetrain.backends.blocks.scratch import row_blocks
from sparsetrain.backends.cost import RATES, blocks_are_faster_on_cpu, blocks_are_faster_on_cuda

ROWS, COLUMNS, BATCH = 7, 5, 4
DOUBLE = 8


@pytest.fixture
def t() -> st.Topology:
    return st.Topology.from_mask(torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3)) < 0.6)


@pytest.fixture(params=[1, 2 * COLUMNS * DOUBLE, 3 * COLUMNS * DOUBLE + 1, 16 << 20], ids=["1", "2", "3", "all"])
def blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rows of a block."""
    before = st.ops.block_bytes()
    st.ops.set_block_bytes(request.param)
    with st.ops.use_backend("blocks"):
        yield
    st.ops.set_block_bytes(before)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def leaf(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_()


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("layout", ["row-major", "feature-major", "strided"])
@pytest.mark.usefixtures("blocks")
def test_products_and_gradients_are_those_of_a_dense_matrix(t: st.Topology, transpose: bool, layout: str) -> None:
    inputs, outputs = (ROWS, COLUMNS) if transpose else (COLUMNS, ROWS)
    values, bias = leaf(normal(t.nnz)), leaf(normal(outputs))
    x = normal(BATCH, 2 * inputs)[:, ::2] if layout == "strided" else normal(BATCH, inputs)
    x = leaf((st.ops.feature_major(x) if layout == "feature-major" else x).detach())
    weight = leaf(torch.zeros(ROWS, COLUMNS, dtype=torch.float64))
    with torch.no_grad():
        weight[t.row.long(), t.col.long()] = values
    y = st.ops.linear(x, t, values, bias, transpose=transpose)
    twin = leaf(x.detach().clone())
    expected = nn.functional.linear(twin, weight.t() if transpose else weight, bias.detach())
    dy = normal(BATCH, outputs)
    y.backward(dy)
    expected.backward(dy)
    close = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(y, expected, **close)
    torch.testing.assert_close(x.grad, twin.grad, **close)
    torch.testing.assert_close(values.grad, weight.grad[t.row.long(), t.col.long()], **close)
    torch.testing.assert_close(bias.grad, dy.sum(0), **close)
    assert (y.stride(-1) == 1) == (layout != "feature-major")


@pytest.mark.usefixtures("blocks")
def test_all_derivatives(t: st.Topology) -> None:
    operands = leaf(normal(BATCH, COLUMNS)), leaf(normal(t.nnz)), leaf(normal(ROWS))

    def map_of(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return st.ops.linear(x, t, values, bias)

    assert gradcheck(map_of, operands, check_forward_ad=True)
    assert gradgradcheck(map_of, operands)
    x, values, bias = (operand.detach() for operand in operands)
    direction = normal(t.nnz)
    _, tangent = jvp(lambda v: map_of(x, v, bias), (values,), (direction,))
    torch.testing.assert_close(tangent, st.ops.linear(x, t, direction))
    many = normal(3, BATCH, COLUMNS)
    torch.testing.assert_close(
        vmap(lambda z: map_of(z, values, bias))(many), torch.stack([map_of(z, values, bias) for z in many])
    )
    assert hessian(lambda v: map_of(x, v, bias).square().sum())(values).shape == (t.nnz, t.nnz)


def test_compiled(t: st.Topology) -> None:
    values, x = leaf(torch.randn(t.nnz)), torch.randn(BATCH, COLUMNS)
    with st.ops.use_backend("blocks"):
        compiled = torch.compile(lambda z: st.ops.linear(z, t, values), fullgraph=True, backend="aot_eager")
        y = compiled(x)
    y.sum().backward()
    torch.testing.assert_close(y, x @ dense(t, values).t())
    torch.testing.assert_close(values.grad, x.sum(0)[t.col.long()])


def dense(t: st.Topology, values: Tensor) -> Tensor:
    weight = values.new_zeros(t.shape)
    weight[t.row.long(), t.col.long()] = values.detach()
    return weight


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 4)])
def test_nothing_to_multiply(shape: tuple[int, int]) -> None:
    t = st.Topology.from_mask(torch.zeros(shape, dtype=torch.bool))
    values, x = leaf(torch.zeros(0)), leaf(torch.randn(2, shape[1]))
    with st.ops.use_backend("blocks"):
        y = st.ops.linear(x, t, values)
        assert st.ops.linear(x[:0], t, values).shape == (0, shape[0])
    y.sum().backward()
    assert y.shape == (2, shape[0])
    assert not y.any()
    assert not x.grad.any()


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_blocks_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    expanded, outer = products._expanded, products._outer
    monkeypatch.setattr(products, "_expanded", lambda *a: noted(made, expanded(*a)))
    monkeypatch.setattr(products, "_outer", lambda *a: noted(made, outer(*a)))
    layer, x = st.nn.SparseLinear(100, 90, density=0.7), torch.randn(8, 100)
    before = st.ops.block_bytes()
    st.ops.set_block_bytes(100 * 4 * 20)
    try:
        with st.ops.use_backend("blocks"):
            layer(x.requires_grad_()).sum().backward()
    finally:
        st.ops.set_block_bytes(before)
    assert len(made) == 3 * 5  # forward, and both gradients
    assert max(made) <= 100 * 4 * 20


def noted(made: list[int], block: Tensor) -> Tensor:
    made.append(block.nbytes)
    return block


def test_where_each_position_has_an_edge_the_values_are_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "expand", None)
    monkeypatch.setattr(products, "gather", None)
    layer, x = st.nn.SparseLinear(6, 4, density=1.0), torch.randn(3, 6)
    weight = layer.values.detach().view(4, 6)
    for where in (module.AUTOMATIC, "blocks"):
        y = layer(x) if where == module.AUTOMATIC else forced(layer, x)
        torch.testing.assert_close(y, nn.functional.linear(x, weight, layer.bias))
        layer.values.grad = None
        y.sum().backward()
        torch.testing.assert_close(layer.values.grad.view(4, 6), x.sum(0).expand(4, 6))


def forced(layer: nn.Module, x: Tensor) -> Tensor:
    with st.ops.use_backend("blocks"):
        result: Tensor = layer(x)
    return result


def test_row_blocks() -> None:
    assert row_blocks(10, 4, 4, budget=10**9) == [(0, 10)]
    assert row_blocks(10, 4, 4, budget=1) == [(row, row + 1) for row in range(10)]
    assert row_blocks(0, 4, 4, budget=1) == [(0, 0)]
    for rows, budget in ((17, 100), (1000, 999), (31, 64)):
        found = row_blocks(rows, 4, 4, budget)
        assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
        assert found[-1][1] == rows
        assert all(0 < (last - first) * 16 <= budget for first, last in found)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_sizes_that_are_refused(size: Any, error: type[Exception]) -> None:
    before = st.ops.block_bytes()
    with pytest.raises(error, match="set_block_bytes: expected a"):
        st.ops.set_block_bytes(size)
    assert st.ops.block_bytes() == before


# ---- what each way does with infinities ------------------------------------------------------------------------------


def test_an_infinite_input_reaches_all_outputs_as_in_a_dense_layer() -> None:
    """Kernels multiply stored positions alone; zeros that blocks write out are multiplied too."""
    t = st.Topology.from_mask(torch.tensor([[1, 0], [0, 1]]))
    values, x = torch.ones(2), torch.tensor([[float("inf"), 1.0], [2.0, 1.0]])
    of_kernels = st.ops.linear(x, t, values)
    assert of_kernels.tolist() == [[float("inf"), 1.0], [2.0, 1.0]]
    with st.ops.use_backend("blocks"):
        y = st.ops.linear(x, t, values)
    twin = nn.functional.linear(x, torch.eye(2))
    torch.testing.assert_close(y, twin, equal_nan=True)
    assert y[0].isnan().tolist() == [False, True]


# ---- the choice ------------------------------------------------------------------------------------------------------


def test_the_choice_follows_from_density_and_batch() -> None:
    sparse, half, full = (st.nn.SparseLinear(600, 500, density=d) for d in (0.1, 0.9, 1.0))
    assert st.ops.choice(sparse, 512)[::2] == ("numba", "numba")
    assert st.ops.choice(half, 512)[::2] == ("blocks", "blocks")
    assert st.ops.choice(half, 1).backend == "numba"  # a dense product would read as much
    assert st.ops.choice(full, 1).backend == "blocks"
    assert "density 0.1 and a batch of 512" in st.ops.choice(sparse, 512).reason
    assert st.ops.choice(full.topology, 8).reason == "every position has an edge: the values are the matrix"
    with st.ops.use_backend("torch"):
        assert st.ops.choice(half, 512) == ("torch", "use_backend asks for it", "torch")


def test_reasons_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    t = st.patterns.uniform((100, 100), 0.01)
    assert "nothing was measured on mps" in st.ops.choice(t, 8, device="mps").reason
    monkeypatch.setattr(module, "usable", lambda _: False)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    chosen = st.ops.choice(t, 8, device="cuda")
    assert chosen.backend == chosen.gradients == "blocks"
    assert "deterministic" in chosen.reason


def test_what_is_chosen_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name in ("numba", "blocks"):
        backend = module.BACKENDS[name]
        for verb in ("spmm", "backward"):
            plain = getattr(backend, verb)
            monkeypatch.setattr(
                backend, verb, lambda *a, of=f"{name} {verb}", f=plain, **o: called.append(of) or f(*a, **o)
            )
    monkeypatch.setattr(module, "blocks_are_faster_on_cpu", lambda *arguments: arguments[-1])
    layer = st.nn.SparseLinear(20, 10, density=0.5)
    layer(torch.randn(6, 20, requires_grad=True)).sum().backward()
    assert called[:2] == ["numba spmm", "blocks backward"]


@pytest.mark.parametrize("width", sorted(RATES))
def test_costs(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each width: kernels where few edges exist, blocks where most do, and one change between."""
    monkeypatch.setattr("sparsetrain.backends.cost.VECTOR_BYTES", width)
    for batch in (100, 512, 4096):
        for gradients in (False, True):
            chosen = [blocks_are_faster_on_cpu(2**20, 2**20 * k // 100, batch, gradients) for k in range(101)]
            assert chosen == sorted(chosen)
            assert not chosen[30]
            assert chosen[85] or batch < 512
    assert not blocks_are_faster_on_cpu(64 * 64, 64 * 64 * 9 // 10, 16, gradients=True)  # calls would take longer


def test_costs_on_cuda() -> None:
    n = 4096 * 4096
    options: Any = {"fused": True, "tf32": True}
    assert blocks_are_faster_on_cuda(n, n // 10, 8192, torch.bfloat16, **options)
    assert not blocks_are_faster_on_cuda(n, n // 1000, 8192, torch.bfloat16, **options)
    assert blocks_are_faster_on_cuda(n, n, 1, torch.float32, **options)
    # without tensor cores, kernels over the edges win up to a higher density
    assert blocks_are_faster_on_cuda(n, n // 50, 4096, torch.float32, fused=True, tf32=True)
    assert not blocks_are_faster_on_cuda(n, n // 50, 4096, torch.float32, fused=True, tf32=False)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: st.ops.choice(nn.Linear(2, 3), 4), TypeError, "a layer that has one, got Linear"),
        (lambda: st.ops.choice(st.nn.SparseLinear(2, 3, density=1.0), -1), ValueError, "expected batch >= 0, got -1"),
        (lambda: st.ops.choice(st.nn.SparseLinear(2, 3, density=1.0), 4, torch.int32), TypeError, "got torch.int32"),
        (
            lambda: st.ops.choice(st.nn.SparseLinear(2, 3, density=1.0), 2.5),
            TypeError,
            "batch to be an integer, got 2.5",
        ),  # type: ignore[arg-type]
        (lambda: st.ops.use_backend("csr").__enter__(), ValueError, "got 'csr'"),
    ],
)
def test_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_backend_that_the_device_does_not_have() -> None:
    t, values = st.Topology.from_mask(torch.eye(2)), torch.ones(2)
    with st.ops.use_backend("triton"), pytest.raises(RuntimeError, match=r"triton computes on CUDA .* Ask for blocks"):
        st.ops.linear(torch.ones(1, 2), t, values)
    assert not st.ops.linear(torch.ones(1, 2), t, values).isnan().any()
