"""Densities by rules: names, globs, regular expressions, classes; the first that matches counts."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain.convert import sparsify, train_edges
from sparsetrain.nn import SparseDeltaLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.ModuleDict({"query": nn.Linear(20, 20), "value": nn.Linear(20, 20)})
        self.mlp = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 20))


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {"first": Block(), "second": Block(), "conv": nn.Conv1d(3, 4, 3), "head": nn.Linear(20, 10, bias=False)}
    )


def densities(model: nn.Module) -> dict[str, float]:
    return {name: each.topology.density for name, each in model.named_modules() if isinstance(each, SparseLinear)}


MLP = ("first.mlp.0", "first.mlp.2", "second.mlp.0", "second.mlp.2")
ATTENTION = ("first.attn.query", "first.attn.value", "second.attn.query", "second.attn.value")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"*.mlp.*": 0.05}, dict.fromkeys(MLP, 0.05)),
        ({"re:.*attn.*": 0.2}, dict.fromkeys(ATTENTION, 0.2)),
        ({re.compile(r"\w+\.attn\.query"): 0.2}, {"first.attn.query": 0.2, "second.attn.query": 0.2}),
        ({"head": 0.5}, {"head": 0.5}),
        ({"head": 0.001}, {"head": 0.0}),  # no edge is left
        ({nn.Linear: 0.1}, dict.fromkeys((*ATTENTION, *MLP, "head"), 0.1)),
        (
            {"*.mlp.*": 0.05, r"re:.*attn.*": 0.2, nn.Linear: 0.1},
            {**dict.fromkeys(MLP, 0.05), **dict.fromkeys(ATTENTION, 0.2), "head": 0.1},
        ),
        ({"first.*": 0.2, "*": 0.1, "*.mlp.*": 0.4}, {
            **dict.fromkeys((*ATTENTION, *MLP, "head"), 0.1),
            **dict.fromkeys((*ATTENTION[:2], *MLP[:2]), 0.2),
        }),
        ({"head": None, "first.*": 1.0, "*": 0.1}, dict.fromkeys((*ATTENTION[2:], *MLP[2:]), 0.1)),
        ({nn.Conv1d: None, "head": 0.1}, {"head": 0.1}),
    ],
    ids=str,
)  # fmt: skip
def test_the_first_rule_that_matches_a_layer_counts(rules: Any, expected: dict[str, float]) -> None:
    assert densities(sparsify(network(), rules)) == expected


@pytest.mark.parametrize("rule", ["re:hea", "re:ead", re.compile("hea")])
def test_a_whole_expression_has_to_match(rule: Any) -> None:
    with pytest.raises(ValueError, match=r"'(re:)?h?ea(d)?' matches none"):
        sparsify(network(), {rule: 0.1})


def test_layers_of_a_rule_share_its_density_by_a_method() -> None:
    model = sparsify(network(), {"*.mlp.*": 0.05, "head": 0.5}, "erk")
    expected = st.patterns.allocate([(40, 20), (20, 40), (40, 20), (20, 40)], 0.05, "erk")
    assert [model.get_submodule(name).topology.nnz for name in MLP] == [round(800 * d) for d in expected]
    assert model["head"].topology.nnz == 100
    uneven = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 2))
    first, second = densities(sparsify(uneven, {"*": 0.1}, "er")).values()
    assert first < 0.1 < second


def test_rules_obey_skip_select_and_generator() -> None:
    def model(seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return sparsify(network(), {nn.Linear: 0.1}, skip="first", select="random", generator=generator)

    assert set(densities(model(1))) == {*ATTENTION[2:], *MLP[2:], "head"}
    digests = [model(seed)["head"].topology.digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_the_largest_weights_stay() -> None:
    model = network()
    weight = model["head"].weight.detach().clone()
    sparsify(model, {"head": 0.3})
    assert model["head"].values.abs().sort().values.equal(weight.abs().flatten().sort().values[-60:])


def test_a_layer_in_two_places_has_two_names() -> None:
    shared = nn.Linear(6, 6)
    model = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Linear(6, 6)})
    sparsify(model, {"b": 0.5, "*": 0.25})
    assert model["a"] is model["b"]
    assert densities(model) == {"a": 0.5, "c": 0.25}


def test_what_a_rule_leaves_is_not_checked() -> None:
    model = nn.ModuleDict(
        {"lazy": nn.LazyLinear(3), "a": nn.Linear(4, 4), "head": nn.Linear(4, 9), "t": nn.Embedding(9, 4)}
    )
    model["head"].weight = model["t"].weight
    assert densities(sparsify(model, {"head": None, "a": 0.5})) == {"a": 0.5}
    with pytest.raises(ValueError, match="'lazy' has none yet"):
        sparsify(model, {"*": 0.5})


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ({"first.mpl.*": 0.1}, ValueError, "'first.mpl.*' matches none. There are 'first.mlp.2', 'first.mlp.0'"),
        ({"*": 0.1, "haed": None}, ValueError, "'haed' matches none. There are 'head'"),
        ({nn.LSTM: 0.1}, ValueError, "'LSTM' matches none."),
        ({"first.mlp": 0.1}, ValueError, "matches only 'first.mlp (Sequential)'. For the layers in it write 'first.mlp.*'."),
        ({"re:(": 0.1}, ValueError, "expected a regular expression after re:, got 're:('"),
        ({7: 0.1}, TypeError, "regular expressions or classes of modules, got 7."),
        ({int: 0.1}, TypeError, "got <class 'int'>."),
        ({"head": 1.5}, ValueError, "expected the density of rule 'head' from 0 to 1, got 1.5."),
        ({"head": float("nan")}, ValueError, "from 0 to 1, got nan."),
        ({"head": "much"}, TypeError, "expected the density of rule 'head' to be a number from 0 to 1, got 'much'."),
        ({"*": 1.0}, ValueError, "expected a rule that gives a density below 1 to some layer"),
        ({}, ValueError, "expected a rule that gives a density below 1 to some layer"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dry_run", [False, True])
def test_refused(rules: Any, error: type[Exception], message: str, dry_run: Any) -> None:
    model = network()
    before = list(model.modules())
    with pytest.raises(error, match=re.escape(message)):
        sparsify(model, rules, dry_run=dry_run)
    assert list(model.modules()) == before


def test_a_rule_for_what_is_skipped_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("not in skip, 'head' matches only 'head (Linear)'.")):
        sparsify(network(), {"head": 0.1}, skip="head")


def test_a_model_that_is_one_layer() -> None:
    assert isinstance(sparsify(nn.Linear(4, 4), {nn.Linear: 0.5}), SparseLinear)


# ---- names under wrappers --------------------------------------------------------------------------------------------


WRAPPERS: dict[str, Any] = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "OptimizedModule": lambda model: torch.compile(model, backend="eager"),
    "both": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_are_those_of_the_model_itself(wrapper: str) -> None:
    model = WRAPPERS[wrapper](network())
    prefix = next(name for name, _ in model.named_modules() if name.endswith("head")).removesuffix("head")
    rules = {"head": 0.5, f"{prefix}first.mlp.0": 0.2, "first.*": 0.25, r"re:second\.mlp\..*": 0.1}
    expected = {"head": 0.5, **dict.fromkeys((*ATTENTION[:2], *MLP[:2]), 0.25), **dict.fromkeys(MLP[2:], 0.1)}
    expected["first.mlp.0"] = 0.2
    would_be = sparsify(model, rules, dry_run=True)
    assert {row.name.removeprefix(prefix): row.density for row in would_be.rows if row.sparse} == expected
    sparsify(model, rules, skip=())
    assert {name.removeprefix(prefix): density for name, density in densities(model).items()} == expected
    sparsify(model, masks={"second.attn.query": torch.eye(20)}, skip="second.mlp")
    assert densities(model)[f"{prefix}second.attn.query"] == 0.05


def test_a_part_that_is_compiled() -> None:
    model = network()
    model["first"] = torch.compile(model["first"], backend="eager")
    sparsify(model, {"first.mlp.0": 0.2})
    assert densities(model) == {"first._orig_mod.mlp.0": 0.2}


def test_a_compiled_model_runs_what_it_became() -> None:
    model = torch.compile(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), backend="eager")
    x = torch.randn(3, 6)
    model(x)
    sparsify(model, {"0": 0.5})
    torch.testing.assert_close(model(x), model._orig_mod[0](x).relu())
    assert isinstance(model._orig_mod[0], SparseLinear)
    layer = torch.compile(nn.Linear(6, 6), backend="eager")
    for convert in (sparsify, train_edges):
        with pytest.raises(
            ValueError, match=r"the model itself is a compiled layer, .* Convert it first and compile then"
        ):
            convert(layer, 0.5)
    assert type(layer._orig_mod) is nn.Linear


# ---- a dry run -------------------------------------------------------------------------------------------------------


def pruned() -> nn.ModuleDict:
    model = network()
    prune.l1_unstructured(model["head"], "weight", 0.8)
    prune.random_unstructured(model["second"].mlp[0], "weight", 0.5)
    prune.random_unstructured(model["second"].mlp[0], "bias", 0.5)
    return model


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (network, {"density": 0.1}),
        (network, {"density": 0.3, "method": "uniform", "select": "random", "skip": ["first.mlp", "head"]}),
        (network, {"density": {"*.mlp.*": 0.05, "head": None, nn.Linear: 0.123}}),
        (network, {"density": {"*": 0.07}, "method": "er"}),
        (network, {"masks": {"head": torch.eye(20)[:10], "first.mlp.0": torch.ones(40, 20)}}),
        (lambda: network().double(), {"density": 0.1}),
        (lambda: network().to(torch.bfloat16), {"density": 0.1}),
        (lambda: network().to("meta"), {"density": 0.1, "select": "random"}),
        (pruned, {}),
        (pruned, {"density": {"head": 0.5}}),
    ],
)
def test_a_dry_run_changes_nothing_and_says_what_would_be(make: Any, options: Any) -> None:
    model = make()
    modules, random = list(model.modules()), torch.get_rng_state()
    state = {name: (tensor, tensor._version) for name, tensor in model.state_dict(keep_vars=True).items()}
    before = sparsify(model, **options, dry_run=True)
    assert list(model.modules()) == modules
    assert torch.get_rng_state().equal(random)
    after = {name: (tensor, tensor._version) for name, tensor in model.state_dict(keep_vars=True).items()}
    assert state.keys() == after.keys()
    assert all(after[name][0] is tensor and after[name][1] == version for name, (tensor, version) in state.items())

    summary = st.summary(sparsify(model, **options))
    for would_be, row in zip(before.rows, summary.rows, strict=True):
        assert (would_be.name, would_be.kind, would_be.shape) == (row.name, row.kind, row.shape)
        assert (would_be.edges, would_be.value_bytes, would_be.index_bytes) == (
            row.edges,
            row.value_bytes,
            row.index_bytes,
        )
        assert (would_be.density, would_be.sparse) == (row.density, row.sparse)
    assert (before.other_bytes, before.bytes) == (summary.other_bytes, summary.bytes)


def test_a_dry_run_says_why_layers_stay() -> None:
    def notes(**options: Any) -> dict[str, str]:
        return {row.name: row.note for row in sparsify(pruned(), **options, dry_run=True).rows}

    by_rules = notes(density={"first.*": None, "*.mlp.*": 0.1})
    assert by_rules["first.mlp.0"] == "rule 'first.*' leaves it"
    assert by_rules["second.mlp.0"] == ""
    assert by_rules["second.attn.value"] == "no rule matched"
    assert by_rules["head"] == "no rule matched; pruned by torch.nn.utils.prune"
    assert by_rules["conv"] == "no rule matched"
    assert notes(density=0.1, skip="first")["first.mlp.0"] == "in skip"
    assert notes(masks={"head": torch.ones(10, 20)})["first.mlp.0"] == "not named in masks"
    assert notes()["first.mlp.0"] == "not pruned"


@pytest.mark.parametrize("turned", [False, True])
def test_layers_above_a_density_stay_dense(turned: bool) -> None:
    """And those that have their weight."""
    model = nn.ModuleDict({"wide": nn.Linear(500, 500), "one": nn.Linear(500, 10), "other": nn.Linear(500, 10)})
    if turned:
        model["other"] = nn.Linear(10, 500)
        model["other"].weight.data = model["one"].weight.data.t()
    else:
        model["other"].weight = model["one"].weight
    others = {name: each.weight for name, each in model.items()}
    options: Any = {"density": 0.1, "dense_above": 0.5}
    notes = {row.name: row.note for row in sparsify(model, **options, dry_run=True).rows}
    for name in ("one", "other"):
        assert notes[name].partition(";")[0] == "its density of 1 is above 0.5"
    sparsify(model, **options)
    assert type(model["wide"]) is SparseLinear
    assert model["wide"].topology.nnz == 20_500
    assert all(type(model[name]) is nn.Linear and model[name].weight is others[name] for name in ("one", "other"))


def test_the_limit_itself_turns_sparse_and_rules_have_it_too() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 10))
    options: Any = {"density": {"0": 0.5, "1": 0.504, "2": 0.1}, "dense_above": 0.5}
    assert sparsify(model, **options, dry_run=True).rows[1].note == "its density of 0.504 is above 0.5"
    sparsify(model, **options)
    assert [type(layer) for layer in model] == [SparseLinear, nn.Linear, SparseLinear]
    for options, message in [
        ({"density": 0.6, "dense_above": 0.5, "method": "uniform"}, "a density up to dense_above=0.5, all have more. Pass"),
        ({"density": 0.6, "dense_above": 1.5}, "expected dense_above from 0 to 1, got 1.5."),
        ({"masks": {"1": torch.ones(10, 10)}, "dense_above": 0.5}, "dense_above goes with density, the masks say"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"^convert.sparsify: .*{re.escape(message)}"):
            sparsify(nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10)), **options)


# ---- edges that train ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["random", "magnitude", "gradient"])
def test_rules_for_edges_that_train(select: Any) -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10), nn.ReLU(), nn.Linear(10, 5))
    x = torch.randn(4, 20)
    closure = (lambda: model(x).square().sum()) if select == "gradient" else None
    train_edges(model, {"0": 0.1, "2": None, nn.Linear: 1.0}, select=select, closure=closure)
    assert [type(model[i]) for i in (0, 2, 4)] == [SparseDeltaLinear, nn.Linear, SparseDeltaLinear]
    assert [model[0].topology.nnz, model[4].topology.nnz] == [60, 50]
    assert not model[2].weight.requires_grad


def test_rules_for_edges_that_train_are_refused() -> None:
    model = network()
    for rules, message in [
        ({"haed": 0.1}, "convert.train_edges: expected rules that match nn.Linear layers, 'haed' matches none"),
        ({"*": None}, "expected a rule that gives a density to some layer"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            train_edges(model, rules)
    assert all(p.requires_grad for p in model.parameters())
