"""The format of sparse weights in safetensors files, read by what docs/guide/export.md prints, and nothing of ours."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import sparsetrain as st

PAGE = Path(__file__).parent.parent / "docs" / "guide" / "export.md"


def reader() -> Any:
    """The function of the page."""
    examples = doctest.DocTestParser().get_examples(PAGE.read_text(encoding="utf-8"))
    [source] = [example.source for example in examples if example.source.startswith("def matrix")]
    import hashlib

    import scipy.sparse

    names: dict[str, Any] = {"np": np, "hashlib": hashlib, "scipy": scipy}
    exec(source, names)
    return names["matrix"]


LAYERS = {
    "plain": lambda: st.nn.SparseLinear(50, 20, density=0.1),
    "float64": lambda: st.nn.SparseLinear(50, 20, density=0.1, dtype=torch.float64),
    "full": lambda: st.nn.SparseLinear(5, 4, density=1.0),
    "no edges": lambda: st.nn.SparseLinear(5, 4, density=0.0),
    "many columns": lambda: st.nn.SparseLinear(1 << 25, 2, topology=st.Topology.from_coo([0, 1], [3, (1 << 25) - 1], (2, 1 << 25))),
    "named": lambda: st.nn.SparseLinear.from_edges([("TP53", "Zelltod"), ("MYC", "Zyklus"), ("TP53", "Zyklus ü")]),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_a_file_is_read_without_this_library(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(LAYERS[kind]())
    st.init.normal_(model[0])
    safetensors.torch.save_file(model.state_dict(), tmp_path / "state.safetensors")
    st.io.save(tmp_path / "training.st", model)
    for file, name in (("state.safetensors", "0"), ("training.st", "model/0")):
        found = reader()(safetensors.numpy.load_file(tmp_path / file), name)
        t = model[0].topology
        assert found.shape == t.shape
        assert np.array_equal(found.indptr, t.crow.numpy())
        assert np.array_equal(found.indices, t.col.numpy())
        assert np.array_equal(found.data, model[0].values.detach().numpy())
        assert found.data.dtype == model[0].values.detach().numpy().dtype


def test_names_are_where_the_page_says(tmp_path: Path) -> None:
    import json

    layer = LAYERS["named"]()
    state = layer.state_dict()["_extra_state"].long().tolist()
    sizes = [sum(digit << 4 * k for k, digit in enumerate(state[1 + 16 * i : 17 + 16 * i])) for i in range(5)]
    digits = state[145 + sizes[0] + sizes[2] :]
    bytes_ = bytes(low + 16 * high for low, high in zip(digits[::2], digits[1::2], strict=True))
    inputs, outputs = bytes_[: sizes[3] - 1], bytes_[sizes[3] - 1 :]
    assert len(outputs) == sizes[4] - 1
    assert json.loads(inputs) == list(layer.topology.inputs)
    assert json.loads(outputs) == list(layer.topology.outputs)


def test_other_edges_have_another_digest(tmp_path: Path) -> None:
    tensors = {f"0.{key}": each.detach().numpy().copy() for key, each in LAYERS["plain"]().state_dict().items()}
    tensors["0._extra_state"][-1] -= 1
    with pytest.raises(AssertionError):
        reader()(tensors, "0")
