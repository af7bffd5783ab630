"""Topology: what its docstrings claim, against masks, scipy and plain Python."""

import copy
import gc
import hashlib
import pickle
import struct
import weakref

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some

from sparsetrain import Topology

INT32_MAX = 2**31 - 1
HUGE = 2**41

sizes = some.integers(0, 7)
masks = some.tuples(sizes, sizes).flatmap(
    lambda shape: some.lists(some.booleans(), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
        lambda bits: np.array(bits, dtype=bool).reshape(shape)
    )
)
wide_shapes = some.tuples(some.integers(1, 4), some.sampled_from([1, 5, INT32_MAX, INT32_MAX + 1, HUGE, 2**62]))
wide_edges = wide_shapes.flatmap(
    lambda shape: some.tuples(
        some.just(shape),
        some.lists(some.tuples(some.integers(0, shape[0] - 1), some.integers(0, shape[1] - 1)), unique=True),
    )
)
quick = settings(deadline=None, max_examples=60)


def of(edges, shape):
    return Topology.from_coo([i for i, _ in edges], [j for _, j in edges], shape)


def edges_of(t):
    return list(zip(t.row.tolist(), t.col.tolist(), strict=True))


def same(a, b):
    return a.shape == b.shape and a.crow.tolist() == b.crow.tolist() and a.col.tolist() == b.col.tolist()


@pytest.fixture
def t():
    """Rows [1 0 1], [0 0 0], [0 1 0]."""
    return Topology([0, 2, 2, 3], [0, 2, 1], (3, 3))


# ---- structure ---------------------------------------------------------------------------------------------------


def test_literal_structure(t):
    assert t.crow.tolist() == [0, 2, 2, 3]
    assert t.col.tolist() == [0, 2, 1]
    assert t.row.tolist() == [0, 0, 2]
    assert t.fan_in.tolist() == [2, 0, 1]
    assert t.fan_out.tolist() == [1, 1, 1]
    assert (t.shape, t.nnz, t.numel, t.density) == ((3, 3), 3, 9, 3 / 9)
    assert t.device == torch.device("cpu")
    assert repr(t) == "Topology(shape=(3, 3), nnz=3, density=0.3333)"
    assert t.inputs is None
    assert t.outputs is None


@quick
@given(masks)
@example(np.zeros((0, 0), bool))
@example(np.zeros((0, 5), bool))
@example(np.zeros((5, 0), bool))
@example(np.zeros((4, 6), bool))
@example(np.ones((4, 6), bool))
@example(np.ones((1, 6), bool))
@example(np.ones((6, 1), bool))
def test_a_mask_and_its_topology_say_the_same(mask):
    t = Topology.from_mask(mask)
    oracle = scipy.sparse.csr_array(mask)
    assert t.crow.tolist() == oracle.indptr.tolist()
    assert t.col.tolist() == oracle.indices.tolist()
    assert t.row.tolist() == mask.nonzero()[0].tolist()
    assert t.fan_in.tolist() == mask.sum(1).tolist()
    assert t.fan_out.tolist() == mask.sum(0).tolist()
    assert t.nnz == mask.sum()
    assert t.numel == mask.size
    assert t.density == (mask.mean() if mask.size else 0)
    assert np.array_equal(t.to_mask().numpy(), mask)
    assert t.to_mask().shape == mask.shape
    assert {t.crow.dtype, t.col.dtype, t.row.dtype, t.fan_in.dtype, t.fan_out.dtype} == {torch.int32}


@quick
@given(masks, some.randoms())
def test_from_coo_takes_edges_in_any_order(mask, random):
    t = Topology.from_mask(mask)
    shuffled = random.sample(edges_of(t), t.nnz)
    assert same(of(shuffled, mask.shape), t)
    assert same(Topology(t.crow, t.col, t.shape), t)


@quick
@given(wide_edges, some.randoms())
@example(((3, HUGE), [(0, 2**40)]), None)
@example(((4, 2**62), [(3, 2**62 - 1), (0, 0), (3, 0), (0, 2**62 - 1)]), None)  # positions that int64 can't number
def test_indices_past_int32(case, random):
    shape, edges = case
    t = of(edges, shape)
    assert edges_of(t) == sorted(edges)
    assert t.fan_in.tolist() == [sum(i == row for i, _ in edges) for row in range(shape[0])]
    assert {t.crow.dtype, t.col.dtype} == {torch.int32 if shape[1] <= INT32_MAX else torch.int64}
    assert same(Topology(t.crow, t.col, shape), t)
    assert same(pickle.loads(pickle.dumps(t)), t)
    assert t.position(*torch.tensor(sorted(edges), dtype=torch.int64).reshape(-1, 2).T).tolist() == list(range(t.nnz))


@pytest.mark.parametrize(("size", "dtype"), [(INT32_MAX, torch.int32), (INT32_MAX + 1, torch.int64)])
def test_int64_starts_where_int32_ends(size, dtype):
    t = Topology([0, 1], [size - 1], (1, size))
    assert t.crow.dtype == t.col.dtype == t.row.dtype == t.fan_in.dtype == dtype
    assert t.col.tolist() == [size - 1]


def test_four_bytes_per_edge_and_per_row():
    t = Topology.from_mask(torch.ones(10, 20))
    assert t.col.untyped_storage().nbytes() == 4 * 200
    assert t.crow.untyped_storage().nbytes() == 4 * 11


def test_nbytes_counts_the_indices_and_once_what_is_derived(t):
    assert t.nbytes == 4 * (3 + 4)  # col, crow
    assert t.transposed
    assert t.nbytes == 4 * (3 + 4) + 4 * (3 + 3 + 4)  # col_t, perm, crow_t
    t.transpose()  # made of the plan's arrays
    assert t.nbytes == 4 * (3 + 4) + 4 * (3 + 3 + 4)


# ---- identity ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [3, HUGE])
def test_digest_is_sha256_of_shape_and_edges_as_int64(columns):
    t = Topology([0, 1, 3], [2, 0, 1], (2, columns))
    expected = hashlib.sha256(struct.pack("<8q", 2, columns, 0, 1, 3, 2, 0, 1)).hexdigest()
    assert t.digest == expected


@quick
@given(masks, masks)
def test_digests_are_equal_exactly_where_topologies_are(one, other):
    a, b = Topology.from_mask(one), Topology.from_mask(other)
    assert (a.digest == b.digest) == same(a, b)
    assert Topology.from_mask(one.copy()).digest == a.digest


def test_digest_sees_every_difference_and_no_names():
    base = Topology([0, 1, 2], [0, 1], (2, 2))
    others = [
        Topology([0, 1, 2], [1, 0], (2, 2)),
        Topology([0, 2, 2], [0, 1], (2, 2)),
        Topology([0, 1, 1], [0], (2, 2)),
        Topology([0, 1, 2], [0, 1], (2, 3)),
        Topology([0, 1, 2, 2], [0, 1], (3, 2)),
        Topology([0, 1, 2], [0, 1], (2, HUGE)),
    ]
    assert len({t.digest for t in [base, *others]}) == 7
    assert Topology([0, 1, 2], [0, 1], (2, 2), inputs=["a", "b"]).digest == base.digest


def test_it_can_not_be_changed(t):
    for name in ("crow", "col", "shape", "inputs", "outputs", "_derived", "other"):
        with pytest.raises(AttributeError, match=f"Topology is immutable: {name} can't be set"):
            setattr(t, name, None)
    with pytest.raises(AttributeError, match="Topology is immutable: crow can't be deleted"):
        del t.crow
    with pytest.raises(AttributeError):
        t.nnz = 4
    assert t.nnz == 3


def test_copies_are_the_same_object_and_pickles_are_equal_ones(t):
    assert copy.copy(t) is t
    assert copy.deepcopy([t, t])[1] is t
    named = Topology(t.crow, t.col, t.shape, inputs=["a", "b", "c"], outputs=[1, 2, 3])
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps(named, protocol))
        assert same(loaded, named)
        assert loaded.digest == named.digest
        assert (loaded.inputs, loaded.outputs) == (("a", "b", "c"), ("1", "2", "3"))


def test_pickles_do_not_carry_what_is_derived():
    t = Topology.from_mask(torch.ones(50, 50))
    before = len(pickle.dumps(t))
    assert t.transposed
    assert t.transpose()
    assert t.digest
    assert len(pickle.dumps(t)) == before


def test_derived_is_built_once_and_dies_with_the_topology(t):
    calls = []

    def build(topology):
        calls.append(topology)
        return [topology.nnz]

    assert t.derived(build) == [3]
    assert t.derived(build) is t.derived(build)
    assert calls == [t]
    assert t.transposed is t.transposed
    short_lived = Topology.from_mask(torch.ones(2, 2))
    short_lived.to("meta")
    died = weakref.ref(short_lived)
    del short_lived
    gc.collect()
    assert died() is None


# ---- devices -----------------------------------------------------------------------------------------------------


def test_to_is_memoized_and_comes_home(t):
    assert t.to("cpu") is t
    assert t.to(torch.device("cpu", 0)) is t
    away = t.to("meta")
    assert away is t.to(torch.device("meta"))
    assert away is not t
    assert away.device.type == "meta"
    assert (away.shape, away.nnz, away.crow.dtype) == (t.shape, t.nnz, t.crow.dtype)
    assert away.to("cpu") is t
    assert away.to("meta") is away


def test_to_keeps_names():
    t = Topology([0, 1], [0], (1, 1), inputs=["a"], outputs=["b"])
    assert (t.to("meta").inputs, t.to("meta").outputs) == (("a",), ("b",))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_on_a_gpu(t):
    there = t.to("cuda")
    assert there is t.to(torch.device("cuda", torch.cuda.current_device()))
    assert there.digest == t.digest
    assert there.row.device == there.fan_out.device == there.device
    assert there.transpose().digest == t.transpose().digest
    assert there.transposed.perm.tolist() == t.transposed.perm.tolist()
    assert there.position([0, 2], [2, 1]).tolist() == [1, 2]
    assert same(Topology.from_mask(there.to_mask()).to("cpu"), t)


# ---- transposes --------------------------------------------------------------------------------------------------


@quick
@given(masks)
@example(np.zeros((0, 3), bool))
@example(np.zeros((3, 0), bool))
@example(np.ones((3, 5), bool))
def test_the_transpose_plan_orders_values_by_column(mask):
    t = Topology.from_mask(mask)
    values = np.arange(1.0, t.nnz + 1)
    weight = np.zeros(mask.shape)
    weight[mask] = values
    crow_t, col_t, perm = t.transposed
    oracle = scipy.sparse.csr_array(weight.T)
    assert crow_t.tolist() == oracle.indptr.tolist()
    assert col_t.tolist() == oracle.indices.tolist()
    assert values[perm.numpy()].tolist() == oracle.data.tolist()
    assert same(t.transpose(), Topology.from_mask(mask.T))
    assert same(t.transpose().transpose(), t)
    assert t.transpose() is t.transpose()


def test_transposing_swaps_names():
    t = Topology([0, 2], [0, 1], (1, 2), inputs=["a", "b"], outputs=["c"])
    assert (t.transpose().inputs, t.transpose().outputs) == (("c",), ("a", "b"))
    assert t.transpose().shape == (2, 1)


# ---- position ----------------------------------------------------------------------------------------------------


@quick
@given(masks)
@example(np.ones((1, 7), bool))
@example(np.ones((7, 1), bool))
def test_position_finds_every_edge_and_nothing_else(mask):
    t = Topology.from_mask(mask)
    assert t.position(t.row, t.col).tolist() == list(range(t.nnz))
    for i, j in zip(*(~mask).nonzero(), strict=True):
        with pytest.raises(IndexError, match=rf"edge \(row {i}, column {j}\) is not stored"):
            t.position(i, j)


def test_position_broadcasts(t):
    full = Topology.from_mask(torch.ones(2, 3))
    assert full.position([[0], [1]], [0, 1, 2]).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert full.position(torch.tensor([0, 1], dtype=torch.uint8), 2).tolist() == [2, 5]
    assert full.position(np.int64(1), 0).shape == ()
    assert full.position([], []).shape == (0,)
    assert full.position(torch.zeros(4, 0, dtype=torch.int64), 1).shape == (4, 0)
    assert full.position(1, 1).dtype == torch.int64


@pytest.mark.parametrize(
    ("row", "col", "error", "message"),
    [
        ([0, 1], [0, 0], IndexError, r"^Topology.position: edge \(row 1, column 0\) is not stored"),
        (0, 1, IndexError, r"edge \(row 0, column 1\) is not stored"),
        (3, 0, IndexError, r"row from 0 to 2, got 3 at position 0"),
        (0, [0, -1], IndexError, r"col from 0 to 2, got -1 at position 1"),
        (0.0, 0, TypeError, r"row to hold integers, got torch.float64"),
        (0, True, TypeError, r"col to hold integers, got torch.bool"),
        (0, "a", TypeError, r"col to be a tensor, an array or a list of numbers, got str"),
        ([0, 1], [0, 1, 2], ValueError, r"row and col of shapes that broadcast together, got \(2,\) and \(3,\)"),
    ],
)
def test_positions_that_are_not_there(t, row, col, error, message):
    with pytest.raises(error, match=message):
        t.position(row, col)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_position_in_empty_shapes(shape):
    t = Topology.from_coo([], [], shape)
    assert t.position([], []).tolist() == []
    with pytest.raises(IndexError, match="as the size is 0"):
        t.position(0, 0)
