"""One rule for what a name is, in every reader and constructor: whole numbers are integers, scalars what they hold."""

import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch

import sparsetrain as st
from sparsetrain import Topology, io
from sparsetrain.convert import from_hierarchy
from sparsetrain.nn import SparseLinear
from sparsetrain.structure.names import text

THREES = [
    3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.float64(3), np.array(3), torch.tensor(3), torch.tensor(3.0),
    Decimal("3.00"), Fraction(3), "3", b"3", np.str_("3"), np.bytes_(b"3"),
]  # fmt: skip


@pytest.mark.parametrize("three", THREES, ids=lambda value: f"{type(value).__name__} {value}")
def test_what_is_three_is_the_same_name_everywhere(three: Any) -> None:
    assert text(three) == "3"
    assert Topology.from_edges([(three, "a")]).inputs == ("3",)
    assert Topology.from_edges([("3", "a")], inputs=[three]).inputs == ("3",)
    assert Topology([0, 1], [0], (1, 1), outputs=[three]).outputs == ("3",)
    frame = pd.DataFrame({"source": pd.Series([three], dtype=object), "target": "a"})
    assert Topology.from_edges(frame).inputs == ("3",)
    assert Topology.from_edges(io.from_sets({"a": [three]})).inputs == ("3",)
    if not isinstance(three, np.ndarray):  # which is no key
        assert Topology.from_edges(io.from_sets({three: ["a"]})).outputs == ("3",)
        assert Topology.from_edges(io.from_networkx(nx.DiGraph([(three, "a")]))).inputs == ("3",)
    assert io.from_edge_index([[0], [1]], names=["a", three]).target.tolist() == ["3"]
    model = from_hierarchy([("a", three), (3 if not isinstance(three, str | bytes) else three, "b")])
    assert model.level_of(three) == model.level_of("3") == 1
    assert model.activations(torch.ones(1, 1), [three]).shape == (1, 1)
    layer = SparseLinear.from_edges([(three, "a")])
    assert layer.align(pd.DataFrame({"x": [0.0], 3: [1.0]})).columns.tolist() == ["3"]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (2.5, "2.5"), (np.float32(0.1), "0.1"), (-0.0, "0"), (-7.0, "-7"), (1e300, "1e+300"), (float(2**53), str(2**53)),
        (True, "True"), (np.bool_(True), "True"), ("3.0", "3.0"), ("", ""), (b"\xff", "b'\\xff'"), ((1.0, np.int32(2)), "(1, 2)"),
        (Decimal("2.50"), "2.50"), (float("inf"), "inf"), (pd.Timestamp("2020-01-02"), "2020-01-02 00:00:00"),
        (np.datetime64("2020-01-02", "ns"), "2020-01-02T00:00:00.000000000"),
    ],
    ids=repr,
)  # fmt: skip
def test_other_names(name: Any, read: str) -> None:
    assert Topology.from_edges([(name, "a")]).inputs == (read,)


IDS = [1, 2, 2, 4]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([*IDS, None]), pd.Series([*IDS, None], dtype="Int64"), pd.Series([*IDS, None], dtype="Float64"),
        pd.Series([*IDS, None], dtype="category"), pd.Series([*IDS, None], dtype="object"),
        pd.Series([*map(str, IDS), None], dtype="string"), pd.Series([*map(float, IDS), None]).astype("category"),
    ],
    ids=lambda column: str(column.dtype),
)  # fmt: skip
def test_columns_that_held_a_missing_id(column: Any) -> None:
    frame = pd.DataFrame({"source": column, "target": [4, 4, 5, 5, 5]})
    with pytest.raises(ValueError, match=r"^Topology.from_edges: expected a name in inputs, got .* at edge 4\. Drop"):
        Topology.from_edges(frame)
    t = Topology.from_edges(frame.dropna())
    assert (t.inputs, t.outputs) == (("1", "2", "4"), ("4", "5"))
    if column.dtype not in ("string",):  # text and numbers that read alike are refused, as they always were
        model = from_hierarchy(frame.dropna())
        assert (model.inputs, model.outputs) == (("1", "2"), ("5",))
        assert model(torch.ones(3, 2)).shape == (3, 1)


@pytest.mark.parametrize("dtype", ["int64[pyarrow]", "double[pyarrow]", "string[pyarrow]"])
def test_columns_of_arrow(dtype: str) -> None:
    pytest.importorskip("pyarrow")
    column = pd.Series(["1", "2"] if "string" in dtype else [1, 2], dtype=dtype)
    assert Topology.from_edges(pd.DataFrame({"source": column, "target": [1, 2]})).inputs == ("1", "2")


def test_a_hierarchy_of_numbers_of_several_kinds() -> None:
    edges = [(1, 2.0), (np.int64(2), torch.tensor(3)), (Decimal(1), 3)]
    model = from_hierarchy(edges)
    assert (model.inputs, model.outputs) == (("1",), ("3",))
    with pytest.raises(ValueError, match=r"^convert.from_hierarchy: expected distinct names .* got '2' and 2, both"):
        from_hierarchy([(1, 2.0), ("2", 3)])
    with pytest.raises(
        ValueError, match=r"^convert.from_hierarchy: expected edges between two nodes, got one from '2'"
    ):
        from_hierarchy([(2, 2.0)])


@pytest.mark.parametrize(
    "name", [[1, 2], {1}, np.array([1, 2]), torch.ones(2), torch.ones((), device="meta"), {"a": 1}], ids=repr
)
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^Topology.from_edges: expected text or numbers as names in inputs, got .* edge 1"
    ):
        Topology.from_edges([("a", "b"), (name, "b")])
    with pytest.raises(
        TypeError, match=r"^Topology.from_edges: expected text or numbers as names in inputs, got .* posi"
    ):
        Topology.from_edges([("a", "b")], inputs=["a", name])
    with pytest.raises(TypeError, match=r"^convert.from_hierarchy: expected text or numbers as names in sources"):
        from_hierarchy([("a", "b"), (name, "b")])


def test_labels_of_a_matrix_are_names_too() -> None:
    frame = pd.DataFrame([[1.0, 0.0], [0.0, 2.0]], index=[10.0, 11.0], columns=pd.array([7, 8], "Int64"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = st.nn.SparseLinear.from_matrix(frame).topology
    assert (t.inputs, t.outputs) == (("7", "8"), ("10", "11"))
