"""Malformed structures of every kind, at random: what is refused is refused in our words, and nothing crashes."""

import random
import warnings
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import sparsetrain as st
from sparsetrain import Topology, io, patterns

REFUSALS = (TypeError, ValueError, IndexError, FileNotFoundError, IsADirectoryError)
KNOWN = Topology([0, 1, 3], [0, 0, 1], shape=(2, 2))


def damaged(make: Callable[[Any], Any], name: str, numbers: list[int]) -> Any:
    """A scipy matrix of which one array was overwritten: nothing checks it again."""
    matrix = make(np.eye(3))
    setattr(matrix, name, np.array(numbers, dtype=np.int32))
    return matrix


def compressed(crow: list[int], col: list[int], layout: torch.layout = torch.sparse_csr) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the layout a beta
        return torch.sparse_compressed_tensor(crow, col, [1.0, 1.0], (2, 2), layout=layout, check_invariants=False)


DAMAGED = [
    damaged(sp.csr_matrix, "indices", [0, 1, 7]), damaged(sp.csr_array, "indices", [0, -1, 2]),
    damaged(sp.csr_array, "indptr", [0, 1, 2, 9]), damaged(sp.csc_array, "indptr", [0, 2, 1, 3]),
    damaged(sp.csc_array, "indices", [0, 1, 9]), damaged(sp.coo_matrix, "row", [0, 1, 9]),
    damaged(sp.bsr_array, "indices", [0, 1, 7]), damaged(sp.bsr_array, "indptr", [0, 1, 2, 9]),
    compressed([0, 1, 9], [0, 1]), compressed([0, 1, 2], [0, 5]), compressed([0, 1, 2], [0, -1], torch.sparse_csc),
    torch.sparse_coo_tensor([[0, 7], [0, 1]], [1.0, 1.0], (2, 2), check_invariants=False),
]  # fmt: skip
ANYTHING: list[Any] = [
    None, True, -1, 0, 1, 2, 3.5, float("nan"), 2**63, 2**70, "a", "", "error", "merge", "uniform", b"x", object(), set(), {},
    {1: 2}, {"p": [[1]]}, [], [[]], [1], [0, 1], [0, 1, 3], [0, -1], [1.0], ["a"], [None], [10**30], (2, 2), (2,), (2, -1), (2, 2.5),
    (2, 2, 2), [("a", "b")], [("a", "b"), ("a", "b")], [("a", ["b"])], range(2), slice(3), len, torch.uint8, KNOWN,
    np.ones(2), np.array([0, 1]), np.array(["a"]), np.array([[0, 1], [1, 0]]), np.array([object()]),
    np.array([2**64 - 1], dtype=np.uint64), torch.tensor(1), torch.tensor([0, 1]), torch.tensor([0.0, 1.0]),
    torch.tensor([1j]), torch.tensor([float("nan")]), torch.tensor([0, 2**62]), torch.eye(2), torch.eye(2).to_sparse(),
    torch.eye(2).to_sparse_csr(), torch.ones(2, dtype=torch.int64, device="meta"), torch.ones(2, 2, device="meta"),
    sp.eye_array(2), sp.csr_array((3, 0)), nx.DiGraph([(1, 2)]), pd.DataFrame({"source": [1.5, None], "target": "b"}),
    pd.DataFrame({"source": [[1]], "target": "b", "weight": "c"}), torch.Generator(), *DAMAGED,
]  # fmt: skip
SOUND = {"shape": (2, 2), "crow": [0, 1, 2], "col": [0, 1], "row": [0, 1], "number": 0.5, "count": 1}
ENTRANCES: dict[Callable[..., Any], tuple[str, str]] = {  # positional arguments, and some by name
    Topology: ("crow col shape", "inputs outputs"),
    Topology.from_coo: ("row col shape", "duplicates"),
    Topology.from_mask: ("mask", ""),
    Topology.from_scipy: ("matrix", "duplicates"),
    Topology.from_edges: ("pairs", "inputs outputs"),
    KNOWN.position: ("row col", ""),
    patterns.allocate: ("shapes number", "method"),
    patterns.uniform: ("shape number", "generator"),
    patterns.erdos_renyi: ("shape", "density epsilon generator"),
    patterns.fixed_fan_in: ("shape count", "generator"),
    patterns.banded: ("shape count", ""),
    patterns.small_world: ("shape count number", "generator"),
    io.from_sets: ("sets", ""),
    io.from_edge_index: ("edge_index", "edge_attr names"),
    io.from_networkx: ("graph", "weight"),
    io.from_torch_sparse: ("tensor", ""),
    io.read_csv: ("path", "source weight"),
    io.read_gmt: ("path", ""),
    st.convert.from_hierarchy: ("edges", "inputs outputs"),
    st.nn.SparseLinear.from_edges: ("edges", "inputs outputs"),
    st.nn.SparseLinear.from_matrix: ("matrix", ""),
}


@pytest.mark.parametrize("entrance", ENTRANCES, ids=lambda entrance: entrance.__qualname__)
def test_what_is_malformed_is_refused_in_our_words(entrance: Callable[..., Any]) -> None:
    draw = random.Random(0)
    needed, optional = (names.split() for names in ENTRANCES[entrance])
    for _ in range(1000):
        given = [SOUND[name] if name in SOUND and draw.random() < 0.5 else draw.choice(ANYTHING) for name in needed]
        named = {name: draw.choice(ANYTHING) for name in optional if draw.random() < 0.4}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                entrance(*given, **named)
            except REFUSALS as error:
                if ": expected " not in str(error) and "is not stored" not in str(error):
                    pytest.fail(f"{type(error).__name__}: {error} of {given}, {named}")


@pytest.mark.parametrize("matrix", DAMAGED, ids=lambda m: f"{type(m).__name__} {getattr(m, 'layout', '')}")
@pytest.mark.parametrize("duplicates", ["error", "merge"])
def test_damaged_matrices_are_refused(matrix: Any, duplicates: Any) -> None:
    """scipy and torch convert them without asking, and write past the ends of arrays."""
    if not isinstance(matrix, torch.Tensor):
        with pytest.raises((ValueError, IndexError), match=r"^Topology.from_scipy: expected"):
            Topology.from_scipy(matrix, duplicates=duplicates)
    with pytest.raises((ValueError, IndexError), match=r"^SparseLinear.from_matrix: expected"):
        st.nn.SparseLinear.from_matrix(matrix)
