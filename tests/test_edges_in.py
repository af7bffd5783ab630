"""Layers made of named edges and of matrices with weights: the edges, their weights, and what is refused."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from structures import Structure, structures

from sparsetrain import Topology
from sparsetrain.convert import from_hierarchy
from sparsetrain.nn import SparseLinear
from sparsetrain.nn.constraint_words import constraint_words
from sparsetrain.structure.edge_list import edge_list


def frame_of(*rows: tuple[Any, ...], columns: str = "source target weight") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split()[: len(rows[0])])


@settings(deadline=None, max_examples=60)
@given(structures(most=8), some.randoms(use_true_random=False))
def test_weights_follow_their_edges(s: Structure, random: Any) -> None:
    edges = list(enumerate(zip(s.row.tolist(), s.col.tolist(), strict=True)))
    random.shuffle(edges)
    frame = frame_of(*((f"in{j}", f"out{i}", k + 0.5) for k, (i, j) in edges)) if edges else pd.DataFrame({"source": [], "target": [], "weight": []})  # fmt: skip
    layer = SparseLinear.from_edges(
        frame, inputs=[f"in{j}" for j in range(s.columns)], outputs=[f"out{i}" for i in range(s.rows)],
        dtype=torch.float64, unconnected="allow",
    )  # fmt: skip
    assert torch.equal(layer.topology.crow, torch.from_numpy(s.crow))
    assert layer.values.tolist() == [k + 0.5 for k in range(s.col.size)]
    x = torch.randn(3, s.columns, dtype=torch.float64)
    dense = torch.from_numpy(s.dense(np.arange(s.col.size) + 0.5))
    torch.testing.assert_close(layer(x), x @ dense.T + layer.bias)


def test_options_reach_the_layer() -> None:
    layer = SparseLinear.from_edges([("a", "x")], bias=False, sparse_grad=True, dtype=torch.float64)
    assert layer.bias is None
    assert layer.sparse_grad
    assert layer.values.dtype is torch.float64
    assert SparseLinear.from_edges([("a", "x")], device="meta").values.is_meta


def test_without_weights_the_values_are_drawn_as_usual() -> None:
    pairs = [("a", "x"), ("b", "x"), ("b", "y")]
    layer = SparseLinear.from_edges(pairs, generator=torch.Generator().manual_seed(3))
    usual = SparseLinear(2, 2, topology=Topology.from_edges(pairs), generator=torch.Generator().manual_seed(3))
    assert torch.equal(layer.values, usual.values)
    assert torch.equal(layer.bias, usual.bias)


@pytest.mark.parametrize(
    ("weight", "got"),
    [(float("nan"), "nan"), (float("inf"), "inf"), (None, "(nan|None)"), ("heavy", "'heavy'"), (pd.NA, "<NA>"), (1e39, r"1e\+39")],
)  # fmt: skip
def test_weights_that_are_no_numbers(weight: Any, got: str) -> None:
    frame = frame_of(("a", "x", 1.0), ("b", "y", weight))
    with pytest.raises(
        ValueError,
        match=rf"^SparseLinear.from_edges: expected a finite number as the weight of every edge, got {got} for edge \('b', 'y'\)",
    ):
        SparseLinear.from_edges(frame)


def test_a_column_that_is_there_twice() -> None:
    frame = pd.DataFrame([["a", "x", 1.0, 2.0]], columns=["source", "target", "weight", "weight"])
    with pytest.raises(ValueError, match="expected one column 'weight', got several of that name"):
        SparseLinear.from_edges(frame)


def test_names_that_are_missing_or_unknown() -> None:
    with pytest.raises(ValueError, match=r"expected a name in inputs, got (nan|None) at edge 1\. Drop that edge"):
        SparseLinear.from_edges(frame_of(("a", "x"), (None, "y")))
    with pytest.raises(ValueError, match=r"expected every edge to use names in outputs, got 1 unknown: 'y'"):
        SparseLinear.from_edges(frame_of(("a", "x"), ("b", "y")), outputs=["x"])
    with pytest.raises(ValueError, match=r"^SparseLinear.from_edges: expected distinct edges, got \('a', 'x'\)"):
        SparseLinear.from_edges(frame_of(("a", "x", 1.0), ("a", "x", 2.0)))
    with pytest.raises(ValueError, match=r"got 1 and '1', both of which read '1' as text"):
        SparseLinear.from_edges([(1, "x"), ("1", "x")])


# ---- constraints -----------------------------------------------------------------------------------------------------


def test_words_of_constraints() -> None:
    columns = "source target weight constraint"
    frame = frame_of(("a", "x", 1, "positive"), ("b", "x", -2, "negative"), ("c", "x", 0, "positive"), ("d", "x", -1, "fixed"),
                     ("e", "x", 3, None), ("f", "x", 3, ""), columns=columns)  # fmt: skip
    assert constraint_words("here", edge_list("here", frame)) == [
        "positive", "negative", "positive", "fixed", None, None,
    ]  # fmt: skip
    assert constraint_words("here", edge_list("here", frame.drop(columns="weight"))) is not None
    assert constraint_words("here", edge_list("here", frame.drop(columns="constraint"))) is None


def test_constraints_that_are_unknown_or_contradict() -> None:
    columns = "source target weight constraint"
    with pytest.raises(
        ValueError, match=r"one of \['positive', 'negative', 'fixed'\] or missing, got 'big' for edge \('b', 'y'\)"
    ):
        SparseLinear.from_edges(frame_of(("a", "x", 1, None), ("b", "y", 1, "big"), columns=columns))
    with pytest.raises(
        ValueError, match=r"positive weight for edge \('b', 'y'\), which has the constraint 'positive', got -1\."
    ):
        SparseLinear.from_edges(frame_of(("a", "x", 1, None), ("b", "y", -1, "positive"), columns=columns))
    with pytest.raises(
        ValueError, match=r"negative weight for edge \('a', 'x'\), which has the constraint 'negative', got 2\."
    ):
        SparseLinear.from_edges(frame_of(("a", "x", 2, "negative"), columns=columns))


def test_constraints_hold_in_training() -> None:
    columns = "source target weight constraint"
    frame = frame_of(("b", "y", -0.1, "negative"), ("a", "y", 0.5, None), ("a", "x", 0.1, "positive"), ("b", "x", 0.3, "fixed"), columns=columns)  # fmt: skip
    layer = SparseLinear.from_edges(frame, inputs=["a", "b"], outputs=["x", "y"], dtype=torch.float64)
    assert layer.values.tolist() == pytest.approx([0.1, 0.3, 0.5, -0.1])
    assert sorted(layer.edges().weight) == pytest.approx(sorted(frame.weight))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    x = torch.cat([torch.eye(2), -torch.eye(2)]).double()
    for _ in range(30):
        optimizer.zero_grad()
        (layer(x) + 3 * x).square().mean().backward()  # pulls all of them to -3
        optimizer.step()
    positive, fixed, free, negative = layer.values.tolist()
    assert positive >= 0
    assert fixed == pytest.approx(0.3, abs=1e-15)
    assert free < 0.4
    assert negative < -0.2


def test_drawn_values_take_the_signs_of_their_constraints() -> None:
    words = ["positive", "negative", None, "fixed"] * 10
    frame = pd.DataFrame({"source": range(40), "target": "x", "constraint": words})
    layer = SparseLinear.from_edges(frame, generator=torch.Generator().manual_seed(1))
    usual = SparseLinear.from_edges(frame[["source", "target"]], generator=torch.Generator().manual_seed(1)).values
    assert torch.equal(layer.values.abs(), usual.abs())
    assert (layer.values[0::4] >= 0).all()
    assert (layer.values[1::4] <= 0).all()
    assert torch.equal(layer.values[2::4], usual[2::4])
    assert torch.equal(layer.values[3::4], usual[3::4])
    free = SparseLinear.from_edges(frame.assign(constraint=None))
    assert type(free) is SparseLinear
    with pytest.raises(ValueError, match="sparse_grad"):
        SparseLinear.from_edges(frame, sparse_grad=True)
    model = from_hierarchy(frame)
    assert (model.levels[0].values[0::4] >= 0).all()
    assert model(torch.ones(3, 40)).shape == (3, 1)


# ---- nodes without edges ---------------------------------------------------------------------------------------------


def test_unconnected_nodes_are_reported() -> None:
    pairs, inputs, outputs = [("a", "x")], ["b", *"cdefgh", "a"], ["x", "y"]
    message = (
        r"SparseLinear.from_edges: expected every node to have an edge, got 7 of 8 inputs without edges "
        r"\('b', 'c', 'd', 'e', 'f', ...\) and 1 of 2 outputs without edges \('y'\)\. .*unconnected=\"allow\""
    )
    with pytest.warns(UserWarning, match=message) as caught:
        layer = SparseLinear.from_edges(pairs, inputs=inputs, outputs=outputs)
    assert caught[0].filename == __file__
    assert layer.topology.unconnected == (list("bcdefgh"), ["y"])
    with pytest.raises(ValueError, match=message):
        SparseLinear.from_edges(pairs, inputs=inputs, outputs=outputs, unconnected="error")
    with warnings.catch_warnings(record=True) as caught:
        SparseLinear.from_edges(pairs, inputs=inputs, outputs=outputs, unconnected="allow")
        SparseLinear.from_edges(pairs)
    assert not caught
    with pytest.raises(ValueError, match=r"unconnected to be one of \['warn', 'error', 'allow'\], got 'ignore'"):
        SparseLinear.from_edges(pairs, unconnected="ignore")


@settings(deadline=None, max_examples=40)
@given(structures(most=8))
def test_unconnected_nodes_of_any_topology(s: Structure) -> None:
    t = Topology(s.crow, s.col, (s.rows, s.columns))
    assert t.unconnected.inputs == [j for j in range(s.columns) if j not in s.col]
    assert t.unconnected.outputs == [i for i in range(s.rows) if i not in s.row]


# ---- matrices --------------------------------------------------------------------------------------------------------

MATRIX = np.array([[0.0, 1.5, 0.0], [-2.0, 0.0, 0.5]])


@pytest.mark.parametrize("form", ["coo", "csr", "csc", "bsr", "dia", "dok", "lil"])
@pytest.mark.parametrize("kind", [scipy.sparse.coo_array, scipy.sparse.coo_matrix])
def test_scipy_matrices(form: str, kind: Any) -> None:
    layer = SparseLinear.from_matrix(kind(MATRIX).asformat(form))
    assert layer.values.dtype is torch.float64
    assert layer.to_dense().weight.tolist() == MATRIX.tolist()


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.filterwarnings("ignore:Sparse (CSR|CSC|invariant)")
def test_torch_matrices(layout: torch.layout) -> None:
    layer = SparseLinear.from_matrix(torch.from_numpy(MATRIX).float().to_sparse(layout=layout), bias=False)
    assert layer.topology.nnz == 3
    assert layer.values.dtype is torch.float32
    assert layer.values.requires_grad
    assert layer.bias is None
    assert layer.to_dense().weight.tolist() == MATRIX.tolist()


@pytest.mark.parametrize("matrix", [MATRIX, MATRIX.tolist(), torch.from_numpy(MATRIX), pd.DataFrame(MATRIX)])
def test_dense_matrices(matrix: Any) -> None:
    layer = SparseLinear.from_matrix(matrix, inputs=["a", "b", "c"], outputs=["x", "y"])
    assert layer.topology.nnz == 3
    assert layer.to_dense().weight.tolist() == MATRIX.tolist()
    assert layer.topology.inputs == ("a", "b", "c")
    assert layer.topology.outputs == ("x", "y")


@settings(deadline=None, max_examples=40)
@given(structures(most=8), some.integers(0, 99))
def test_weights_follow_their_entries(s: Structure, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(s.col.size)
    values = np.arange(1.0, 1 + s.col.size)
    shuffled = scipy.sparse.coo_array((values[order], (s.row[order], s.col[order])), shape=(s.rows, s.columns))
    layer = SparseLinear.from_matrix(shuffled)
    assert torch.equal(layer.topology.crow, torch.from_numpy(s.crow))
    assert layer.values.tolist() == values.tolist()


def test_stored_zeros_are_edges_and_dtypes_are_kept() -> None:
    stored = scipy.sparse.coo_array((np.array([0, 3]), ([0, 1], [1, 0])), shape=(2, 2))
    layer = SparseLinear.from_matrix(stored)
    assert layer.values.tolist() == [0.0, 3.0]
    assert layer.values.dtype is torch.get_default_dtype()
    assert SparseLinear.from_matrix(MATRIX, dtype=torch.float32).values.dtype is torch.float32


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.ones(3), ValueError, r"expected a matrix \(out, in\), got shape \(3,\)"),
        ([[1.0, float("nan")]], ValueError, r"finite weights in torch.float64, got nan at row 0, column 1"),
        (scipy.sparse.coo_array(([1.0, np.inf], ([0, 1], [1, 0]))), ValueError, r"got inf at row 1, column 0"),
        (
            scipy.sparse.coo_array(([1.0, 2.0], ([1, 1], [0, 0]))),
            ValueError,
            r"distinct edges, got edge \(row 1, column 0\)",
        ),
        ([[1j]], TypeError, r"real weights, got torch.complex128"),
        ([["a"]], TypeError, r"expected matrix to be a tensor, an array or a list of numbers"),
    ],
)
def test_matrices_that_are_refused(matrix: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^SparseLinear.from_matrix: .*{message}"):
        SparseLinear.from_matrix(matrix)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_torch_entries_that_are_stored_twice() -> None:
    twice = torch.sparse_coo_tensor(torch.tensor([[0, 0], [1, 1]]), torch.ones(2), (2, 2))
    with pytest.raises(ValueError, match=r"distinct edges, got edge \(row 0, column 1\) more than once"):
        SparseLinear.from_matrix(twice)


def test_records_sets_and_dicts_are_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"expected pairs \(source, target\), got \{'source': 'a', 'target': 'x'\}"):
        SparseLinear.from_edges([{"source": "a", "target": "x"}])
    with pytest.raises(ValueError, match=r"expected pairs \(source, target\), got \{"):
        SparseLinear.from_edges([{"a", "x"}])
    with pytest.raises(ValueError, match=r"expected pairs \(source, target\), got b'ax'"):
        SparseLinear.from_edges([b"ax"])
    with pytest.raises(TypeError, match=r"got dict. Weights come in a frame"):
        SparseLinear.from_edges({("a", "x"): 0.5})


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_unsigned_integers(dtype: Any) -> None:
    layer = SparseLinear.from_matrix(np.array([[0, 3], [1, 0]], dtype=dtype))
    assert layer.values.tolist() == [3.0, 1.0]
    assert Topology.from_mask(np.array([[0, 1], [1, 0]], dtype=dtype)).col.tolist() == [1, 0]


def test_no_edges_make_no_layer_unless_its_nodes_are_named() -> None:
    with pytest.raises(ValueError, match=r"^SparseLinear.from_edges: expected edges, or the names of all inputs and"):
        SparseLinear.from_edges([])
    layer = SparseLinear.from_edges([], inputs=["a", "b"], outputs=["x"], unconnected="allow")
    assert layer.topology.shape == (1, 2)
    assert SparseLinear.from_edges(layer.edges(), unconnected="allow").topology.shape == (1, 2)


def test_tensors_of_pairs_are_numbers() -> None:
    t = SparseLinear.from_edges(torch.tensor([[0, 5], [2, 5]])).topology
    assert (t.inputs, t.outputs) == (("0", "2"), ("5",))


def test_a_whole_number_and_its_float_are_one_name() -> None:
    with pytest.raises(ValueError, match=r"expected distinct edges, got \(1, 'x'\) more than once"):
        SparseLinear.from_edges([(1, "x"), (1.0, "x")])
    assert SparseLinear.from_edges([(1, "x"), (1.5, "x")]).topology.inputs == ("1", "1.5")


def test_weights_of_a_matrix_are_finite_in_the_type_of_the_layer() -> None:
    with pytest.raises(ValueError, match=r"expected finite weights in torch.float32, got inf at row 0, column 0"):
        SparseLinear.from_matrix([[1e300]], dtype=torch.float32)


def test_the_advice_on_repeats_can_be_followed() -> None:
    matrix = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2), check_invariants=False)
    with pytest.raises(ValueError, match=r"more than once. Sum or drop the repeats before."):
        SparseLinear.from_matrix(matrix)
