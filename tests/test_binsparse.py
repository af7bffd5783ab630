"""Matrices of the package binsparse, from files and into files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparsetrain as st
from sparsetrain import Topology, io

binsparse = pytest.importorskip("binsparse", reason="needs the extra test")
scipy = pytest.importorskip("binsparse.conversions.scipy")

DENSE = np.array([[0.0, 1.5, 0.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 3.0], [0.0, 4.0, 0.0]], dtype=np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_a_layer_goes_round(tmp_path: Path, suffix: str, dtype: torch.dtype) -> None:
    layer = st.nn.SparseLinear(50, 20, density=0.1, dtype=dtype)
    binsparse.save_binsparse(io.to_binsparse(layer.topology, layer.values), tmp_path / f"layer.{suffix}")
    topology, values = io.from_binsparse(binsparse.load_binsparse(tmp_path / f"layer.{suffix}"))
    assert topology.digest == layer.topology.digest
    assert torch.equal(values, layer.values)
    other = st.nn.SparseLinear(50, 20, topology=topology, dtype=dtype)
    other.replace_edges(topology, values)
    dense = scipy.to_scipy(binsparse.load_binsparse(tmp_path / f"layer.{suffix}")).toarray()
    assert np.array_equal(dense, layer.to_dense().weight.detach().numpy())


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_every_form_that_others_write(form: str) -> None:
    import scipy.sparse

    matrix = getattr(scipy.sparse, f"{form}_array")(DENSE)
    topology, values = io.from_binsparse(binsparse.conversions.scipy.from_scipy(matrix))
    assert torch.equal(topology.to_mask(), torch.from_numpy(DENSE != 0).to(topology.to_mask()))
    assert values.tolist() == [1.5, -2.0, 3.0, 4.0]


def test_the_copy_is_a_copy() -> None:
    t, values = Topology.from_mask([[1, 0], [1, 1]]), torch.ones(3)
    io.to_binsparse(t, values).values[:] = 7
    assert values.tolist() == [1, 1, 1]
    matrix = io.to_binsparse(t, values)
    io.from_binsparse(matrix)[1].fill_(7)
    assert matrix.values.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (torch.eye(2), TypeError, "expected a matrix of the package binsparse, got Tensor"),
        ({"pointers_to_1": [0, 1, 3], "indices_1": [0, 0, 5]}, (IndexError, ValueError), "expected"),
        ({"pointers_to_1": [0, 9, 3], "indices_1": [0, 0, 1]}, (IndexError, ValueError), "expected"),
        ({"pointers_to_1": [0, 1, 3], "indices_1": [0, 1, 1]}, ValueError, "expected"),
        (
            {"pointers_to_1": [0, 1, 3], "indices_1": [0, 0, 1], "fill": True, "fill_value": 1.0},
            ValueError,
            "zero fill value",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given: Any, error: Any, message: str) -> None:
    if isinstance(given, dict):
        arrays = {name: np.array(given.pop(name)) for name in ("pointers_to_1", "indices_1")}
        given = binsparse.CSRMatrix((2, 2), 3, values=np.ones(3), **arrays, **given)
    with pytest.raises(error, match=message):
        io.from_binsparse(given)
    with pytest.raises(ValueError, match=r"io.to_binsparse: expected 3 values, got shape \(4,\)"):
        io.to_binsparse(Topology.from_mask([[1, 0], [1, 1]]), torch.ones(4))
