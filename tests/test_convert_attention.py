"""Attention in whole models: which rules reach it, what torch.nn.utils.prune left of it, and the way back."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrizations, prune

import sparsetrain as st
from sparsetrain.convert import densify, sparsify
from sparsetrain.nn import SparseLinear, SparseMultiheadAttention

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True, **how)
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + self.attn(x, x, x, need_weights=False)[0])


def model(**how: Any) -> nn.Sequential:
    return nn.Sequential(Block(**how), Block(**how))


def densities(model: nn.Module) -> dict[str, float]:
    return {name: each.topology.density for name, each in model.named_modules() if isinstance(each, SparseLinear)}


def attentions(*names: str, density: float, parts: tuple[str, ...] = PROJECTIONS) -> dict[str, float]:
    return {f"{name}.{part}": density for name in names for part in parts}


# ---- which layers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"re:.*attn.*": 0.25}, attentions("0.attn", "1.attn", density=0.25)),
        ({nn.MultiheadAttention: 0.25}, attentions("0.attn", "1.attn", density=0.25)),
        ({"1.attn": 0.25}, attentions("1.attn", density=0.25)),
        ({"1.attn.in_proj_weight": 0.25}, attentions("1.attn", density=0.25, parts=PROJECTIONS[:3])),
        ({"1.attn.out_proj": 0.25}, {"1.attn.out_proj": 0.25}),
        ({"*.q_proj": 0.25, "0.attn.*": 0.5, "*": None}, {
            "1.attn.q_proj": 0.25, "0.attn.q_proj": 0.25, **attentions("0.attn", density=0.5, parts=PROJECTIONS[1:]),
        }),
        ({nn.Linear: 0.25}, {"0.fc": 0.25, "1.fc": 0.25}),
        ({nn.MultiheadAttention: None, "*": 0.25}, {"0.fc": 0.25, "1.fc": 0.25}),
        ({"0.*": 0.25}, {**attentions("0.attn", density=0.25), "0.fc": 0.25}),
    ],
    ids=str,
)  # fmt: skip
def test_rules(rules: Any, expected: dict[str, float]) -> None:
    before = model()
    would_be = sparsify(before, rules, dry_run=True)
    assert [type(m.attn) for m in before] == [nn.MultiheadAttention] * 2
    assert {row.name: row.density for row in would_be.rows if row.sparse} == expected
    after = sparsify(before, rules)
    assert densities(after) == expected
    rows = st.summary(after).rows
    assert [(row.name, row.shape, row.edges, row.value_bytes, row.index_bytes) for row in rows] == [
        (row.name, row.shape, row.edges, row.value_bytes, row.index_bytes) for row in would_be.rows
    ]
    assert (would_be.bytes, would_be.other_bytes) == (st.summary(after).bytes, st.summary(after).other_bytes)


def test_a_number_is_of_attention_too() -> None:
    sparse = sparsify(model(), 0.25, "uniform")
    assert densities(sparse) == {**attentions("0.attn", "1.attn", density=0.25), "0.fc": 0.25, "1.fc": 0.25}
    assert densities(sparsify(model(), 0.25, "uniform", skip=["0.attn", "1"])) == {"0.fc": 0.25}
    partly = sparsify(model(), 0.25, "uniform", skip=["0.attn.k_proj", "1"])
    assert densities(partly).keys() == {"0.attn.q_proj", "0.attn.v_proj", "0.attn.out_proj", "0.fc"}
    assert type(partly[0].attn.k_proj) is nn.Linear


def test_masks() -> None:
    dense = model(kdim=6)
    masks = {"0.attn.k_proj": torch.rand(8, 6) < 0.5, "0.attn.out_proj": st.patterns.uniform((8, 8), 0.25)}
    sparse = sparsify(copy.deepcopy(dense), masks=masks)
    assert sparse[0].attn.k_proj.to_dense().weight.equal(dense[0].attn.k_proj_weight * masks["0.attn.k_proj"])
    assert sparse[0].attn.out_proj.topology is masks["0.attn.out_proj"]
    assert type(sparse[1].attn) is nn.MultiheadAttention
    dense, whole = model(), torch.rand(24, 8) < 0.5
    for mask in (whole, st.Topology.from_mask(whole)):
        sparse = sparsify(copy.deepcopy(dense), masks={"1.attn.in_proj_weight": mask})
        assert densify(sparse)[1].attn.in_proj_weight.equal(dense[1].attn.in_proj_weight * whole)
    with pytest.raises(
        ValueError, match=re.escape("the mask of '1.attn.in_proj_weight' in shape (out, in) = (24, 8), got (20, 8).")
    ):
        sparsify(model(), masks={"1.attn.in_proj_weight": torch.ones(20, 8)})


def stepped(layer: nn.Module) -> None:
    """Originals move on, what is computed from them does not."""
    for p in layer.parameters():
        p.data.add_(0.25)


@pytest.mark.parametrize("how", [{}, {"kdim": 6, "vdim": 10}], ids=str)
@pytest.mark.parametrize("change", [lambda layer: None, stepped, nn.Module.double, nn.Module.half])
def test_what_prune_left(how: dict[str, Any], change: Any) -> None:
    layer = nn.MultiheadAttention(8, 2, **how)
    name = "k_proj_weight" if how else "in_proj_weight"
    prune.l1_unstructured(layer, name, 0.7)
    prune.random_unstructured(layer, name, 0.2)
    pruned: list[tuple[Any, str]] = [(layer, name), (layer.out_proj, "weight")]
    prune.l1_unstructured(layer.out_proj, "weight", 0.5)
    if not how:
        prune.random_unstructured(layer, "in_proj_bias", 0.5)
        pruned.append((layer, "in_proj_bias"))
    change(layer)
    expected = {
        each: (part._parameters[f"{each}_orig"] * part._buffers[f"{each}_mask"]).detach() for part, each in pruned
    }
    mask = layer._buffers[f"{name}_mask"] != 0
    sparse = sparsify(layer)
    assert not prune.is_pruned(sparse)
    parts = ["k_proj"] if how else PROJECTIONS[:3]
    found = torch.cat([sparse.get_submodule(part).topology.to_mask() for part in parts])
    assert found.equal(mask)
    assert (type(sparse.q_proj) is nn.Linear) == bool(how)
    dense = densify(sparse)
    for each, value in expected.items():
        got = getattr(dense.out_proj if each == "weight" else dense, each)
        torch.testing.assert_close(got, value, rtol=0, atol=0)
    assert not dense._forward_pre_hooks


def test_what_is_pruned_and_stays_dense_stays_pruned() -> None:
    layer = nn.MultiheadAttention(8, 2)
    prune.l1_unstructured(layer, "in_proj_weight", 0.5)
    prune.l1_unstructured(layer.out_proj, "weight", 0.5)
    x = torch.randn(3, 2, 8)
    expected = layer(x, x, x)
    sparse = sparsify(layer, masks={"q_proj": layer.in_proj_weight_mask[:8]})
    torch.testing.assert_close(sparse(x, x, x), expected)
    assert prune.is_pruned(sparse.k_proj)
    assert prune.is_pruned(sparse.out_proj)
    sparse(x, x, x)[0].sum().backward()
    stepped(sparse)
    sparse(x, x, x)
    assert bool((sparse.k_proj.weight == 0).any())
    with pytest.raises(ValueError, match=re.escape("'k_proj' has weight_mask, weight_orig. Call torch.nn.utils.prune")):
        densify(sparse)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "grad"), [(True, True), (False, False)])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("how", [{"batch_first": True}, {}, {"norm_first": True}, {"bias": False}], ids=str)
def test_transformers(grad: bool, mode: bool, how: dict[str, Any]) -> None:
    dense = nn.Transformer(8, 2, 1, 2, 16, dropout=0.0, **how).train(mode)
    sparse = sparsify(copy.deepcopy(dense), {"*": 0.5})
    assert len(densities(sparse)) == 1 * (4 + 2) + 2 * (8 + 2)
    twin = densify(copy.deepcopy(sparse)).train()  # in training mode the plain way is computed
    source, target = torch.randn(3, 3, 8), torch.randn(3, 3, 8)
    padding = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]]).bool()
    causal = nn.Transformer.generate_square_subsequent_mask(3).isinf()
    call = {
        "src_key_padding_mask": padding,
        "memory_key_padding_mask": padding,
        "tgt_mask": causal,
        "tgt_is_causal": True,
    }
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(sparse(source, target, **call), twin(source, target, **call))


@pytest.mark.parametrize("rules", [{"*": 0.5}, {"layers.1.self_attn": 0.5}, {"*.linear1": 0.5}], ids=str)
@pytest.mark.parametrize("padded", [True, False])
def test_encoders_leave_the_fused_path(rules: Any, padded: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    sparse = sparsify(nn.TransformerEncoder(layer, 2).eval(), rules)
    twin = densify(copy.deepcopy(sparse)).train()
    x, padding = torch.randn(2, 4, 8), torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    call = {"src_key_padding_mask": padding} if padded else {}
    kept = ~padding if padded else slice(None)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x, **call)[kept], twin(x, **call)[kept])


def test_a_sparse_transformer_trains_and_its_edges_change() -> None:
    sparse = sparsify(model(), 0.5)
    optimizer = torch.optim.Adam(sparse.parameters(), 0.01)
    evolver = st.evolve.Evolver(
        sparse, optimizer, st.evolve.RigL(), st.evolve.Constant(interval=2, stop=12, prune_fraction=0.3)
    )
    x, target = torch.randn(16, 4, 8), torch.randn(16, 4, 8)
    losses, changes = [], []
    for _ in range(12):
        optimizer.zero_grad()
        loss = (sparse(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        changes.append(evolver.step())
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert any(change is not None for change in changes)


# ---- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{}, {"kdim": 6}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_there_and_back(how: dict[str, Any], dtype: torch.dtype) -> None:
    if how.get("bias") is False and dtype == torch.bfloat16:
        pytest.skip("densify gives weights the type of a bias")
    both = nn.ModuleList([nn.MultiheadAttention(8, 2, **how), nn.MultiheadAttention(8, 2, **how)]).to(dtype)
    state = {name: tensor.clone() for name, tensor in both.state_dict().items()}
    kept = {name: p for name, p in both.named_parameters() if "out_proj.bias" in name or "bias_k" in name}
    both[0].label, both[0].out_proj.label, calls = "first", "last", []
    handle = both[0].register_forward_hook(lambda *_: calls.append(1))
    both[1].out_proj.requires_grad_(False)
    both[1].eval()
    sparse = sparsify(both, 1.0)
    assert type(sparse[0]) is SparseMultiheadAttention
    assert (sparse[0].label, sparse[1].training, sparse[1].k_proj.training) == ("first", False, False)
    assert sparse[0].out_proj.label == "last"
    assert sparse[0].k_proj.bias is None or not sparse[0].k_proj.bias._is_view()
    assert not sparse[1].out_proj.values.requires_grad
    inputs = [torch.randn(2, 3, size, dtype=dtype) for size in (8, how.get("kdim", 8), 8)]
    sparse[0](*inputs)
    dense = densify(sparse)
    assert [type(each) for each in dense] == [nn.MultiheadAttention] * 2
    assert type(dense[0].out_proj) is NonDynamicallyQuantizableLinear
    assert list(dense.state_dict()) == list(state)
    assert all(dense.state_dict()[name].equal(tensor) for name, tensor in state.items())
    assert all(dense.get_parameter(name) is p for name, p in kept.items())
    assert (dense[0].label, dense[0].out_proj.label, dense[1].training) == ("first", "last", False)
    assert not dense[1].out_proj.weight.requires_grad
    handle.remove()
    dense[0](*inputs)
    assert calls == [1]
    assert set(vars(dense[1])) == set(vars(nn.MultiheadAttention(8, 2, **how)))


def test_projections_that_stay_dense_keep_their_numbers() -> None:
    dense = model()
    sparse = sparsify(copy.deepcopy(dense), {"*.q_proj": 1.0 - 1e-9, "*": None})
    weights = dense[0].attn.in_proj_weight
    assert sparse[0].attn.k_proj.weight.equal(weights[8:16])
    assert sparse[0].attn.k_proj.weight.untyped_storage().nbytes() == 8 * 8 * 4
    assert vars(sparse[0].attn.k_proj).keys() == vars(nn.Linear(8, 8)).keys()
    again = sparsify(sparse, {"0.attn.k_proj": 0.5, "0.attn.out_proj": 0.25})
    assert (again[0].attn.k_proj.topology.nnz, again[0].attn.out_proj.topology.nnz) == (32, 16)
    back = densify(again, skip="0.attn.k_proj")
    assert type(back[0].attn) is SparseMultiheadAttention
    assert [type(each) for each in back[0].attn.children()] == [nn.Linear, SparseLinear, nn.Linear, nn.Linear]
    assert type(back[1].attn) is nn.MultiheadAttention
    assert back[1].attn.in_proj_weight.equal(dense[1].attn.in_proj_weight)


def test_one_attention_in_two_places_and_alone() -> None:
    shared = nn.MultiheadAttention(8, 2)
    both = sparsify(nn.ModuleDict({"a": shared, "b": shared}), {"b": 0.5})
    assert both["a"] is both["b"]
    assert isinstance(both["a"], SparseMultiheadAttention)
    assert isinstance(sparsify(shared, 0.5), SparseMultiheadAttention)
    assert type(densify(both["a"])) is nn.MultiheadAttention


def test_models_without_weights_take_those_of_a_state() -> None:
    source = sparsify(model(add_bias_kv=True), 0.25)
    with torch.device("meta"):
        fresh = sparsify(model(add_bias_kv=True), 0.25)
    fresh.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(fresh(x), source(x), rtol=0, atol=0)


# ---- refused ---------------------------------------------------------------------------------------------------------


def modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.named_modules())


@pytest.mark.parametrize("rules", [0.5, {"*": 0.5}, {"0.attn": 0.5}, {"0.attn.out_proj": 0.5}], ids=str)
@pytest.mark.parametrize("dry_run", [True, False])
def test_computed_weights(rules: Any, dry_run: bool) -> None:
    whole = model()
    parametrizations.orthogonal(whole[0].attn, "in_proj_weight")
    before = modules(whole)
    message = (
        "convert.sparsify: expected attention whose weights are Parameters, '0.attn' has parametrizations. Leave it"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        sparsify(whole, rules, dry_run=dry_run)
    assert modules(whole) == before
    assert densities(sparsify(whole, 0.5, skip="0.attn")).keys() >= {"0.fc", "1.attn.q_proj"}  # as advised


def test_a_computed_output() -> None:
    whole = model()
    parametrizations.orthogonal(whole[0].attn.out_proj, "weight")
    x = torch.randn(2, 3, 8)
    with pytest.raises(ValueError, match=re.escape("'0.attn.out_proj' has parametrizations. Leave it dense with skip")):
        sparsify(whole, 0.5)
    expected = whole(x)
    sparse = sparsify(whole, {"0.attn.out_proj": None, "*": 1.0 - 1e-9})
    torch.testing.assert_close(sparse(x), expected)
    assert st.summary(model()).rows[0].note == "not converted"


def test_why_attention_is_dense() -> None:
    whole = model()
    parametrizations.orthogonal(whole[0].attn, "in_proj_weight")
    prune.identity(whole[1].attn, "in_proj_weight")
    notes = {row.name: row.note for row in sparsify(whole, {"*.attn": None, "*": 0.5}, dry_run=True).rows}
    assert notes["0.attn.in_proj_weight"] == "rule '*.attn' leaves it; parametrized"
    assert notes["0.attn.out_proj"] == "rule '*.attn' leaves it"
    assert notes["1.attn.in_proj_weight"] == "rule '*.attn' leaves it; pruned by torch.nn.utils.prune"
    mine = type("Mine", (nn.MultiheadAttention,), {})(8, 2)
    assert {row.note for row in st.summary(mine).rows} == {"a subclass of nn.MultiheadAttention"}
    assert sparsify(nn.ModuleList([mine, nn.Linear(4, 4)]), 0.5)[0] is mine


def test_a_failed_conversion_puts_everything_back() -> None:
    whole = nn.ModuleList([model(), nn.LazyLinear(3)])
    before, hooks = modules(whole), dict(whole[0][0].attn._forward_pre_hooks)
    with pytest.raises(ValueError, match="'1' has none yet"):
        sparsify(whole, 0.5)
    with pytest.raises(ValueError, match="'2' matches none"):
        sparsify(whole, {"0.*": 0.5, "2": 0.5})
    assert modules(whole) == before
    assert whole[0][0].attn._forward_pre_hooks == hooks


def test_hooks_that_attention_has_no_place_for() -> None:
    sparse = sparsify(model(), 0.5)
    sparse[1].attn.q_proj.register_forward_hook(lambda *_: None)
    before = modules(sparse)
    with pytest.raises(ValueError, match=r"'1\.attn\.q_proj' has _forward_hooks, .* skip=\['1\.attn'\]\."):
        densify(sparse)
    assert modules(sparse) == before
    back = densify(sparse, skip=["1.attn"])
    assert type(back[0].attn) is nn.MultiheadAttention
    assert type(back[1].attn) is SparseMultiheadAttention
