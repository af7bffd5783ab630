"""What a Topology is made from: arrays, edges in any order, masks, scipy; and what it refuses."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from sparsetrain import Topology

HUGE = 2**41

quick = settings(deadline=None, max_examples=60)
edges = some.tuples(some.integers(0, 3), some.sampled_from([0, 1, 2, 2**40]))


def edges_of(t):
    return list(zip(t.row.tolist(), t.col.tolist(), strict=True))


def same(a, b):
    return a.shape == b.shape and a.crow.tolist() == b.crow.tolist() and a.col.tolist() == b.col.tolist()


@pytest.fixture
def t():
    """Rows [1 0 1], [0 0 0], [0 1 0]."""
    return Topology([0, 2, 2, 3], [0, 2, 1], (3, 3))


# ---- arrays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16])
def test_every_integer_dtype_is_an_index(t, dtype):
    assert same(Topology(t.crow.to(dtype), t.col.to(dtype), t.shape), t)
    assert same(Topology.from_coo(t.row.to(dtype).numpy(), t.col.to(dtype).numpy(), t.shape), t)


def test_arrays_of_any_strides_and_read_only_ones(t):
    row, col = np.array([0, 9, 0, 9, 2]), np.array([1, 2, 0])
    row.flags.writeable = col.flags.writeable = False
    assert same(Topology.from_coo(row[::2], col[::-1], t.shape), t)
    pairs = torch.tensor([[2, 1], [0, 0], [0, 2]])
    assert same(Topology.from_coo(pairs[:, 0], pairs[:, 1], t.shape), t)


def test_it_keeps_memory_of_its_own():
    crow, col = torch.tensor([0, 2]), torch.tensor([5, 2**40])
    made = [
        Topology(crow, col, (1, HUGE)),
        Topology.from_coo(torch.tensor([0, 0]), col, (1, HUGE)),
        Topology(crow.numpy(), col.numpy(), (1, HUGE)),
    ]
    crow.zero_()
    col.zero_()
    assert [t.col.tolist() for t in made] == [[5, 2**40]] * 3
    assert [t.crow.tolist() for t in made] == [[0, 2]] * 3


@pytest.mark.parametrize(
    ("crow", "col", "shape", "error", "message"),
    [
        ([0, 1], [0], (2, 2), ValueError, r"^Topology: expected crow of length out \+ 1 = 3, got 2"),
        ([], [], (0, 0), ValueError, r"expected crow of length out \+ 1 = 1, got 0"),
        ([1, 1, 1], [0], (2, 2), ValueError, r"crow to run from 0 to nnz = 1, got 1 to 1"),
        ([0, 1, 2], [0], (2, 2), ValueError, r"crow to run from 0 to nnz = 1, got 0 to 2"),
        ([0, 2, 1], [0], (2, 2), ValueError, r"crow not to fall, got crow\[1\] = 2 > crow\[2\] = 1"),
        ([0, -1, 1], [0], (2, 2), ValueError, r"crow not to fall, got crow\[0\] = 0 > crow\[1\] = -1"),
        ([0, 1, 2], [0, 2], (2, 2), IndexError, r"col from 0 to 1, got 2 at position 1"),
        ([0, 1, 2], [0, -1], (2, 2), IndexError, r"col from 0 to 1, got -1 at position 1"),
        ([0, 1], [0], (1, 0), IndexError, r"col from no index, as the size is 0, got 0 at position 0"),
        ([0, 0, 2], [1, 0], (2, 2), ValueError, r"rise within a row, got column 1 before 0 in row 1.*from_coo sorts"),
        ([0, 0, 2], [1, 1], (2, 2), ValueError, r"rise within a row, got column 1 twice in row 1"),
        ([0.0, 1.0], [0], (1, 1), TypeError, r"crow to hold integers, got torch.float64. Convert with .long\(\)"),
        ([0, 1], [0.5], (1, 1), TypeError, r"col to hold integers, got torch.float64"),
        ([0, 1], [True], (1, 1), TypeError, r"col to hold integers, got torch.bool"),
        ([0, 1], [[0]], (1, 1), ValueError, r"col to be one-dimensional, got shape \(1, 1\)"),
        ([[]], [], (0, 1), TypeError, r"crow to hold integers, got torch.float64"),
        ([0, 1], ["a"], (1, 1), TypeError, r"col to be a tensor, an array or a list of numbers, got list"),
        ([0, 1], [[0], [1, 2]], (1, 1), TypeError, r"col to be a tensor, an array or a list of numbers, got list"),
        ([0, 1], [2**70], (1, 1), TypeError, r"col to be a tensor, an array or a list of numbers, got list"),
        ([0, 1], np.array([2**63], np.uint64), (1, 1), IndexError, r"col from 0 to 0"),
        ([0, 0], [], (1, -1), ValueError, r"shape = \(out, in\), two integers, each from 0 to .*, got \(1, -1\)"),
        (
            [0, 0],
            [],
            (1, 2**63),
            ValueError,
            r"two integers, each from 0 to 2\*\*63 - 1, got \(1, 9223372036854775808\)",
        ),
        ([0, 0], [], (1, 2, 3), ValueError, r"shape = \(out, in\), two integers, got \(1, 2, 3\)"),
        ([0, 0], [], (1, 2.5), TypeError, r"shape = \(out, in\), two integers, got \(1, 2.5\)"),
        ([0, 0], [], "12", TypeError, r"shape = \(out, in\), two integers, got '12'"),
        ([0, 0], [], 7, TypeError, r"shape = \(out, in\), two integers, got 7"),
        ([0, 0], [], None, TypeError, r"shape = \(out, in\), two integers, got None"),
    ],
)
def test_structure_that_is_not_canonical(crow, col, shape, error, message):
    with pytest.raises(error, match=message):
        Topology(crow, col, shape)


@pytest.mark.parametrize("fan_in", [[5, 0, 2], [2], [0, 0, 3, 0]])
def test_every_swap_within_a_row_is_noticed_and_none_between_rows_is_needed(fan_in):
    crow, col = np.cumsum([0, *fan_in]), np.concatenate([np.arange(n) for n in fan_in])
    Topology(crow, col, (len(fan_in), 5))
    for k in set(range(1, col.size)) - set(crow):
        swapped = col.copy()
        swapped[[k - 1, k]] = col[[k, k - 1]]
        with pytest.raises(ValueError, match=rf"column {col[k]} before {col[k - 1]} in row"):
            Topology(crow, swapped, (len(fan_in), 5))


# ---- edges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "col", "error", "message"),
    [
        ([0, 2], [0, 0], IndexError, r"^Topology.from_coo: expected row from 0 to 1, got 2 at position 1"),
        ([0, -1], [0, 0], IndexError, r"row from 0 to 1, got -1 at position 1"),
        ([0, 1], [3, 0], IndexError, r"col from 0 to 2, got 3 at position 0"),
        ([0, 1], [0, -3], IndexError, r"col from 0 to 2, got -3 at position 1"),
        ([0, 1], [0], ValueError, r"as many rows as columns, got 2 and 1"),
        ([0.0], [0], TypeError, r"row to hold integers"),
        ([1, 0, 1, 0], [2, 1, 2, 1], ValueError, r"distinct edges, got edge \(row 0, column 1\) more than once.*merge"),
    ],
)
def test_edges_that_can_not_be(row, col, error, message):
    with pytest.raises(error, match=message):
        Topology.from_coo(row, col, (2, 3))


def test_duplicates_merge_on_request():
    t = Topology.from_coo([1, 0, 1, 1], [2, 1, 2, 0], (2, 3), duplicates="merge")
    assert edges_of(t) == [(0, 1), (1, 0), (1, 2)]
    with pytest.raises(ValueError, match="duplicates to be 'error' or 'merge', got 'sum'"):
        Topology.from_coo([0], [0], (2, 3), duplicates="sum")


@quick
@given(some.lists(edges), some.sampled_from([HUGE, 2**62]))  # of the last int64 can't number the positions
def test_merging_repeats_gives_the_set_of_edges(edges, columns):
    row, col = [i for i, _ in edges], [j for _, j in edges]
    assert edges_of(Topology.from_coo(row, col, (4, columns), duplicates="merge")) == sorted(set(edges))


@pytest.mark.parametrize("columns", [100, HUGE, 2**62])
def test_sorting_many_edges(columns):
    col, row = torch.meshgrid(torch.arange(100), torch.arange(4), indexing="ij")
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    t = Topology.from_coo(row.reshape(-1)[shuffled], col.reshape(-1)[shuffled], (4, columns))
    assert edges_of(t) == [(i, j) for i in range(4) for j in range(100)]


# ---- masks and scipy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64, torch.complex64])
def test_masks_of_every_dtype(t, dtype):
    assert same(Topology.from_mask(t.to_mask().to(dtype)), t)


def test_masks_in_other_forms(t):
    read_only = t.to_mask().numpy()
    read_only.flags.writeable = False
    assert same(Topology.from_mask(read_only), t)
    assert same(Topology.from_mask([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), t)
    assert same(Topology.from_mask(t.to_mask().double().requires_grad_()), t)
    assert same(Topology.from_mask(t.to_mask().T), t.transpose())


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([[1.0, 0.5]], ValueError, r"^Topology.from_mask: expected only 0 and 1, got 0.5 at \(0, 1\).*pass mask != 0"),
        ([[0, 1], [0, -1]], ValueError, r"only 0 and 1, got -1 at \(1, 1\)"),
        ([[0.0, float("nan")]], ValueError, r"only 0 and 1, got nan at \(0, 1\)"),
        ([1, 0], ValueError, r"expected a matrix \(out, in\), got shape \(2,\)"),
        (torch.ones(1, 1, 1), ValueError, r"expected a matrix \(out, in\), got shape \(1, 1, 1\)"),
        ([["x"]], TypeError, r"expected mask to be a tensor, an array or a list of numbers, got list"),
    ],
)
def test_masks_that_are_none(mask, error, message):
    with pytest.raises(error, match=message):
        Topology.from_mask(mask)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_scipy_of_every_format(t, form, kind):
    matrix = getattr(scipy.sparse, f"coo_{kind}")(t.to_mask().numpy().astype(float)).asformat(form)
    assert same(Topology.from_scipy(matrix), t)


def test_scipy_stores_zeros_duplicates_and_unsorted_columns():
    zeros = scipy.sparse.csr_array((np.zeros(2), [1, 0], [0, 2]), shape=(1, 2))
    assert edges_of(Topology.from_scipy(zeros)) == [(0, 0), (0, 1)]
    twice = scipy.sparse.coo_array((np.ones(2), ([0, 0], [1, 1])), shape=(1, 2))
    with pytest.raises(
        ValueError, match=r"^Topology.from_scipy: expected distinct edges, got edge \(row 0, column 1\)"
    ):
        Topology.from_scipy(twice)
    assert Topology.from_scipy(twice, duplicates="merge").nnz == 1
    assert Topology.from_scipy(scipy.sparse.csr_array((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("matrix", [np.eye(2), [[1]], None, scipy.sparse.coo_array([1, 0])])
def test_what_is_not_a_sparse_matrix(matrix):
    with pytest.raises(TypeError, match=r"^Topology.from_scipy: expected a two-dimensional scipy.sparse"):
        Topology.from_scipy(matrix)
