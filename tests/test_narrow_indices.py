"""Columns in 16 bits: the same structures, products and changes of edges, bit for bit, in fewer bytes."""

import pickle
from typing import Any

import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from sparsetrain_kernels import reference
from structures import Structure, structures

import sparsetrain as st
from sparsetrain.structure import index_types

few = settings(max_examples=25, deadline=None)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of edges."""
    monkeypatch.setattr(index_types, "NARROW_EDGES", 0)


def pair(shape: tuple[int, int], density: float, monkeypatch: pytest.MonkeyPatch) -> tuple[st.Topology, st.Topology]:
    """The same edges with indices of 32 bits and of 16."""
    wide = st.patterns.uniform(shape, density, torch.Generator().manual_seed(0))
    assert wide.transposed.col_t.dtype is torch.int32  # made before narrow ones are
    monkeypatch.setattr(index_types, "NARROW_EDGES", 0)
    return wide, st.Topology(wide.crow, wide.col, shape)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("columns", "kind"), [(1 << 16, torch.uint16), ((1 << 16) + 1, torch.int32)])
def test_as_many_columns_as_16_bits_number(columns: int, kind: torch.dtype) -> None:
    t = st.Topology([0, 2, 3], [0, columns - 1, columns - 1], (2, columns))
    assert (t.stored_col.dtype, t.col.dtype, t.crow.dtype) == (kind, torch.int32, torch.int32)
    assert t.col.tolist() == [0, columns - 1, columns - 1]
    assert t.position(1, columns - 1).item() == 2
    assert t.fan_out[-1].item() == 2
    with pytest.raises(IndexError, match="is not stored"):
        t.position(1, 0)


def test_few_edges_keep_indices_of_32_bits() -> None:
    assert st.patterns.uniform((50, 40), 0.2).stored_col.dtype is torch.int32


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("crow", "col", "fault"),
    [([0, 2], [1, 0], "column 1 before 0"), ([0, 2], [1, 1], "column 1 twice"), ([0, 1], [9], "from 0 to 2, got 9")],
)
def test_faults_are_named_before_columns_are_narrowed(crow: list[int], col: list[int], fault: str) -> None:
    with pytest.raises((ValueError, IndexError), match=fault):
        st.Topology(crow, col, (1, 3))


@pytest.mark.parametrize("piece", [1, 2, 7, 1000])
def test_faults_are_found_wherever_pieces_begin(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_types, "PIECE", piece)
    t = st.patterns.uniform((9, 11), 0.4, torch.Generator().manual_seed(1))
    assert st.Topology(t.crow, t.col, t.shape).nnz == t.nnz
    inside = (t.row[1:] == t.row[:-1]).nonzero().flatten()
    for k in inside.tolist():
        col = t.col.clone()
        col[k + 1] = col[k]
        with pytest.raises(ValueError, match=f"column {int(col[k])} twice in row {int(t.row[k])}"):
            st.Topology(t.crow, col, t.shape)


def test_what_follows_from_the_edges_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, t = pair((30, 50), 0.3, monkeypatch)
    assert (t.stored_col.dtype, wide.stored_col.dtype) == (torch.uint16, torch.int32)
    assert t.digest == wide.digest
    assert t.transposed.col_t.dtype is torch.uint16
    assert t.nbytes == wide.nbytes - 4 * t.nnz
    assert torch.equal(t.row, wide.row)
    assert torch.equal(t.fan_out, wide.fan_out)
    assert st.Topology.living(t.crow, t.stored_col, t.shape) is t
    copy = pickle.loads(pickle.dumps(t))
    assert copy.digest == t.digest
    assert copy.stored_col.dtype is torch.uint16
    for mine, other in zip(t.transposed, wide.transposed, strict=True):
        assert torch.equal(mine.long(), other.long())
    assert t.transpose().stored_col.data_ptr() == t.transposed.col_t.data_ptr()
    assert t.transpose().digest == wide.transpose().digest


@pytest.mark.parametrize("backend", ["numba", "blocks", "torch"])
@pytest.mark.parametrize("batch", [1, 3, 40, 300])
def test_layers_compute_the_same_bits(backend: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    x, dy = torch.randn(batch, 70), torch.randn(batch, 60)
    for t in pair((60, 70), 0.4, monkeypatch):
        layer = st.nn.SparseLinear(70, 60, topology=t, generator=torch.Generator().manual_seed(2))
        given_x = x.clone().requires_grad_()
        with st.ops.use_backend(backend):
            y = layer(given_x)
            y.backward(dy)
            z = st.ops.linear(y.detach(), t, layer.values, transpose=True)
        found.append((y, given_x.grad, layer.values.grad, z))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batch", [1, 20])
def test_the_upper_half_of_16_bits_has_no_sign(batch: int, transposed: bool) -> None:
    rng = np.random.default_rng(0)
    most = np.sort(rng.choice(1 << 16, 40, replace=False)).astype(np.uint16)  # eight are gathered at a time
    most[-1] = (1 << 16) - 1
    shape = (1, 1 << 16)
    crow, col = np.array([0, 40], np.int32), most
    if transposed:
        crow, col, perm = kernels.transpose(crow, col, shape[1], np.uint16)
        shape = (1 << 16, 1)
    values = rng.standard_normal(40).astype(np.float32)
    x, dy = (rng.standard_normal((size, batch)).astype(np.float32) for size in shape[::-1])
    row = np.repeat(np.arange(shape[0]), np.diff(crow))
    y, dx, grad = np.empty_like(dy), np.empty_like(x), np.empty_like(values)
    kernels.spmm(kernels.plan(crow, col, shape[1]), values, x, y)
    exact = np.zeros(dy.shape)
    np.add.at(exact, row, values[:, None].astype(np.float64) * x[col])
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-5)
    crow_t, col_t, perm = kernels.transpose(crow, col, shape[1], np.uint16)
    kernels.backward(kernels.plan(crow_t, col_t, shape[0]), perm, values, x, dy, dx, grad)
    exact = np.zeros(x.shape)
    np.add.at(exact, col, values[:, None].astype(np.float64) * dy[row])
    np.testing.assert_allclose(dx, exact, rtol=0, atol=1e-5)
    np.testing.assert_allclose(grad, (dy[row].astype(np.float64) * x[col]).sum(1), rtol=0, atol=1e-4)
    dots = np.empty_like(values)
    kernels.sddmm(kernels.plan(crow, col, shape[1]), dy, x, dots)
    np.testing.assert_allclose(dots, grad, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rule", [st.evolve.SET(), st.evolve.RigL(), st.evolve.GMP()], ids=lambda r: type(r).__name__)
def test_edges_evolve_to_the_same_ones(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for least, kind in ((1 << 62, torch.int32), (0, torch.uint16)):
        monkeypatch.setattr(index_types, "NARROW_EDGES", least)
        torch.manual_seed(0)
        t = st.patterns.uniform((40, 50), 0.4)
        layer = st.nn.SparseLinear(50, 40, topology=t)
        optimizer = st.optim.Adam(layer.parameters())
        schedule: Any = (
            st.evolve.Cubic(interval=2, stop=8, final_density=0.1)
            if isinstance(rule, st.evolve.GMP)
            else st.evolve.Constant(interval=2, stop=8, prune_fraction=0.3)
        )
        evolver = st.evolve.Evolver(layer, optimizer, rule, schedule, generator=torch.Generator().manual_seed(0))
        for _ in range(8):
            optimizer.zero_grad()
            layer(torch.randn(20, 50)).square().mean().backward()
            optimizer.step()
            evolver.step()
        assert layer.topology.digest != t.digest
        assert layer.topology.stored_col.dtype is kind
        digests.append((layer.topology.digest, layer.values.detach().clone()))
    assert digests[0][0] == digests[1][0]
    torch.testing.assert_close(digests[0][1], digests[1][1], rtol=0, atol=0)


def test_a_convolution_computes_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    x = torch.randn(2, 4, 9, 9)
    for t in pair((6, 36), 0.4, monkeypatch):
        layer = st.nn.SparseConv2d(4, 6, 3, topology=t, generator=torch.Generator().manual_seed(2))
        given_x = x.clone().requires_grad_()
        with st.ops.use_backend("numba"):
            y = layer(given_x)
            y.square().sum().backward()
        found.append((y, given_x.grad, layer.values.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@few
@given(structures(), some.sampled_from([1, 20]), some.integers(0, 2**32 - 1))
def test_kernels_read_16_bits_as_32(s: Structure, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, x, dy = (
        rng.standard_normal(size).astype(np.float32) for size in (s.col.size, (s.columns, batch), (s.rows, batch))
    )
    kept = rng.permutation(s.col.size) % 3 > 0
    results: list[list[Any]] = []
    for col in (s.col, s.col.astype(np.uint16)):
        plan = kernels.plan(s.crow, col, s.columns)
        crow_t, col_t, perm = kernels.transpose(s.crow, col, s.columns, col.dtype)
        assert (crow_t.dtype, col_t.dtype, perm.dtype) == (s.crow.dtype, col.dtype, s.crow.dtype)
        y, dx, grad = np.empty_like(dy), np.empty_like(x), np.empty_like(values)
        kernels.spmm(plan, values, x, y)
        kernels.backward(kernels.plan(crow_t, col_t, s.rows), perm, values, x, dy, dx, grad)
        dots = np.empty_like(values)
        kernels.sddmm(plan, dy, x, dots)
        none = np.zeros(s.rows + 1, np.int64), np.empty(0, np.int64)
        merged = kernels.merge(s.crow, col, kept, *none, int(kept.sum()))[:3]
        twin = np.empty_like(dy)
        reference.spmm(plan, values, x, twin)
        np.testing.assert_allclose(y, twin, rtol=0, atol=2e-5)
        results.append([crow_t, col_t, perm, y, dx, grad, dots, *merged])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@few
@given(structures(), some.integers(0, 2**32 - 1))
def test_former_places_are_those_that_a_search_finds(s: Structure, seed: int) -> None:
    mask = np.random.default_rng(seed).random((s.rows, s.columns)) < 0.4
    new_crow = np.concatenate([[0], mask.sum(1).cumsum()]).astype(np.int32)
    row, col = mask.nonzero()
    places = {edge: k for k, edge in enumerate(zip(s.row.tolist(), s.col.tolist(), strict=True))}
    expected = [places.get(edge, -1) for edge in zip(row.tolist(), col.tolist(), strict=True)]
    for kind in (np.int32, np.uint16):
        assert kernels.former(s.crow, s.col.astype(kind), new_crow, col.astype(kind)).tolist() == expected


def test_a_layer_that_goes_on_through_blocks_gives_its_plan_back() -> None:
    layer = st.nn.SparseLinear(40, 30, density=0.3)
    x = torch.randn(20, 40, requires_grad=True)

    def train(backend: str, passes: int) -> int:
        with st.ops.use_backend(backend):
            for _ in range(passes):
                layer(x).sum().backward()
        return layer.topology.nbytes

    before = train("blocks", 1)
    assert train("blocks", 20) == before, "no plan is made"
    planned = train("numba", 1)
    assert planned > before + 8 * layer.topology.nnz
    assert train("blocks", 7) == planned, "batches may go to and fro"
    train("numba", 1)
    assert train("blocks", 7) == planned
    assert train("blocks", 1) <= before + 400, "pointers and chunks of the forward product"
    assert train("numba", 1) == planned
