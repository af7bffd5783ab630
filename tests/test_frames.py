"""Data frames in and out of layers: columns aligned to the inputs, edges given back."""

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from structures import Structure, structures
from torch import nn
from torch.nn.utils import parametrize

import sparsetrain as st
from sparsetrain import Topology
from sparsetrain.nn import SparseLinear

PAIRS = [("TP53", "apoptosis"), ("MYC", "cycle"), ("TP53", "cycle")]


@pytest.fixture
def layer() -> SparseLinear:
    return SparseLinear.from_edges(PAIRS)


# ---- columns in ------------------------------------------------------------------------------------------------------


def test_columns_in_the_order_of_the_inputs(layer: SparseLinear) -> None:
    frame = pd.DataFrame({"MYC": [1.0, 2.0], "other": ["x", None], "TP53": [3, 4]}, index=["s1", "s2"])
    aligned = layer.align(frame)
    assert list(aligned.columns) == ["TP53", "MYC"]
    assert aligned.to_numpy().tolist() == [[3.0, 1.0], [4.0, 2.0]]
    assert list(aligned.index) == ["s1", "s2"]
    assert list(frame.columns) == ["MYC", "other", "TP53"]


def test_numbers_match_names_that_read_alike() -> None:
    layer = SparseLinear.from_edges([(7, "x"), ("12", "x")])
    aligned = layer.align(pd.DataFrame({12: [1.0], 7: [2.0]}))
    assert list(aligned.columns) == ["7", "12"]
    assert aligned.to_numpy().tolist() == [[2.0, 1.0]]


def test_frames_that_do_not_fit(layer: SparseLinear) -> None:
    with pytest.raises(
        ValueError, match=r"^SparseLinear.align: expected a column for each of 2 inputs, got none for 1: 'MYC'\. Add"
    ):
        layer.align(pd.DataFrame({"TP53": [1.0]}))
    wide = SparseLinear.from_edges([(k, "x") for k in range(9)])
    with pytest.raises(ValueError, match=r"got none for 8: '0', '1', '2', '3', '4' and 3 more"):
        wide.align(pd.DataFrame({8: [1.0]}))
    with pytest.raises(
        ValueError, match=r"one column for each input, got columns 1 and '1', all of which read '1' as text"
    ):
        SparseLinear.from_edges([("1", "x")]).align(pd.DataFrame([[1.0, 2.0]], columns=[1, "1"]))
    with pytest.raises(TypeError, match="expected a pandas data frame, got ndarray"):
        layer.align(np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected a layer with named inputs, got one without"):
        SparseLinear(2, 2, density=1).align(pd.DataFrame({"a": [1.0]}))


def test_a_frame_whose_names_are_in_lower_case(layer: SparseLinear) -> None:
    names = [name.swapcase() for name in layer.topology.inputs or ()]
    frame = pd.DataFrame([[1.0] * len(names)], columns=names)
    with pytest.raises(ValueError, match=r"got none for \d: .* There are columns of such names in other letters"):
        layer.align(frame)


def test_a_frame_that_is_transposed(layer: SparseLinear) -> None:
    frame = pd.DataFrame({"MYC": [1.0, 2.0], "TP53": [3.0, 4.0]}, index=["s1", "s2"])
    with pytest.raises(
        ValueError, match=r"got none for 2: 'TP53', 'MYC'\. These are names of its rows.* pass frame\.T\."
    ):
        layer.align(frame.T)
    assert layer.align(frame.T.T).shape == (2, 2)
    odd = pd.DataFrame({"a": [1.0, 2.0]}, index=[("MYC", 1), ("TP53", None)])
    with pytest.raises(ValueError, match=r"got none for 2: .* Add them"):
        layer.align(odd)


def test_unknown_columns_are_dropped_or_refused(layer: SparseLinear) -> None:
    frame = pd.DataFrame({"MYC": [1.0], "tp53": [9.0], 7: [8.0], "TP53": [3.0]})
    assert list(layer.align(frame, unknown="drop").columns) == ["TP53", "MYC"]
    with pytest.raises(ValueError, match=r"columns of the 2 inputs alone, got 2 others: 'tp53', 7\. Check"):
        layer.align(frame, unknown="error")
    assert layer.align(frame[["TP53", "MYC"]], unknown="error").shape == (1, 2)
    with pytest.raises(ValueError, match="expected unknown to be 'drop' or 'error', got 'keep'"):
        layer.align(frame, unknown="keep")  # type: ignore[arg-type]


def test_columns_that_collide_and_are_not_read_do_not_matter(layer: SparseLinear) -> None:
    frame = pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=["MYC", 1, "1", "TP53"])
    assert layer.align(frame).to_numpy().tolist() == [[4.0, 1.0]]


@pytest.mark.parametrize("hole", [float("nan"), None, pd.NA])
def test_missing_values_are_named(layer: SparseLinear, hole: Any) -> None:
    frame = pd.DataFrame({"MYC": [1.0, 2.0, 3.0], "TP53": [1.0, 2.0, hole], "rest": [None] * 3}, index=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"got 1 missing or infinite, the first in column 'TP53', row 'c'\. Fill them"):
        layer.align(frame)


@pytest.mark.parametrize("endless", [float("inf"), -np.inf])
def test_infinite_values_are_named(layer: SparseLinear, endless: float) -> None:
    frame = pd.DataFrame({"MYC": [1, 2], "TP53": [1.0, endless]})
    with pytest.raises(ValueError, match=r"got 1 missing or infinite, the first in column 'TP53', row 1\."):
        layer.align(frame)


def test_text_is_no_number(layer: SparseLinear) -> None:
    with pytest.raises(ValueError, match=r"expected numbers, got column 'MYC' of dtype \w+\. Convert it"):
        layer.align(pd.DataFrame({"MYC": ["1", "2"], "TP53": [1, 2]}))
    assert layer.align(pd.DataFrame({"MYC": [True, False], "TP53": pd.array([1, 2], "Int64")})).shape == (2, 2)


# ---- matrices with labels --------------------------------------------------------------------------------------------


def test_a_labelled_matrix_brings_its_names() -> None:
    frame = pd.DataFrame([[1.0, 0.0], [2.0, 3.0]], index=["apoptosis", "cycle"], columns=["TP53", "MYC"])
    layer = SparseLinear.from_matrix(frame)
    assert (layer.topology.inputs, layer.topology.outputs) == (("TP53", "MYC"), ("apoptosis", "cycle"))
    assert layer.edges().values.tolist() == [["TP53", "apoptosis", 1], ["TP53", "cycle", 2], ["MYC", "cycle", 3]]
    assert SparseLinear.from_matrix(frame, inputs=["a", "b"]).topology.inputs == ("a", "b")
    numbered = SparseLinear.from_matrix(pd.DataFrame([[1.0, 0.0]])).topology
    assert (numbered.inputs, numbered.outputs) == (None, None)


@pytest.mark.parametrize(
    "dtypes", [("Int64", "Float64"), ("bool", "float32"), ("boolean", "Int8"), ("uint16", "int64")]
)
def test_frames_of_all_kinds_of_numbers(dtypes: tuple[str, str]) -> None:
    frame = pd.DataFrame({"a": pd.array([1, 0], dtypes[0]), "b": pd.array([0, 1], dtypes[1])})
    layer = SparseLinear.from_matrix(frame)
    assert (layer.topology.col.tolist(), layer.values.tolist()) == ([0, 1], [1.0, 1.0])
    assert layer.topology.inputs == ("a", "b")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["x", "y"], r"expected numbers, got column 'b' of dtype \w+\. Convert it"),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), r"got column 'b' of dtype datetime64"),
        (pd.array([1, None], "Int64"), r"expected a weight in every place, got none in row 1, column 'b'\. Fill it"),
        ([1.0, float("nan")], r"expected a weight in every place, got none in row 1, column 'b'"),
        ([1.0, float("inf")], r"expected finite weights in torch.float64, got inf at row 1, column 1"),
    ],
)
def test_matrices_of_other_things_name_the_column(column: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^SparseLinear.from_matrix: .*{message}"):
        SparseLinear.from_matrix(pd.DataFrame({"a": [1, 0], "b": column}))


def test_labels_that_read_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="both of which read '1' as text"):
        SparseLinear.from_matrix(pd.DataFrame([[1.0, 2.0]], columns=[1, "1"]))


# ---- edges out -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(structures(most=8), some.booleans())
def test_there_and_back(s: Structure, named: bool) -> None:
    names = (
        {"inputs": [f"i{j}" for j in range(s.columns)], "outputs": [f"o{i}" for i in range(s.rows)]} if named else {}
    )
    layer = SparseLinear(s.columns, s.rows, topology=Topology(s.crow, s.col, (s.rows, s.columns), **names))
    frame = layer.edges()
    again = SparseLinear.from_edges(frame, unconnected="allow")
    assert again.topology.digest == layer.topology.digest
    assert torch.equal(again.values, layer.values)
    assert again.edges().equals(frame) or not named
    if named:
        assert (again.topology.inputs, again.topology.outputs) == (layer.topology.inputs, layer.topology.outputs)


def test_a_frame_of_edges(layer: SparseLinear) -> None:
    frame = layer.edges()
    assert list(frame.columns) == ["source", "target", "weight"]
    assert list(zip(frame.source, frame.target, strict=True)) == [PAIRS[0], PAIRS[2], PAIRS[1]]
    assert frame.weight.tolist() == layer.values.tolist()
    assert frame.weight.dtype == "float32"
    frame["weight"] = 7.0
    assert 7.0 not in layer.values.tolist()
    assert layer.double().edges().weight.dtype == "float64"


def test_numbers_where_there_are_no_names() -> None:
    frame = SparseLinear(3, 2, topology=Topology.from_mask([[0, 0, 1], [1, 0, 0]])).edges()
    assert (frame.source.tolist(), frame.target.tolist()) == ([2, 0], [0, 1])


def test_names_that_a_frame_remembers_and_edges_do_not_have(layer: SparseLinear) -> None:
    frame = layer.edges()
    with pytest.warns(UserWarning, match="1 of 2 outputs without edges"):
        assert SparseLinear.from_edges(frame[frame.target == "cycle"]).topology.shape == (2, 2)
    with pytest.raises(
        ValueError, match=r"expected every edge to use names in frame.attrs\['inputs'\], got 1 unknown: 'P53'"
    ):
        SparseLinear.from_edges(frame.replace("TP53", "P53"))
    assert SparseLinear.from_edges(frame.replace("TP53", "P53"), inputs=["MYC", "P53"]).in_features == 2


def test_a_transposed_layer_leads_the_other_way(layer: SparseLinear) -> None:
    frame = layer.transposed().edges()
    assert frame.source.tolist() == layer.edges().target.tolist()
    assert frame.target.tolist() == layer.edges().source.tolist()
    assert frame.weight.tolist() == layer.values.tolist()
    assert frame.attrs["inputs"] == ("apoptosis", "cycle")
    aligned = layer.transposed().align(pd.DataFrame({"cycle": [1.0], "apoptosis": [2.0]}))
    assert list(aligned.columns) == ["apoptosis", "cycle"]
    x = torch.randn(4, 2)
    again = SparseLinear.from_edges(frame, bias=False)
    torch.testing.assert_close(again(x), layer.transposed(bias=False)(x))


class Exponential(nn.Module):
    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        return raw.exp()


def test_edges_of_values_that_are_computed(layer: SparseLinear) -> None:
    parametrize.register_parametrization(layer, "values", Exponential())
    assert layer.edges().weight.tolist() == layer.values.tolist()
    assert (layer.edges().weight > 0).all()


def test_names_travel(layer: SparseLinear, tmp_path: Path) -> None:
    names = (layer.topology.inputs, layer.topology.outputs)
    st.io.save(tmp_path / "layer.safetensors", layer)
    other = SparseLinear(2, 2, topology=Topology(layer.topology.crow, layer.topology.col, (2, 2)))
    st.io.load(tmp_path / "layer.safetensors", other)
    renamed = SparseLinear.from_edges([("a", "x"), ("b", "y"), ("a", "y")])
    with pytest.raises(ValueError, match="expected the same names in inputs"):
        st.io.load(tmp_path / "layer.safetensors", renamed)
    st.io.load(tmp_path / "layer.safetensors", renamed, topology="adopt")
    dense = SparseLinear.from_dense(layer.to_dense(), layer.topology)
    for one in (copy.deepcopy(layer), renamed, dense, layer.double()):
        assert (one.topology.inputs, one.topology.outputs) == names


def test_without_pandas(layer: SparseLinear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"^SparseLinear.edges: expected the package pandas.*pip install pandas$"
    ):
        layer.edges()
