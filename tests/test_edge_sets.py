"""What ``edges=`` may be, against a dense mask; and every way in which a set does not belong to the layer."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hypo
from structures import Structure, structures

import sparsetrain as st
from sparsetrain.structure.edge_sets import part, positions

T = st.Topology.from_mask([[1, 0, 1], [0, 0, 0], [1, 1, 0]])


@settings(deadline=None)
@given(structures(most=12), hypo.integers(0, 2**32 - 1))
def test_every_form_says_the_same(structure: Structure, seed: int) -> None:
    t = st.Topology(structure.crow, structure.col, (structure.rows, structure.columns))
    keep = torch.from_numpy(np.random.default_rng(seed).random(t.nnz) < 0.5)
    place = keep.nonzero().flatten()
    mask = t.to_mask()
    mask[t.row[~keep].long(), t.col[~keep].long()] = False
    smaller = st.Topology.from_mask(mask)
    for edges in (place, place.int(), place.tolist(), place.numpy(), keep, keep.tolist() if t.nnz else place, smaller):
        found = positions("here", edges, t)
        assert found is not None
        assert found.dtype is torch.int64
        assert found.equal(place)
    assert part(t, keep).digest == smaller.digest
    dense = positions("here", smaller, t.shape)
    assert dense is not None
    assert dense.equal(mask.flatten().nonzero().flatten())
    assert positions("here", None, t) is None


def test_integers_keep_their_order() -> None:
    place = positions("here", [3, 0], T)
    assert place is not None
    assert place.tolist() == [3, 0]
    assert positions("here", [], T).tolist() == []  # type: ignore[union-attr]
    assert positions("here", [True, False], 2).tolist() == [0]  # type: ignore[union-attr]


def test_a_part_keeps_names() -> None:
    t = st.Topology.from_edges([("a", "y"), ("b", "y"), ("b", "z")])
    smaller = part(t, torch.tensor([True, False, True]))
    assert (smaller.inputs, smaller.outputs) == (t.inputs, t.outputs)
    place = positions("here", smaller, t)
    assert place is not None
    assert place.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("edges", "structure", "error", "message"),
    [
        ([0, 4], T, IndexError, "here: expected edges from 0 to 3, got 4 at position 1."),
        ([-1], T, IndexError, "here: expected edges from 0 to 3, got -1 at position 0."),
        ([0], 0, IndexError, "expected edges from no index, as the size is 0"),
        ([2, 0, 1, 0, 2], T, ValueError, "here: expected each edge once, got 0 again at position 3."),
        ([0.0, 1.0], T, TypeError, "expected edges as integers (places in the value array), booleans or a Topology"),
        (torch.tensor(0.5), T, TypeError, "got torch.float32. Convert with .long(), or compare with != 0."),
        ([[0, 1]], T, ValueError, "here: expected edges to be one-dimensional, got shape (1, 2)."),
        (torch.tensor(1), T, ValueError, "expected edges to be one-dimensional, got shape ()."),
        ([True] * 3, T, ValueError, "expected edges as booleans of shape (4,), one for each edge, got (3,)."),
        (torch.ones(3, 3).bool(), T, ValueError, "got (3, 3). For a mask of the whole matrix pass Topology.from_mask"),
        (st.Topology.from_mask(torch.ones(3, 2)), T, ValueError, "as a Topology of shape (3, 3), got (3, 2)."),
        (
            st.Topology.from_mask([[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
            T,
            IndexError,
            "here: expected edges that the layer has, got (row 1, column 1), which it does not store.",
        ),
        (T, 4, TypeError, "got a Topology: a tensor of values does not say which edges they are of. Pass the layer"),
        ("all", T, TypeError, "here: expected edges"),
        ({1, 2}, T, TypeError, "here: expected edges"),
    ],
)
def test_messages(edges: Any, structure: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        positions("here", edges, structure)


def test_other_names_do_not_belong() -> None:
    t = st.Topology.from_edges([("a", "y"), ("b", "y")])
    other = st.Topology.from_edges([("b", "y")], inputs=["b", "a"])
    with pytest.raises(ValueError, match=r"expected edges with the layer's names, got 'b' where the layer has 'a'"):
        positions("here", other, t)
    unnamed = st.Topology.from_mask([[0, 1]])
    place = positions("here", unnamed, t)
    assert place is not None
    assert place.tolist() == [1]


def test_pairs_of_names_are_no_set_and_the_message_says_what_is() -> None:
    t = st.Topology.from_edges([("a", "x"), ("b", "x")])
    with pytest.raises(TypeError, match=r"got list .*Edges by name are Topology.from_edges\(pairs, inputs=topology"):
        positions("here", [("a", "x")], t)
    chosen = st.Topology.from_edges([("b", "x")], inputs=t.inputs, outputs=t.outputs)
    assert positions("here", chosen, t).tolist() == [1]
