"""Edge lists between named nodes, and the names that a topology keeps."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from sparsetrain import Topology

PAIRS = [("TP53", "apoptosis"), ("MYC", "cycle"), ("TP53", "cycle")]


def links(t):
    return [(t.inputs[j], t.outputs[i]) for i, j in zip(t.row.tolist(), t.col.tolist(), strict=True)]


def test_names_in_order_of_appearance():
    t = Topology.from_edges(PAIRS)
    assert t.inputs == ("TP53", "MYC")
    assert t.outputs == ("apoptosis", "cycle")
    assert t.to_mask().tolist() == [[True, False], [True, True]]


def test_names_in_the_order_given():
    t = Topology.from_edges(PAIRS, inputs=["MYC", "KRAS", "TP53"], outputs=("cycle", "apoptosis"))
    assert t.shape == (2, 3)
    assert t.to_mask().tolist() == [[True, False, True], [False, False, True]]
    assert t.inputs == ("MYC", "KRAS", "TP53")
    assert t.outputs == ("cycle", "apoptosis")
    assert t.fan_out.tolist() == [1, 0, 2]


names = some.lists(some.text(max_size=3), min_size=1, max_size=6, unique=True)


@settings(deadline=None, max_examples=60)
@given(names, names, some.data())
def test_the_edges_are_those_given(inputs, outputs, data):
    ends = some.tuples(some.sampled_from(inputs), some.sampled_from(outputs))
    pairs = data.draw(some.lists(ends, unique=True))
    for t in (Topology.from_edges(pairs), Topology.from_edges(pairs, inputs=inputs, outputs=outputs)):
        assert sorted(links(t)) == sorted(pairs)
        assert Topology(t.crow, t.col, t.shape).digest == t.digest  # canonical


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
def test_frames(dtype):
    frame = pd.DataFrame({"weight": 1.0, "target": [b for _, b in PAIRS], "source": [a for a, _ in PAIRS]}, dtype=dtype)
    t = Topology.from_edges(frame)
    assert t.digest == Topology.from_edges(PAIRS).digest
    assert (t.inputs, t.outputs) == (("TP53", "MYC"), ("apoptosis", "cycle"))


def test_a_filtered_frame_and_one_of_numbers():
    frame = pd.DataFrame({"source": [5, 7, 7], "target": [1, 1, 2]}, index=[10, 20, 30])
    t = Topology.from_edges(frame[frame.source == 7])
    assert (t.inputs, t.outputs, t.shape) == (("7",), ("1", "2"), (2, 1))
    assert Topology.from_edges(frame, inputs=range(8), outputs=range(3)).col.tolist() == [5, 7, 7]


@pytest.mark.parametrize(
    "pairs", [iter(PAIRS), tuple(PAIRS), np.array(PAIRS), dict.fromkeys(PAIRS, 1.0).keys(), map(list, PAIRS)]
)
def test_pairs_of_every_kind(pairs):
    assert sorted(links(Topology.from_edges(pairs))) == sorted(PAIRS)


def test_nodes_may_be_any_hashable_and_become_text():
    t = Topology.from_edges([((0, 1), 2.5), (7, "x")])
    assert t.inputs == ("(0, 1)", "7")
    assert t.outputs == ("2.5", "x")


def test_no_edges():
    assert Topology.from_edges([]).shape == (0, 0)
    t = Topology.from_edges(pd.DataFrame({"source": [], "target": []}), inputs=["a", "b"], outputs=["c"])
    assert (t.shape, t.nnz, t.inputs) == ((1, 2), 0, ("a", "b"))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", "b"), ("a", "b")], r"^Topology.from_edges: expected distinct edges, got \('a', 'b'\) more than once"),
        ([("z", "b"), ("a", "b"), ("z", "b")], r"distinct edges, got \('z', 'b'\) more than once. Drop"),
        ([(1, "b"), ("1", "b")], r"distinct names in inputs, got 1 and '1', both of which read '1' as text. Rename"),
        ([("1", "b"), (1, "b")], r"distinct names in inputs, got '1' and 1, both of which read '1' as text"),
        ([("a", "b", "c")], r"pairs \(source, target\), got \('a', 'b', 'c'\) at position 0"),
        ([("a", "b"), "cd"], r"pairs \(source, target\), got 'cd' at position 1"),
        ([("a", "b"), 3], r"pairs \(source, target\), got 3 at position 1"),
        ([("a", None)], r"a name in outputs, got None at edge 0. Drop that edge"),
        ([("a", "b"), (float("nan"), "b")], r"a name in inputs, got nan at edge 1. Drop that edge"),
        ([("a", "b"), (pd.NA, "b")], r"a name in inputs, got <NA> at edge 1"),
        ([("a", pd.NaT)], r"a name in outputs, got NaT at edge 0"),
        (pd.DataFrame({"source": ["a", None], "target": ["b", "c"]}), r"a name in inputs, got (nan|None) at edge 1"),
        (
            pd.DataFrame({"source": ["a", "b"], "target": pd.array(["c", None], "string")}),
            r"a name in outputs, got <NA> at edge 1",
        ),
        (
            pd.DataFrame({"gene": ["a"], "target": ["b"]}),
            r"columns 'source' and 'target', got columns \['gene', 'target'\]; missing: \['source'\]. Rename",
        ),
        (pd.DataFrame({0: ["a"]}), r"got columns \['0'\]; missing: \['source', 'target'\]"),
    ],
)
def test_edge_lists_that_are_wrong(pairs, message):
    with pytest.raises(ValueError, match=message):
        Topology.from_edges(pairs)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["TP53"], ValueError, r"use names in inputs, got 1 unknown: 'MYC'. Add them to inputs, or drop their edges"),
        (["tp53"], ValueError, r"got 2 unknown: 'TP53', 'MYC'\. Add"),
        ([], ValueError, r"got 2 unknown: 'TP53', 'MYC'\. Add"),
        (["TP53", "MYC", "TP53"], ValueError, r"distinct names in inputs, got 'TP53' and 'TP53'"),
        (["TP53", "MYC", None], ValueError, r"a name in inputs, got None at position 2. Give it a name"),
        (["TP53", float("nan")], ValueError, r"a name in inputs, got nan at position 1"),
        ("TP53", TypeError, r"inputs to be a sequence of names, got 'TP53'"),
        (2, TypeError, r"inputs to be a sequence of names, got 2"),
    ],
)
def test_names_that_are_wrong(names, error, message):
    with pytest.raises(error, match="^Topology.from_edges: expected .*" + message):
        Topology.from_edges(PAIRS, inputs=names)


def test_a_long_list_of_unknown_names_is_cut():
    with pytest.raises(ValueError, match=r"got 9 unknown: '0', '1', '2', '3', '4' and 4 more\. Add"):
        Topology.from_edges([(k, "out") for k in range(9)], inputs=["x"])


@pytest.mark.parametrize("pairs", [None, 3, torch.tensor(3)])
def test_what_is_no_edge_list(pairs):
    with pytest.raises(TypeError):
        Topology.from_edges(pairs)


def test_names_of_given_arrays():
    t = Topology([0, 2], [0, 1], (1, 2), inputs=np.array(["a", "b"]), outputs=pd.Index([7]))
    assert (t.inputs, t.outputs) == (("a", "b"), ("7",))
    with pytest.raises(ValueError, match=r"^Topology: expected 2 names in inputs, got 3"):
        Topology([0, 2], [0, 1], (1, 2), inputs=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"^Topology: expected distinct names in outputs, got 'a' and 'a'"):
        Topology([0, 0, 0], [], (2, 2), outputs=["a", "a"])
