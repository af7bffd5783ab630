"""Layers that compute what nn.Linear does under other names, and layers that have one weight together."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import sparsetrain as st
from sparsetrain.convert import densify, sparsify
from sparsetrain.nn import SparseLinear, TransposedSparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- transformers' Conv1D --------------------------------------------------------------------------------------------


class Conv1D(nn.Module):
    """As in transformers.pytorch_utils, which is not needed to test how it is known."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def test_a_transposed_layer_there_and_back() -> None:
    model = nn.Sequential(Conv1D(6, 4), nn.Linear(6, 2))
    model[0].label, calls = "first", []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    model[0].weight.requires_grad_(False)
    weight, bias, x = model[0].weight.detach().clone(), model[0].bias, torch.randn(3, 4)
    expected = model(x)
    assert st.summary(model).rows[0].note == "not converted"
    would_be = sparsify(model, {"0": 0.5}, dry_run=True).rows[0]
    assert (would_be.kind, would_be.shape, would_be.edges) == ("SparseLinear", (6, 4), 12)
    half = sparsify(copy.deepcopy(model), {"0": 0.5})[0]
    assert half.values.abs().sort().values.equal(weight.abs().flatten().sort().values[-12:])
    sparse = sparsify(model, {Conv1D: 1.0 - 1e-9})
    assert (type(sparse[0]), sparse[0].label, sparse[0].bias is bias) == (SparseLinear, "first", True)
    torch.testing.assert_close(sparse(x), expected)
    dense = densify(copy.deepcopy(sparse))
    assert (type(dense[0]), dense[0].label, dense[0].weight.requires_grad) == (Conv1D, "first", False)
    assert dense[0].weight.equal(weight)
    assert dense[0].weight.is_contiguous()
    torch.testing.assert_close(dense(x), expected)
    assert len(calls) == 3  # one each
    assert vars(dense[0]).keys() == vars(Conv1D(6, 4)).keys() | {"label"}


def test_a_transposed_layer_that_is_pruned_parametrized_or_named() -> None:
    layer = prune.l1_unstructured(Conv1D(6, 4), "weight", 0.5)
    weight = (layer.weight_orig * layer.weight_mask).detach()
    sparse = sparsify(nn.Sequential(layer))
    assert sparse[0].topology.nnz == 12
    assert densify(sparse)[0].weight.equal(weight)
    model = nn.Sequential(Conv1D(6, 6), Conv1D(6, 6))
    parametrizations.orthogonal(model[0], "weight")
    with pytest.raises(ValueError, match=r"'0' has parametrizations\. Leave it dense with skip=\['0'\]"):
        sparsify(model, 0.5)
    sparsify(model, masks={"1": torch.eye(6)})
    assert model[1].topology.nnz == 6
    assert sparsify(nn.ModuleDict({"a": Conv1D(3, 2), "b": nn.Linear(2, 3)}), {nn.Linear: 0.5})["a"].nf == 3


# ---- transformers ----------------------------------------------------------------------------------------------------


SIZES = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}


def gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=20, **SIZES)
    return transformers.GPT2LMHeadModel(config).eval()


def bert() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50,
        max_position_embeddings=20,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config).eval()


@pytest.mark.parametrize(
    ("make", "count", "head"), [(gpt2, 2 * 4, "lm_head"), (bert, 2 * 6 + 1, "cls.predictions.decoder")]
)
def test_language_models(make: Any, count: int, head: str) -> None:
    model = make()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.randint(50, (2, 7))
    expected = model(ids).logits
    whole = sparsify(model, 1.0)
    torch.testing.assert_close(whole(ids).logits, expected, rtol=1e-4, atol=1e-5)
    dense = densify(whole)
    assert list(dense.state_dict()) == list(state)
    assert all(dense.state_dict()[name].equal(tensor) for name, tensor in state.items())
    notes = {row.name: row.note for row in sparsify(dense, 0.3, dry_run=True).rows}
    assert notes[head].startswith("tied to ")
    sparse = sparsify(dense, 0.3).train()
    assert sum(isinstance(module, SparseLinear) for module in sparse.modules()) == count
    assert sparse.get_output_embeddings().weight is sparse.get_input_embeddings().weight
    optimizer = torch.optim.Adam(sparse.parameters(), 0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = sparse(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match=rf"and {re.escape(head)}\.weight are one tensor"):
        sparsify(make(), {"*": 0.3})
    assert sum(isinstance(m, SparseLinear) for m in sparsify(make(), {head: None, "*": 0.3}).modules()) == count


# ---- subclasses ------------------------------------------------------------------------------------------------------


class Mine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class Inherited(nn.Linear):
    pass


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * super().forward(x)


class WithMore(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.ones(()))


class OtherCall(nn.Linear):
    def forward(self, x: Tensor, k: int) -> Tensor:  # type: ignore[override]
        return super().forward(x)


def test_subclasses_join_by_a_rule_for_their_class() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(Mine(4, 4), Inherited(4, 4), type("Derived", (Mine,), {})(4, 4), nn.Linear(4, 4))

    def sparse(rules: Any) -> list[int]:
        return [k for k, layer in enumerate(sparsify(model(), rules)) if isinstance(layer, SparseLinear)]

    assert sparse(0.5) == sparse({nn.Linear: 0.5}) == sparse({"*": 0.5}) == [3]
    assert sparse({Mine: 0.5}) == [0]  # no class that is made of it
    assert sparse({Inherited: 0.5, Mine: None, "*": 0.25}) == [1, 3]
    both = sparsify(model(), {"0": 0.25, Mine: 0.5, nn.Linear: 0.5})
    assert [layer.topology.nnz for layer in both if isinstance(layer, SparseLinear)] == [4, 8]
    with pytest.raises(ValueError, match=r"'0' matches only '0 \(Mine\)'\. Subclasses of nn.Linear join by a rule for"):
        sparsify(model(), {"0": 0.5})


def test_a_subclass_keeps_what_a_layer_keeps() -> None:
    model = nn.Sequential(Mine(4, 3))
    model[0].label, bias, x = "mine", model[0].bias, torch.randn(2, 4)
    expected = model(x)
    sparse = sparsify(model, {Mine: 1.0 - 1e-9})
    assert (sparse[0].label, sparse[0].bias is bias) == ("mine", True)
    torch.testing.assert_close(sparse(x), expected)
    assert type(densify(sparse)[0]) is nn.Linear


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Doubled,
            "forward of '0' (Doubled) gives other numbers. Drop that rule, or leave the layer dense with skip=['0']",
        ),
        (OtherCall, "forward of '0' (OtherCall) gives TypeError: "),
        (WithMore, "expected layers of weight and bias alone, '0' has scale. Leave it dense with skip=['0']."),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_subclass_that_does_more_is_refused(kind: Any, message: str, dry_run: bool) -> None:
    model = nn.Sequential(kind(4, 4), nn.Linear(4, 4))
    before, random = list(model.modules()), torch.get_rng_state()
    with pytest.raises(ValueError, match=re.escape(message)):
        sparsify(model, {kind: 0.5, "*": 0.5}, dry_run=dry_run)
    assert list(model.modules()) == before
    assert torch.get_rng_state().equal(random)
    assert isinstance(sparsify(model, {"1": 0.5})[1], SparseLinear)


# ---- ties ------------------------------------------------------------------------------------------------------------


def autoencoder(transposed: bool) -> nn.ModuleDict:
    model = nn.ModuleDict({"a": nn.Linear(6, 4), "c": nn.Linear(4, 4)})
    model["b"] = nn.Linear(4, 6) if transposed else nn.Linear(6, 4)
    model["b"].weight = nn.Parameter(model["a"].weight.t()) if transposed else model["a"].weight
    return model


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("density", [0.5, {"*": 0.5}, {"b": 0.5}], ids=str)
def test_two_layers_of_one_weight_become_two_of_one_value_array(transposed: bool, density: Any) -> None:
    dense = autoencoder(transposed)
    bias = dense["b"].bias
    weight = dense["a"].weight.detach().clone()
    would_be = sparsify(dense, density, "uniform", dry_run=True)
    sparse = sparsify(dense, density, "uniform")
    rows = st.summary(sparse).rows
    facts = [(r.name, r.kind, r.edges, r.value_bytes, r.index_bytes, r.note, r.shared) for r in rows if r.sparse]
    assert [
        (r.name, r.kind, r.edges, r.value_bytes, r.index_bytes, r.note, r.shared) for r in would_be.rows if r.sparse
    ] == facts
    assert type(sparse["b"]) is (TransposedSparseLinear if transposed else SparseLinear)
    assert sparse["b"].values is sparse["a"].values
    assert sparse["b"].bias is bias
    assert sparse["a"].topology.nnz == 12
    kept = weight * sparse["a"].topology.to_mask()
    x = torch.randn(3, 4 if transposed else 6)
    torch.testing.assert_close(sparse["b"](x), x @ (kept if transposed else kept.t()) + bias)
    sparse["b"](x).sum().backward()
    torch.optim.SGD(sparse.parameters(), 0.1).step()
    assert sparse["a"].values.equal(sparse["b"].values)
    if transposed:
        with pytest.raises(ValueError, match=r"a\.values and b\.values are one tensor"):
            densify(sparse)
    else:
        with pytest.raises(ValueError, match=r"a\.values and b\.values are one tensor"):
            densify(sparse, skip="b")
        back = densify(sparse)
        assert back["a"].weight is back["b"].weight
        assert back["b"].bias is bias


def test_three_layers_of_one_weight_of_which_one_stays() -> None:
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in "abc"})
    model["b"].weight = model["c"].weight = model["a"].weight
    sparse = sparsify(model, 0.5)
    assert sparse["a"].values is sparse["b"].values is sparse["c"].values
    with pytest.raises(ValueError, match=r"a\.values and b\.values and c\.values are one tensor"):
        densify(sparse, skip="c")
    back = densify(sparse)
    assert back["a"].weight is back["b"].weight is back["c"].weight


def test_ties_that_only_one_rule_reaches_are_of_the_first_that_fits_either() -> None:
    sparse = sparsify(autoencoder(False), {"b": None, "*": 0.5})
    assert [type(sparse[name]) for name in "abc"] == [nn.Linear, nn.Linear, SparseLinear]
    assert sparse["a"].weight is sparse["b"].weight


def test_a_number_leaves_what_is_tied_to_a_table() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 9)})
    model["head"].weight = model["table"].weight
    notes = {row.name: row.note for row in sparsify(model, 0.5, dry_run=True).rows}
    assert (notes["head"], notes["body"]) == ("tied to table.weight", "")
    assert sparsify(model, 0.5, "uniform")["body"].topology.nnz == 8  # the head takes no part
    assert model["head"].weight is model["table"].weight
    three = autoencoder(False)
    three["table"] = nn.Embedding(4, 6)
    three["table"].weight = three["a"].weight
    sparsify(three, 0.5)
    assert [type(three[name]) for name in "abc"] == [nn.Linear, nn.Linear, SparseLinear]
    with pytest.raises(ValueError, match=r"a\.weight and b\.weight and table\.weight are one tensor"):
        sparsify(three, {"a": 0.5})
