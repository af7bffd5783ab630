"""Conversions that are refused, each with a reason and nothing changed, and what skip leaves out."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from sparsetrain.convert import densify, sparsify
from sparsetrain.nn import MaskedLinear, SparseLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))


def state_of(model: nn.Module) -> list[Any]:
    """What a refused conversion must leave alone: the modules, and every number."""
    return [*model.modules(), *((name, tensor.clone()) for name, tensor in model.state_dict().items())]


def same(one: list[Any], other: list[Any]) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return a is b or (isinstance(a, tuple) and a[0] == b[0] and a[1].equal(b[1]))

    return len(one) == len(other) and all(map(equal, one, other))


def with_layer(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), layer)


def tied_to_embedding() -> nn.Module:
    model = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 9)})
    model["head"].weight = model["embedding"].weight
    return model


def tied_linears(transposed: bool) -> nn.Module:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    weight = model["a"].weight
    model["b"].weight = nn.Parameter(weight.t()) if transposed else weight
    return model


def weight_normed() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return with_layer(nn.utils.weight_norm(nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (mlp, {"density": math.nan}, ValueError, "convert.sparsify: expected density from 0 to 1, got nan."),
        (mlp, {"density": -0.1}, ValueError, "from 0 to 1, got -0.1."),
        (mlp, {"density": 1.1}, ValueError, "from 0 to 1, got 1.1."),
        (
            mlp,
            {"density": 0},
            ValueError,
            "expected densities above 0, got 0 for '0', which would give its bias alone.",
        ),
        (
            mlp,
            {"density": {"2": 0.0, "0": 0.1}},
            ValueError,
            "above 0, got 0 for '2', which would give its bias alone.",
        ),
        (lambda: nn.Linear(3, 4), {"density": 0}, ValueError, "above 0, got 0 for 'the model'"),
        (mlp, {"density": 0.1, "skip": ["1", "2*", "*x*"]}, ValueError, "names of modules in skip, got '*x*'. There"),
        (
            mlp,
            {"density": 0.1, "skip": [7]},
            TypeError,
            "expected names in skip, globs, regular expressions or classes",
        ),
        (mlp, {"density": "much"}, TypeError, "to be a number from 0 to 1, got 'much'."),
        (mlp, {"density": 0.1, "method": "best"}, ValueError, "expected method to be one of"),
        (
            mlp,
            {"density": 0.1, "select": "best"},
            ValueError,
            "expected select to be 'magnitude' or 'random', got 'best'.",
        ),
        (
            mlp,
            {"density": 0.1, "generator": 7},
            TypeError,
            "expected generator to be a torch.Generator or None, got 7.",
        ),
        (mlp, {"density": 0.1, "masks": {}}, ValueError, "expected at most one of density and masks, got both."),
        (
            mlp,
            {"density": 0.1, "skip": ["0", "5"]},
            ValueError,
            "names of modules in skip, got '5'. There are '0', '1', '2'.",
        ),
        (
            mlp,
            {"density": 0.1, "skip": ["0", "2"]},
            ValueError,
            "expected a model with linear or convolutional layers to replace, found none",
        ),
        (nn.ReLU, {"density": 0.1}, ValueError, "found none in ReLU."),
        (mlp, {}, ValueError, "masks, given or of torch.nn.utils.prune, found none in Sequential."),
        (mlp, {"masks": {}}, ValueError, "found none in Sequential."),
        (
            mlp,
            {"masks": [torch.ones(30, 20)]},
            TypeError,
            "expected masks to be a dict from layer names to masks, got list.",
        ),
        (mlp, {"masks": {"9": torch.ones(30, 20)}}, ValueError, "layers in masks, got '9'. There are '0', '2'."),
        (
            mlp,
            {"masks": {"1": torch.ones(30, 20)}},
            ValueError,
            "layers in masks, got '1', a ReLU. There are '0', '2'.",
        ),
        (
            mlp,
            {"masks": {"0": torch.ones(30, 20), "2": torch.ones(30, 10)}},
            ValueError,
            "expected the mask of '2' in shape (out, in) = (10, 30), got (30, 10).",
        ),
        (
            mlp,
            {"masks": {"0": torch.full((30, 20), 0.5)}},
            ValueError,
            "mask of '0': Topology.from_mask: expected only 0 and 1",
        ),
        (mlp, {"masks": {"0": "mask"}}, TypeError, "convert.sparsify: mask of '0': Topology.from_mask: expected mask"),
        (mlp, {"masks": {"0": torch.ones(30, 20)}, "skip": "0"}, ValueError, "got '0' in masks and in skip."),
        (tied_to_embedding, {"density": {"*": 0.1}}, ValueError, "embedding.weight and head.weight are one tensor"),
        (tied_to_embedding, {"density": {"*": 0.1}, "skip": "body"}, ValueError, "as it is with skip=['head']"),
        (
            tied_to_embedding,
            {"density": 0.1, "skip": "body"},
            ValueError,
            "convolutional layers to replace, found none",
        ),
        (lambda: tied_linears(False), {"density": {"*": 0.1}, "skip": "a"}, ValueError, "skip=['b']"),
        (
            lambda: tied_linears(True),
            {"masks": {"a": torch.eye(4)}},
            ValueError,
            "a.weight and b.weight are one tensor",
        ),
        (lambda: with_layer(nn.LazyLinear(3)), {"density": 0.1}, ValueError, "expected weights, '1' has none yet."),
        (lambda: with_layer(nn.Linear(4, 3, device="meta")), {"density": 0.1}, ValueError, "'1' has none yet."),
        (
            lambda: with_layer(parametrizations.orthogonal(nn.Linear(4, 4))),
            {"density": 0.1},
            ValueError,
            "expected layers of weight and bias alone, '1' has parametrizations. Leave it dense with skip=['1'].",
        ),
        (weight_normed, {"density": 0.1}, ValueError, "'1' has weight_g, weight_v."),
        (
            lambda: with_layer(nn.Linear(4, 3, dtype=torch.cfloat)),
            {"density": 0.1},
            TypeError,
            "'1' has torch.complex64.",
        ),
    ],
)
def test_refused(model: Callable[[], nn.Module], options: dict[str, Any], error: type[Exception], message: str) -> None:
    made = model()
    meta_or_lazy = any(p.is_meta or nn.parameter.is_lazy(p) for p in made.parameters())
    before = list(made.modules()) if meta_or_lazy else state_of(made)
    with pytest.raises(error, match=re.escape(message)):
        sparsify(made, **options)
    assert same(list(made.modules()) if meta_or_lazy else state_of(made), before)


def test_what_is_refused_can_be_skipped() -> None:
    model = sparsify(tied_to_embedding(), 0.1, skip="head")
    assert isinstance(model["body"], SparseLinear)
    assert model["head"].weight is model["embedding"].weight
    assert isinstance(sparsify(with_layer(nn.LazyLinear(3)), 0.1, skip="1")[1], nn.LazyLinear)
    normed = sparsify(with_layer(parametrizations.orthogonal(nn.Linear(4, 4))), 0.1, skip="1")
    assert normed(torch.ones(4)).isfinite().all()


def test_densify_skips_and_refuses_ties() -> None:
    layer = SparseLinear(6, 4, density=0.5)
    model = nn.ModuleDict({"encoder": layer, "decoder": layer.transposed(), "other": SparseLinear(4, 4, density=0.5)})
    before = state_of(model)
    with pytest.raises(ValueError, match=r"encoder\.values and decoder\.values are one tensor"):
        densify(model)
    assert same(state_of(model), before)
    densify(model, skip="encoder")
    assert model["encoder"] is layer
    assert type(model["other"]) is nn.Linear


def pruned(layer: nn.Module, part: str) -> nn.Module:
    prune.random_unstructured(layer, part, 0.5)
    return layer


def squashed(layer: nn.Module, part: str) -> nn.Module:
    parametrize.register_parametrization(layer, part, nn.Tanh())
    return layer


@pytest.mark.parametrize("kind", [SparseLinear, MaskedLinear])
@pytest.mark.parametrize(
    ("change", "added", "undo", "call"),
    [
        (pruned, "{0}_mask, {0}_orig", prune.remove, "torch.nn.utils.prune.remove"),
        (
            squashed,
            "parametrizations",
            parametrize.remove_parametrizations,
            "torch.nn.utils.parametrize.remove_parametrizations",
        ),
    ],
)
@pytest.mark.parametrize("part", ["weights", "bias"])
def test_densify_refuses_what_is_pruned_or_parametrized(
    kind: Any, change: Any, added: str, undo: Any, call: str, part: str
) -> None:
    part = part if part == "bias" else {SparseLinear: "values", MaskedLinear: "weight"}[kind]
    model = nn.Sequential(SparseLinear(6, 4, density=0.5), change(kind(4, 3, density=0.5), part))
    x, before = torch.randn(5, 6), state_of(model)
    expected = model(x)
    message = (
        f"convert.densify: expected layers as they were made, '1' has {added.format(part)}. "
        f"Call {call}(layer, {part!r}) first, or leave the layer as it is with skip=['1']."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        densify(model)
    assert same(state_of(model), before)
    changed = model[1]
    densify(model, skip="1")
    assert type(model[0]) is nn.Linear
    assert model[1] is changed
    torch.testing.assert_close(model(x), expected)
    undo(model[1], part)  # as advised
    densify(model)
    assert type(model[1]) is nn.Linear
    torch.testing.assert_close(model(x), expected)


def test_densify_refuses_to_lose_a_buffer() -> None:
    layer = SparseLinear(6, 4, density=0.5)
    layer.register_buffer("scale", torch.ones(4))
    model = nn.Sequential(layer)
    with pytest.raises(ValueError, match=r"'0' has scale\. Remove that first, or leave the layer as it is with skip"):
        densify(model)
    assert model[0] is layer


@pytest.mark.parametrize(
    ("convert", "layer", "name", "kind"),
    [
        (lambda model: sparsify(model, 0.5), lambda: nn.Linear(4, 4), "values", "SparseLinear"),
        (lambda model: sparsify(model, 0.5), lambda: nn.Linear(4, 4), "topology", "SparseLinear"),
        (densify, lambda: SparseLinear(4, 4, density=0.5), "weight", "Linear"),
    ],
)
def test_attributes_whose_name_the_new_layer_needs(convert: Any, layer: Any, name: str, kind: str) -> None:
    model = with_layer(layer())
    setattr(model[1], name, "mine")
    before = state_of(model)
    message = f"expected no attribute {name} on '1', which {kind} needs for itself. Rename it, or leave the layer"
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(model)
    assert same(state_of(model), before)
