"""Whole models of which a few weights train: which weights, what stays, and what is refused."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tuned_models import fitted, mlp, trained

import sparsetrain as st
from sparsetrain.convert import merge_edges, train_edges
from sparsetrain.nn import SparseDeltaLinear
from sparsetrain.ops import largest_products as streamed


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# ---- which edges -------------------------------------------------------------------------------------------------------


def test_nothing_changes_until_it_is_trained() -> None:
    dense = mlp()
    x = torch.randn(4, 20)
    expected = dense(x)
    model = train_edges(copy.deepcopy(dense), density=0.1)
    assert torch.equal(model(x), expected)
    assert [type(layer) for layer in model] == [SparseDeltaLinear, nn.ReLU, SparseDeltaLinear]
    assert [model[0].topology.nnz, model[2].topology.nnz] == [60, 30]


def test_largest_magnitudes() -> None:
    model = mlp()
    largest = model[0].weight.abs() >= model[0].weight.abs().flatten().sort(descending=True).values[59]
    model = train_edges(model, density=0.1, select="magnitude")
    assert torch.equal(model[0].topology.to_mask(), largest)


@pytest.mark.parametrize("block", [1, 45, 2**22])
def test_largest_gradients_are_those_of_the_dense_gradient(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "BLOCK", block)
    dense = mlp(torch.float64)
    x, y = torch.randn(8, 20, dtype=torch.float64), torch.randn(8, 10, dtype=torch.float64)
    model = copy.deepcopy(dense)
    tuned = train_edges(model, 0.1, "erk", select="gradient", closure=lambda: fitted(model, x, y))
    fitted(dense, x, y).backward()
    for layer in (0, 2):
        gradient = dense[layer].weight.grad.abs()
        count = tuned[layer].topology.nnz
        assert torch.equal(tuned[layer].topology.to_mask(), gradient >= gradient.flatten().topk(count).values[-1])
    assert all(parameter.grad is None for parameter in tuned.parameters())


def test_the_gradient_sums_over_all_calls_of_a_layer() -> None:
    dense = nn.Linear(6, 6, dtype=torch.float64)
    x = torch.randn(5, 6, dtype=torch.float64)
    model = copy.deepcopy(dense)
    tuned = train_edges(model, 0.2, select="gradient", closure=lambda: model(model(x).tanh()).square().sum())
    dense(dense(x).tanh()).square().sum().backward()
    assert dense.weight.grad is not None
    gradient = dense.weight.grad.abs()
    assert torch.equal(tuned.topology.to_mask(), gradient >= gradient.flatten().topk(7).values[-1])


def test_gradients_of_halves_and_behind_an_embedding() -> None:
    model = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 4)).bfloat16()
    ids = torch.randint(9, (5, 3))
    tuned = train_edges(model, 0.25, select="gradient", closure=lambda: model(ids).float().square().mean())
    assert [tuned[1].topology.nnz, tuned[3].topology.nnz] == [48, 12]
    assert [p.dtype for p in tuned.parameters() if p.requires_grad] == [torch.float32] * 2


def test_a_layer_that_the_loss_does_not_use_is_named() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    with pytest.raises(ValueError, match=r"'1' was not called for it. Leave it as it is with skip=\['1'\]"):
        train_edges(model, 0.5, select="gradient", closure=lambda: model[0](torch.ones(2, 4)).sum())
    assert type(model[0]) is nn.Linear
    train_edges(model, 0.5, select="gradient", closure=lambda: model[0](torch.ones(2, 4)).sum(), skip="1")
    assert isinstance(model[0], SparseDeltaLinear)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="expected finite gradients, those of '0' have NaN"):
        train_edges(model, 0.1, select="gradient", closure=lambda: model(torch.ones(1, 20)).sum() * math.nan)


def test_inputs_given_by_name() -> None:
    linear = nn.Linear(4, 4)
    tuned = train_edges(linear, 0.5, select="gradient", closure=lambda: linear(input=torch.ones(2, 4)).sum())
    assert tuned.topology.nnz == 8


def test_masks_by_name() -> None:
    mask = torch.zeros(10, 30)
    mask[3, 7] = 1
    model = train_edges(mlp(), masks={"2": mask})
    assert type(model[0]) is nn.Linear
    assert model[2].topology.nnz == 1
    assert [p is model[2].values for p in model.parameters() if p.requires_grad] == [True]


# ---- what stays --------------------------------------------------------------------------------------------------------


def test_all_but_the_edges_and_what_is_skipped_is_frozen() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 2))
    train_edges(model, 0.25, skip="3")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["2.values", "3.weight", "3.bias"]


def test_a_weight_that_is_skipped_in_another_place_goes_on_training() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9, bias=False))
    model[1].weight = model[0].weight
    train_edges(model, 0.25, skip="0")
    assert model[0].weight.requires_grad
    model(torch.arange(3)).square().sum().backward()
    assert model[0].weight.grad is not None
    assert bool(model[0].weight.grad[3:].any())  # as it came through the linear layer too


def test_a_shared_layer_stays_one() -> None:
    linear = nn.Linear(4, 4)
    model = train_edges(nn.Sequential(linear, linear), 0.5)
    assert model[0] is model[1]


def test_hooks_are_called_once_and_can_be_removed() -> None:
    model = mlp()
    calls: list[str] = []
    handle = model[0].register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    train_edges(model, 0.1)
    model(torch.ones(1, 20))
    assert calls == ["SparseDeltaLinear"]
    merge_edges(model)
    model(torch.ones(1, 20))
    assert calls == ["SparseDeltaLinear", "Linear"]
    handle.remove()
    model(torch.ones(1, 20))
    assert len(calls) == 2


def test_merged_models_compute_the_same_with_plain_layers() -> None:
    model = trained(train_edges(mlp(torch.float64).float().double(), 0.1, select="magnitude").float())
    x = torch.randn(4, 20)
    expected = model(x)
    merged = merge_edges(model)
    assert merged is model
    assert [type(layer) for layer in merged] == [nn.Linear, nn.ReLU, nn.Linear]
    torch.testing.assert_close(merged(x), expected)


def test_a_model_that_is_one_layer() -> None:
    linear = nn.Linear(4, 3)
    tuned = train_edges(linear, 0.5)
    assert isinstance(tuned, SparseDeltaLinear)
    assert merge_edges(tuned) is linear


def test_attention_in_a_transformer_keeps_working() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    x = torch.randn(3, 5, 8)
    expected = model(x)
    train_edges(model, 0.1)
    with torch.no_grad():  # where torch would take its fused path
        torch.testing.assert_close(model(x), expected)
        for layer in model.layers:
            nn.init.ones_(layer.linear1.values)
        assert not torch.allclose(model(x), expected)


def test_sparsify_and_densify_leave_frozen_layers_alone() -> None:
    model = nn.Sequential(train_edges(nn.Linear(8, 8), 0.25), nn.Linear(8, 2))
    st.convert.densify(st.convert.sparsify(model, 0.5))
    assert isinstance(model[0], SparseDeltaLinear)
    assert type(model[0].linear) is nn.Linear


# ---- bad input -----------------------------------------------------------------------------------------------------------


def refused(message: str, model: nn.Module, **options: Any) -> None:
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    kinds = [type(module) for module in model.modules()]
    with pytest.raises((TypeError, ValueError), match=message):
        train_edges(model, **options)
    assert [type(module) for module in model.modules()] == kinds
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_what_is_refused_changes_nothing() -> None:
    x = torch.ones(1, 20)
    refused("exactly one of density and masks, got neither", mlp())
    refused("exactly one of density and masks, got both", mlp(), density=0.1, masks={})
    refused(r"expected a closure with select=", mlp(), density=0.1, select="gradient")
    refused(r"expected a closure with select=", mlp(), density=0.1, closure=lambda: x)
    refused("either masks or a way to select edges", mlp(), masks={"0": torch.ones(30, 20)}, select="magnitude")
    refused(r"expected a model with nn.Linear layers, found none in ReLU", nn.ReLU(), density=0.1)
    refused("expected density from 0 to 1, got 2", mlp(), density=2)
    refused("expected select to be 'magnitude' or 'random', got 'best'", mlp(), density=0.1, select="best")
    refused("expected names of nn.Linear layers in masks, got '1', a ReLU", mlp(), masks={"1": torch.ones(2, 2)})
    refused(r"expected the mask of '2' in shape", mlp(), masks={"2": torch.ones(2, 2)})
    refused("expected names of modules in skip, got 'head'", mlp(), density=0.1, skip="head")
    refused("the LazyLinear has none yet", nn.Sequential(nn.LazyLinear(4)), density=0.1)
    model = mlp()
    refused("return a loss, one number .* got 3.0", model, density=0.1, select="gradient", closure=lambda: 3.0)
    refused(r"got \(1, 10\)", model, density=0.1, select="gradient", closure=lambda: model(x))
    assert not model[0]._forward_hooks


def test_an_input_changed_in_place_is_noticed() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = x * 2
            h += self.linear(h)
            return h

    model = Residual()
    with pytest.raises(RuntimeError, match="was changed in place after the layer read it"):
        train_edges(model, 0.1, select="gradient", closure=lambda: model(torch.ones(2, 4)).sum())
    assert type(model.linear) is nn.Linear
    assert model.linear.weight.requires_grad


def test_merged_layers_train_again_where_they_did_before() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    tuned = copy.deepcopy(train_edges(model, 0.5))
    assert not any(p.requires_grad for p in tuned[0].linear.parameters())
    tuned[0].merge()  # within a training the weight stays frozen
    assert not tuned[0].linear.weight.requires_grad
    names = [name for name, p in merge_edges(tuned).named_parameters() if p.requires_grad]
    assert names == ["0.weight", "0.bias", "2.bias", "3.weight", "3.bias"]


def test_layers_that_share_a_bias_train_again_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].bias = model[0].bias
    assert all(p.requires_grad for p in merge_edges(train_edges(model, 0.5)).parameters())


def test_a_tied_weight_is_not_merged() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9, bias=False))
    model[1].weight = model[0].weight
    train_edges(model, 0.1, skip="0")
    before = model[0].weight.clone()
    nn.init.ones_(model[1].values)
    with pytest.raises(ValueError, match="are one tensor, which would change in both places"):
        merge_edges(model)
    assert torch.equal(model[0].weight, before)
    assert math.isclose(float(model[1].values.detach().sum()), 7.0)


@pytest.mark.parametrize("select", ["random", "magnitude", "gradient"])
def test_a_head_that_is_tied_is_refused_before_it_is_trained(select: str) -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False))
    model[2].weight = model[0].weight
    closure = (lambda: model(torch.arange(3)).square().mean()) if select == "gradient" else None
    message = r"^convert.train_edges: 0.weight and 2.weight are one tensor.* skip=\['2'\]"
    with pytest.raises(ValueError, match=message):
        train_edges(model, 0.1, select=select, closure=closure)
    assert all(p.requires_grad for p in model.parameters())
    assert type(model[1]) is nn.Linear
    masks = {"2": torch.ones(9, 8)}
    with pytest.raises(ValueError, match=message):
        train_edges(model, masks=masks)
    merge_edges(train_edges(model, 0.1, skip="2"))


def test_constraints_that_forbid_a_merge_leave_all_layers_as_they_are() -> None:
    model = train_edges(mlp(), 0.1)
    for k in (0, 2):
        nn.init.ones_(model[k].values)
    st.constrain.frozen(model[2], [0])
    before = model[0].linear.weight.clone()
    with pytest.raises(ValueError, match=r"merge_edges: '2' can't be merged. .* at which it is frozen"):
        merge_edges(model)
    assert torch.equal(model[0].linear.weight, before)
    assert model[0].values.eq(1).all()
