"""Models of layered edge lists: beside a float64 computation node by node, and what is refused."""

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.convert import from_hierarchy
from sparsetrain.nn import Hierarchy, SparseLinear

EDGES = [
    ("TP53", "apoptosis"), ("MYC", "cycle"), ("apoptosis", "cell"), ("cycle", "cell"), ("MYC", "cell"), ("KRAS", "cycle"),
    ("KRAS", "marker"), ("cycle", "cancer"), ("cell", "cancer"),
]  # fmt: skip


@pytest.fixture
def model() -> Hierarchy:
    torch.manual_seed(0)
    return from_hierarchy(EDGES)


def by_node(model: Hierarchy, x: Tensor, edges: list[tuple[str, str]]) -> dict[str, Tensor]:
    """What each node passes on, one after the other; weights and biases are those of the model, in its graph."""
    weight, bias = {}, {}
    for layer in model.levels:
        t = layer.topology
        for e, (i, j) in enumerate(zip(t.row.tolist(), t.col.tolist(), strict=True)):
            weight[t.inputs[j], t.outputs[i]] = layer.values[e]
        bias |= dict(zip(t.outputs, layer.bias, strict=True))
    assert sorted(weight) == sorted(edges)
    passed = {name: x[..., k] for k, name in enumerate(model.inputs)}
    while len(passed) < len(bias) + len(model.inputs):
        for target in bias.keys() - passed.keys():
            sources = [a for a, b in edges if b == target]
            if all(source in passed for source in sources):
                total = bias[target] + sum(weight[source, target] * passed[source] for source in sources)
                passed[target] = total if target in model.outputs else total.tanh()
    return passed


@some.composite
def graphs(draw: Any) -> list[tuple[str, str]]:
    """Edges of a directed acyclic graph in any order, its nodes in any order."""
    size = draw(some.integers(2, 9))
    generator = np.random.default_rng(draw(some.integers(0, 2**32 - 1)))
    mask = np.triu(generator.random((size, size)) < draw(some.sampled_from([0.2, 0.5, 1.0])), 1)
    mask[0, -1] = True
    names = generator.permutation(size)
    return [(f"n{names[a]}", f"n{names[b]}") for a, b in generator.permutation(np.argwhere(mask)).tolist()]


@settings(deadline=None, max_examples=60)
@given(graphs(), some.sampled_from([(), (1,), (5,), (2, 3)]))
def test_every_node_is_what_it_should_be(edges: list[tuple[str, str]], batch: tuple[int, ...]) -> None:
    model = from_hierarchy(edges, dtype=torch.float64)
    x = torch.randn(*batch, len(model.inputs), dtype=torch.float64, requires_grad=True)
    expected = by_node(model, x, edges)
    outputs = torch.stack([expected[name] for name in model.outputs], -1)
    torch.testing.assert_close(model(x), outputs)
    nodes = sorted(expected, reverse=True)
    torch.testing.assert_close(model.activations(x, nodes), torch.stack([expected[name] for name in nodes], -1))
    wanted = [x, *model.parameters()]
    got = torch.autograd.grad(model(x).square().sum(), wanted)
    for one, other in zip(got, torch.autograd.grad(outputs.square().sum(), wanted), strict=True):
        torch.testing.assert_close(one, other)
    assert set(model.inputs) == {a for a, _ in edges} - {b for _, b in edges}
    assert set(model.outputs) == {b for _, b in edges} - {a for a, _ in edges}
    for a, b in edges:
        assert model.level_of(a) < model.level_of(b)


def test_levels_inputs_and_outputs(model: Hierarchy) -> None:
    assert model.inputs == ("TP53", "MYC", "KRAS")
    assert model.outputs == ("marker", "cancer")
    levels = {"TP53": 0, "apoptosis": 1, "cycle": 1, "marker": 1, "cell": 2, "cancer": 3}
    assert {name: model.level_of(name) for name in levels} == levels
    assert len(model.levels) == 3
    assert model.layer("cell") is model.layer(2) is model.levels[1]
    assert model.layer("cell").topology.inputs == ("MYC", "apoptosis", "cycle")
    assert model.layer(1).topology.outputs == ("apoptosis", "cycle", "marker")
    with pytest.raises(ValueError, match="expected the name of a node, got 'Cell'"):
        model.level_of("Cell")
    with pytest.raises(ValueError, match="a node that is computed, got the input 'MYC'"):
        model.layer("MYC")
    for wrong in (0, 4, -1):
        with pytest.raises(IndexError, match=f"a level from 1 to 3, got {wrong}"):
            model.layer(wrong)
    with pytest.raises(ValueError, match=r"^Hierarchy.activations: expected names of inputs or of nodes.*, got 'Cell'"):
        model.activations(torch.ones(3), ["cell", "Cell"])
    with pytest.raises(ValueError, match=r"expected 3 input features, got x of shape \(2, 4\)"):
        model(torch.ones(2, 4))


def test_names_in_the_order_given() -> None:
    model = from_hierarchy(EDGES, inputs=["KRAS", "MYC", "TP53"], outputs=["cancer", "marker"], dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = by_node(model, x, EDGES)
    assert torch.equal(expected["MYC"], x[:, 1])
    torch.testing.assert_close(model(x), torch.stack([expected["cancer"], expected["marker"]], -1))


def test_readable(model: Hierarchy) -> None:
    text = repr(model)
    assert "inputs=3, outputs=2, nodes=8, edges=9" in text.replace("\n", "")
    assert "SparseLinear(in_features=3, out_features=3, nnz=4" in text
    assert "Tanh()" in text


def test_frames_bring_weights_and_give_them_back(model: Hierarchy) -> None:
    frame = pd.DataFrame(EDGES, columns=["source", "target"]).assign(weight=np.arange(9) / 7)
    weighted = from_hierarchy(frame)
    given = weighted.edges().set_index(["source", "target"]).weight
    assert given.to_dict() == {edge: pytest.approx(k / 7) for k, edge in enumerate(EDGES)}
    ordered = from_hierarchy(EDGES, inputs=["KRAS", "MYC", "TP53"], outputs=["cancer", "marker"], bias=False)
    again = from_hierarchy(ordered.edges(), bias=False)
    assert (again.inputs, again.outputs) == (ordered.inputs, ordered.outputs)
    x = torch.randn(4, 3)
    assert torch.equal(again(x), ordered(x))
    aligned = model.align(pd.DataFrame({"KRAS": [1.0], "other": [0.0], "TP53": [2.0], "MYC": [3.0]}))
    assert list(aligned.columns) == list(model.inputs)
    with pytest.raises(
        ValueError, match=r"^Hierarchy\.align: expected a column for each of 3 inputs, got none for 1: 'MYC'"
    ):
        model.align(pd.DataFrame({"KRAS": [1.0], "TP53": [2.0]}))


def test_copies_and_checkpoints(model: Hierarchy, tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
    new = from_hierarchy(EDGES)
    new.load_state_dict(model.state_dict())
    assert torch.equal(new(x), model(x))
    st.io.save(tmp_path / "model.safetensors", model)
    new = from_hierarchy(EDGES)
    st.io.load(tmp_path / "model.safetensors", new)
    assert torch.equal(new(x), model(x))
    assert new.double()(x.double()).dtype is torch.float64
    renamed = from_hierarchy([(a.replace("KRAS", "NRAS"), b) for a, b in EDGES])
    with pytest.raises(
        ValueError, match="expected the same names in inputs, the checkpoint has 'KRAS' where the layer has 'NRAS'"
    ):
        st.io.load(tmp_path / "model.safetensors", renamed)
    st.io.load(tmp_path / "model.safetensors", renamed, topology="adopt")
    with pytest.raises(ValueError, match="expected layers with the names that they were wired by"):
        renamed(x)


def test_activations_of_levels() -> None:
    model = from_hierarchy(EDGES, activation=lambda: nn.PReLU(init=0.1))
    slopes = [p for name, p in model.named_parameters() if name.startswith("activation")]
    assert len(slopes) == 2  # the last level has outputs alone
    assert slopes[0] is not slopes[1]
    for wrong in (nn.Tanh(), "tanh", None):
        with pytest.raises(
            TypeError, match=r"expected activation to make a module for each level.*lambda: nn.LeakyReLU"
        ):
            from_hierarchy(EDGES, activation=wrong)


def test_options_reach_the_layers() -> None:
    model = from_hierarchy(EDGES, bias=False, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    same = from_hierarchy(EDGES, bias=False, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert all(layer.bias is None for layer in model.levels)
    assert all(map(torch.equal, model.parameters(), same.parameters()))
    assert from_hierarchy(EDGES, device="meta").levels[0].values.is_meta


def test_it_trains(model: Hierarchy) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    x = torch.randn(64, 3)
    y = torch.stack([x[:, 2], (x[:, 0] + x[:, 1]).tanh()], -1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a"), ("x", "a")], {}, r"without a cycle, got (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c) \(3 nodes\)\. Drop one"),
        ([(k, (k + 1) % 30) for k in range(30)], {}, r"without a cycle, got (\d+ -> ){10}\.\.\. \(30 nodes\)"),
        ([("a", "b"), ("b", "b")], {}, r"edges between two nodes, got one from 'b' to itself\. Drop it"),
        ([("a", "b"), ("c", "b"), ("a", "b")], {}, r"distinct edges, got \('a', 'b'\) more than once\. Drop the repeats"),
        ([(1, "b"), ("b", "1")], {}, r"distinct names in the nodes, got 1 and '1', both of which read '1' as text"),
        ([("a", "b"), ("a", None)], {}, r"a name in targets, got None at edge 1\. Drop that edge"),
        ([], {}, r"edges, got none"),
        (EDGES, {"inputs": ["TP53", "MYC", "KRAS", "cycle"]}, r"inputs without incoming edges, got some at 'cycle'"),
        (EDGES, {"inputs": ["TP53", "MYC"]}, r"all nodes without incoming edges in inputs, 1 are missing: 'KRAS'\. Add them"),
        (EDGES, {"outputs": ["marker", "cancer", "cell"]}, r"outputs without outgoing edges, got some at 'cell'"),
        (EDGES, {"outputs": ["marker"]}, r"all nodes without outgoing edges in outputs, 1 are missing: 'cancer'"),
        (EDGES, {"outputs": ["marker", "cancer", "more"]}, r"outputs that edges lead to, got also 'more'"),
        (EDGES, {"inputs": ["TP53", "MYC", "KRAS", "KRAS"]}, r"distinct names in inputs, got 'KRAS' and 'KRAS'"),
        (EDGES, {"inputs": ["TP53", "MYC", "KRAS", "EGFR"], "unconnected": "error"}, r"every node to have an edge, got 1 of 4 inputs without edges \('EGFR'\)"),
        (pd.DataFrame({"source": ["a"], "target": ["b"], "weight": [np.inf]}), {}, r"a finite number as the weight of every edge, got inf for edge \('a', 'b'\)"),
        (pd.DataFrame({"source": ["a"], "target": ["b"], "constraint": ["odd"]}), {}, r"one of \['positive', 'negative', 'fixed'\] or missing, got 'odd'"),
        (pd.DataFrame({"source": ["a"]}), {}, r"columns 'source' and 'target', got columns \['source'\]"),
    ],
)  # fmt: skip
def test_hierarchies_that_are_wrong(edges: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^convert.from_hierarchy: expected .*" + message):
        from_hierarchy(edges, **options)


def test_inputs_without_edges() -> None:
    with pytest.warns(UserWarning, match="got 1 of 4 inputs without edges") as caught:
        model = from_hierarchy(EDGES, inputs=["EGFR", "TP53", "MYC", "KRAS"])
    assert caught[0].filename == __file__
    x = torch.randn(2, 4, dtype=torch.float64)
    expected = by_node(model.double(), x, EDGES)
    torch.testing.assert_close(model(x), torch.stack([expected["marker"], expected["cancer"]], -1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_hierarchy(EDGES, inputs=["EGFR", "TP53", "MYC", "KRAS"], unconnected="allow")


def test_layers_that_make_no_hierarchy() -> None:
    first, second = SparseLinear.from_edges([("a", "h")]), SparseLinear.from_edges([("h", "y")])
    cases: list[tuple[list[SparseLinear], list[str], str]] = [
        ([second, first], ["y"], "expected names of inputs or of nodes on earlier levels, got 'h'"),
        ([first, second], ["z"], "expected names of inputs or of nodes on earlier levels, got 'z'"),
        ([first, SparseLinear(1, 1, density=1)], ["h"], "expected layers with names, got SparseLinear.* without"),
        ([first, SparseLinear.from_edges([("h", "a")])], ["a"], "each node to be computed once, got 'a' again"),
        ([SparseLinear.from_edges([("a", "y"), ("a", "h")]), SparseLinear.from_edges([("h", "z")])], ["y", "z"], "outputs to be the last nodes of their level, got .*'y', 'h'"),
    ]  # fmt: skip
    for levels, outputs, message in cases:
        with pytest.raises(ValueError, match="^Hierarchy: .*" + message):
            Hierarchy(levels, ["a"], outputs)
