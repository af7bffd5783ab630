"""Whole models made sparse and dense again: which edges stay, and that a model that worked still works."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import sparsetrain as st
from sparsetrain.convert import densify, sparsify
from sparsetrain.nn import EdgeModule, MaskedLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))


# ---- which edges -------------------------------------------------------------------------------------------------------


def test_the_largest_weights_stay_with_their_values() -> None:
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.1, -9.0, 3.0], [-4.0, 0.0, 0.2]]))
    layer = sparsify(linear, 0.5)  # a model that is one layer
    assert isinstance(layer, SparseLinear)
    assert layer.topology.to_mask().int().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert layer.values.tolist() == [-9.0, 3.0, -4.0]
    assert layer.bias is linear.bias


def test_of_equal_weights_the_first_stay() -> None:
    linear = nn.Linear(40, 30)
    nn.init.constant_(linear.weight, -1.0)
    layer = sparsify(linear, 0.3)
    assert layer.topology.to_mask().flatten().nonzero().flatten().tolist() == list(range(360))


@pytest.mark.parametrize("select", ["magnitude", "random"])
@pytest.mark.parametrize("method", ["uniform", "er", "erk"])
@pytest.mark.parametrize("density", [1e-9, 0.07, 0.5, 1])
def test_density_is_shared_out_by_the_method(select: Any, method: Any, density: float) -> None:
    model = sparsify(mlp(), density, method, select=select)
    expected = st.patterns.allocate([(30, 20), (10, 30)], density, method)
    assert [model[0].topology.nnz, model[2].topology.nnz] == [round(expected[0] * 600), round(expected[1] * 300)]


@pytest.mark.parametrize("select", ["magnitude", "random"])
def test_kept_edges_keep_their_weights(select: Any) -> None:
    dense = mlp()
    sparse = sparsify(copy.deepcopy(dense), 0.2, select=select)
    for i in (0, 2):
        mask = sparse[i].topology.to_mask()
        assert sparse[i].to_dense().weight.equal(dense[i].weight * mask)
        assert sparse[i].bias.equal(dense[i].bias)


def test_random_edges_obey_generator_and_seed() -> None:
    def digests(**how: Any) -> list[str]:
        model = sparsify(mlp(), 0.1, select="random", **how)
        return [model[i].topology.digest for i in (0, 2)]

    assert digests(generator=torch.Generator().manual_seed(1)) == digests(generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    first = digests()
    torch.manual_seed(5)
    assert digests() == first != digests()


def test_skipped_layers_take_no_part() -> None:
    model = nn.ModuleDict({"body": mlp(), "head": nn.Linear(10, 5)})
    sparsify(model, 0.1, "uniform", skip=["body.0", "head"])
    kinds = [type(m) for m in (model["body"][0], model["body"][2], model["head"])]
    assert kinds == [nn.Linear, SparseLinear, nn.Linear]
    sparsify(model, 0.1, skip="body")  # everything in it
    assert [type(m) for m in (model["body"][0], model["head"])] == [nn.Linear, SparseLinear]


@pytest.mark.parametrize("skip", ["*.0", "re:body.0|none", re.compile(r"body\.0"), ["head", "body.[01]"], nn.Bilinear])
def test_skip_takes_what_rules_take(skip: Any) -> None:
    model = nn.ModuleDict({"body": mlp(), "head": nn.Linear(10, 5), "more": nn.Bilinear(2, 3, 4)})
    sparsify(model, 0.1, "uniform", skip=skip)
    assert isinstance(model["body"][0], SparseLinear) == (skip is nn.Bilinear)
    assert isinstance(model["head"], SparseLinear) == (not isinstance(skip, list))
    back = densify(model, skip=SparseLinear)
    assert isinstance(back["body"][2], SparseLinear)


def test_masks_of_zeros_make_a_layer_without_edges() -> None:
    model = sparsify(mlp(), masks={"0": torch.zeros(30, 20)})
    assert model[0].topology.nnz == 0


def test_by_masks() -> None:
    model = mlp()
    mask, t = torch.rand(30, 20) < 0.3, st.patterns.uniform((10, 30), 0.2)
    both = sparsify(copy.deepcopy(model), masks={"0": mask, "2": t})
    assert both[0].to_dense().weight.equal(model[0].weight * mask)
    assert both[2].topology is t
    one = sparsify(copy.deepcopy(model), masks={"2": t.to_mask().int().tolist()})
    assert isinstance(one[0], nn.Linear)
    assert one[2].topology.digest == t.digest


def test_by_masks_of_torch_prune() -> None:
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.8)
    prune.random_structured(model[0], "weight", 0.1, dim=0)  # a container of two methods
    prune.random_unstructured(model[0], "bias", 0.5)
    calls = []
    model[0].register_forward_pre_hook(lambda *_: calls.append("hook"))
    x = torch.randn(4, 20)
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()  # weight_orig has moved on, weight has not
    weight = (model[0].weight_orig * model[0].weight_mask).detach()
    bias = (model[0].bias_orig * model[0].bias_mask).detach()
    expected = copy.deepcopy(nn.Sequential(*list(model)[1:]))(x @ weight.t() + bias)
    mask, calls[:] = model[0].weight_mask != 0, []
    layer = sparsify(model)[0]
    assert isinstance(layer, SparseLinear)
    assert layer.topology.to_mask().equal(mask)
    assert layer.to_dense().weight.equal(weight)
    assert layer.bias.equal(bias)
    torch.testing.assert_close(model(x), expected)
    assert calls == ["hook"]
    assert len(layer._forward_pre_hooks) == 1
    assert isinstance(model[2], nn.Linear)
    assert set(dict(layer.named_parameters())) == {"values", "bias"}
    assert not prune.is_pruned(model)


def loaded(linear: nn.Linear) -> nn.Module:
    other = prune.identity(nn.Linear(10, 10), "weight")
    other.load_state_dict(linear.state_dict())  # its weight is computed at the next forward pass
    return other


def stepped(linear: nn.Linear) -> nn.Module:
    linear(torch.ones(1, 10)).sum().backward()
    torch.optim.SGD(linear.parameters(), lr=0.1).step()
    return linear


def copied(linear: nn.Linear) -> nn.Module:
    with torch.no_grad():
        linear(torch.ones(1, 10))  # torch copies no weight that has a graph
    return copy.deepcopy(linear)


def pruned_again(linear: nn.Linear) -> nn.Module:
    return prune.random_unstructured(linear, "weight", 0.5)


@pytest.mark.parametrize(
    "state",
    [loaded, stepped, pruned_again, copied, nn.Module.eval, nn.Module.double, nn.Module.half],
    ids=lambda state: state.__name__,
)
def test_masks_of_torch_prune_in_any_state(state: Any) -> None:
    linear = state(prune.l1_unstructured(nn.Linear(10, 10), "weight", 0.7))
    mask, weight = linear.weight_mask != 0, (linear.weight_orig * linear.weight_mask).detach()
    layer = sparsify(linear)
    assert layer.topology.to_mask().equal(mask)
    assert layer.to_dense().weight.equal(weight.to(layer.values.dtype))


def test_pruned_layers_by_density() -> None:
    linear = nn.Linear(10, 10)
    prune.l1_unstructured(linear, "weight", 0.9)
    weight = linear.weight.detach().clone()
    assert sparsify(linear, 0.1).to_dense().weight.equal(weight)


# ---- everything else survives ------------------------------------------------------------------------------------------


def test_flags_dtype_mode_and_bias_survive() -> None:
    model = mlp().double()
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    model[2].eval()
    model[2].label = "head"
    bias = model[0].bias
    sparsify(model, 0.3)
    assert [model[i].values.requires_grad for i in (0, 2)] == [False, True]
    assert model[0].bias is bias
    assert not model[2].bias.requires_grad
    assert model[0].values.dtype is model[2].values.dtype is torch.float64
    assert [module.training for module in model] == [True, True, False]
    assert model[2].label == "head"
    assert sparsify(nn.Linear(4, 3, bias=False), 0.5).bias is None


def test_attributes_survive_unless_they_make_the_layer() -> None:
    model = mlp()
    model[0].mask, model[0].form = "mine", "round"
    sparsify(model, 0.3)
    assert (model[0].mask, model[0].form) == ("mine", "round")
    densify(model)
    assert (model[0].mask, model[0].form) == ("mine", "round")
    masked = densify(nn.Sequential(MaskedLinear(3, 2, density=0.5)))[0]
    assert not hasattr(masked, "mask")
    assert not hasattr(masked, "form")


def test_hooks_survive_with_their_handles() -> None:
    model, calls = mlp(), []
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append("forward")),
        model[0].register_forward_pre_hook(lambda *_, **__: calls.append("before"), with_kwargs=True),
        model[0].register_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    sparsify(model, 0.3)
    model(torch.randn(4, 20, requires_grad=True)).sum().backward()
    assert calls == ["before", "forward", "backward"]
    densify(model)
    for handle in handles:
        handle.remove()
    model(torch.randn(4, 20)).sum().backward()
    assert len(calls) == 3


def test_a_layer_used_twice_is_still_one() -> None:
    linear = nn.Linear(6, 6)
    model = nn.ModuleDict({"a": nn.Sequential(linear, nn.ReLU(), linear), "b": linear})
    sparsify(model, 0.5)
    assert isinstance(model["b"], SparseLinear)
    assert model["a"][0] is model["a"][2] is model["b"]
    assert len(list(model.parameters())) == 2
    by_other_name = nn.ModuleDict({"a": nn.Sequential(linear, linear)})
    sparsify(by_other_name, masks={"a.1": torch.eye(6)})
    assert by_other_name["a"][0] is by_other_name["a"][1]
    assert by_other_name["a"][0].topology.nnz == 6


def test_a_shared_bias_stays_shared() -> None:
    model = mlp()
    model[0].bias = nn.Linear(30, 30).bias
    other = nn.Linear(4, 30)
    other.bias = model[0].bias
    whole = sparsify(nn.ModuleList([model, other]), 0.5)
    assert whole[0][0].bias is whole[1].bias


class Residual(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.fc = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.norm(x))


def test_custom_and_nested_modules() -> None:
    model = nn.Sequential(Residual(8), nn.Sequential(Residual(8), nn.Linear(8, 3)))
    x = torch.randn(5, 8)
    expected = model(x)
    sparsify(model, 1.0)
    assert sum(isinstance(module, SparseLinear) for module in model.modules()) == 3
    torch.testing.assert_close(model(x), expected)
    assert all(name.endswith(("values", "bias", "weight")) for name, _ in model.named_parameters())


class Recurrent(nn.Module):
    """An LSTM, which has no sparse form, and a convolution, attention and a head, which have one."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(8, 8, 1)
        self.lstm = nn.LSTM(8, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        return self.head(self.attention(x, x, x)[0])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_recurrence_stays_dense(mode: str) -> None:
    model = getattr(Recurrent(), mode)()
    x = torch.randn(2, 5, 8)
    expected = model(x)
    sparsify(model, 1.0)
    sparse = [name for name, module in model.named_modules() if isinstance(module, EdgeModule)]
    assert sparse == ["convolution", *(f"attention.{part}_proj" for part in ("q", "k", "v", "out")), "head"]
    torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def encoder(layers: int, **how: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, **how)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=not how.get("norm_first")) if layers else layer


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("how", [{}, {"activation": "gelu"}, {"norm_first": True}, {"activation": nn.ReLU()}], ids=str)
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_transformer_encoders(layers: int, how: dict[str, Any], mode: str, grad: bool, padded: bool) -> None:
    model = getattr(encoder(layers, **how), mode)()
    x = torch.randn(3, 5, 8)
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]).bool() if padded else None
    masks = {
        name: torch.rand(module.weight.shape) < 0.5
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    }
    twin = copy.deepcopy(model).train()  # without dropout, training mode computes the same, the plain way
    for name, mask in masks.items():
        twin.get_submodule(name).weight.data *= mask
    sparsify(model, masks=masks)
    with torch.set_grad_enabled(grad):
        y, expected = model(x, src_key_padding_mask=padding), twin(x, src_key_padding_mask=padding)
    kept = slice(None) if padding is None else ~padding
    torch.testing.assert_close(y[kept], expected[kept])
    assert isinstance(model.get_submodule("layers.0.linear1" if layers else "linear1"), SparseLinear)


@pytest.mark.parametrize("converted", ["layers.0.linear1", "layers.1.linear2"])
def test_an_encoder_of_which_one_layer_is_sparse(converted: str) -> None:
    model = encoder(2)
    x, padding = torch.randn(2, 4, 8), torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    expected = model(x, src_key_padding_mask=padding)
    sparsify(model.eval(), masks={converted: torch.ones(model.get_submodule(converted).weight.shape)})
    with torch.no_grad():
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], expected[~padding])
        densify(model)
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[~padding], expected[~padding])


def test_a_whole_transformer_trains_and_infers() -> None:
    model = sparsify(nn.Transformer(8, 2, 2, 2, 16, batch_first=True), 0.3)
    source, target = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    model(source, target).sum().backward()
    layers = [module for module in model.modules() if isinstance(module, SparseLinear)]
    assert len(layers) == 2 * (4 + 2) + 2 * (8 + 2)
    assert all(layer.values.grad is not None for layer in layers)
    with torch.no_grad():
        assert model.eval()(source, target).shape == (2, 4, 8)
    again = copy.deepcopy(model)
    with torch.no_grad():
        assert again(source, target).equal(model(source, target))


def test_a_sparse_model_trains() -> None:
    model = sparsify(mlp(), 0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    x, target = torch.randn(16, 20), torch.randint(10, (16,))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# ---- and back ----------------------------------------------------------------------------------------------------------


def test_densify_is_the_reverse() -> None:
    model = nn.Sequential(
        SparseLinear(6, 5, density=0.4), nn.Sequential(MaskedLinear(5, 4, False, density=0.5)), nn.Linear(4, 2)
    )
    model[0].values.requires_grad_(False)
    model[1].eval()
    x = torch.randn(3, 6)
    expected, bias, last = model(x), model[0].bias, model[2]
    assert densify(model) is model
    assert [type(module) for module in model] == [nn.Linear, nn.Sequential, nn.Linear]
    assert type(model[1][0]) is nn.Linear
    torch.testing.assert_close(model(x), expected)
    assert model[0].bias is bias
    assert model[1][0].bias is None
    assert model[2] is last
    assert (model[0].weight.requires_grad, model[1][0].training) == (False, False)
    assert set(vars(model[0])) == set(vars(nn.Linear(6, 5)))
    assert type(densify(SparseLinear(3, 2, density=0.5))) is nn.Linear


def test_round_trip() -> None:
    model = mlp()
    weights = [model[i].weight.detach().clone() for i in (0, 2)]
    densify(sparsify(model, 1.0))
    assert [model[i].weight.equal(weight) for i, weight in zip((0, 2), weights, strict=True)] == [True, True]
