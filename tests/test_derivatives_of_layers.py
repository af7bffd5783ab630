"""Every kind of layer under every transform and derivative of torch, against the dense product in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from derivative_rules import MAPPED, RULES, compare, with_dense_gradient
from torch import Tensor, nn
from torch.func import functional_call

import sparsetrain as st
from sparsetrain import constrain, penalty
from sparsetrain.nn import Hierarchy, MaskedLinear, SparseConv1d, SparseDeltaLinear, SparseLinear

INPUTS, OUTPUTS = 4, 3
DOUBLE = torch.float64
MASK = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]], dtype=torch.bool)
Twin = Callable[[Tensor, Tensor], Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's, at its first dual tensor


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def written_out(values: Tensor) -> Tensor:
    """The dense matrix."""
    row, col = MASK.nonzero().t()
    return torch.zeros(MASK.shape, dtype=values.dtype).index_put((row, col), values)


def sparse(**options: Any) -> SparseLinear:
    return SparseLinear(INPUTS, OUTPUTS, topology=st.Topology.from_mask(MASK), dtype=DOUBLE, **options)


def product(layer: Any, weight_of: Callable[[Tensor], Tensor] = written_out) -> Twin:
    bias = 0 if layer.bias is None else layer.bias.detach()
    return lambda p, x: x @ weight_of(p).t() + bias


def _full() -> Any:
    topology = st.Topology.from_mask(torch.ones(OUTPUTS, INPUTS))
    layer = SparseLinear(INPUTS, OUTPUTS, topology=topology, dtype=DOUBLE)
    return layer, "values", product(layer, lambda v: v.view(OUTPUTS, INPUTS))


def _sparse(**options: Any) -> Any:
    layer = sparse(**options)
    return layer, "values", product(layer)


def _transposed() -> Any:
    layer = sparse().transposed()
    return layer, "values", product(layer, lambda v: written_out(v).t())


def _masked(form: Any) -> Any:
    layer = MaskedLinear(INPUTS, OUTPUTS, topology=st.Topology.from_mask(MASK), dtype=DOUBLE, form=form)
    return layer, "weight", product(layer, lambda w: w * MASK if form == "forward" else w)


def _bias() -> Any:
    layer = sparse()
    weight = written_out(layer.values.detach())
    return layer, "bias", lambda b, x: x @ weight.t() + b


def _delta() -> Any:
    layer = SparseDeltaLinear(nn.Linear(INPUTS, OUTPUTS, dtype=DOUBLE), st.Topology.from_mask(MASK))
    nn.init.normal_(layer.values)
    frozen = layer.linear.weight.detach()
    return layer, "values", product(layer.linear, lambda v: frozen + written_out(v))


def _delta_beside_a_hook() -> Any:
    layer, name, twin = _delta()
    layer.linear.register_forward_hook(lambda *_: None)
    return layer, name, twin


ORIGINAL = "parametrizations.values.original"


def _signed() -> Any:
    layer = constrain.positive(sparse(), project=True)
    nn.init.normal_(layer.get_parameter(ORIGINAL))
    return layer, ORIGINAL, product(layer, lambda raw: written_out(raw.abs()))


def _bounded() -> Any:
    layer = constrain.bounded(sparse(), -1.0, 2.0, project=True)
    return layer, ORIGINAL, product(layer, lambda raw: written_out(3 * torch.sigmoid(4 * raw / 3) - 1))


def _frozen() -> Any:
    layer = constrain.frozen(sparse(), [0, 3])
    held, moves = layer.values.detach().clone(), torch.ones(int(MASK.sum()), dtype=torch.bool)
    moves[[0, 3]] = False
    return layer, ORIGINAL, product(layer, lambda raw: written_out(torch.where(moves, raw, held)))


def _shared() -> Any:
    types = torch.tensor([0, 1, 0, 2, 1, 1, 0])
    layer = constrain.shared(sparse(), types, project=True)
    return layer, ORIGINAL, product(layer, lambda raw: written_out(raw[types]))


def _hierarchy() -> Any:
    first = SparseLinear.from_edges([("a", "h"), ("b", "h"), ("c", "k"), ("d", "k"), ("a", "k")])
    second = SparseLinear.from_edges([("h", "out"), ("k", "out"), ("b", "out")])
    model = Hierarchy([first, second], inputs=list("abcd"), outputs=["out"]).double()
    layers = [level.to_dense() for level in (first, second)]
    places = ["abcd".index(name) for name in first.topology.inputs or ()]
    row, col = first.topology.row.long(), first.topology.col.long()

    def twin(values: Tensor, x: Tensor) -> Tensor:
        weight = torch.zeros(first.topology.shape, dtype=DOUBLE).index_put((row, col), values)
        hidden = torch.tanh(x[..., places] @ weight.t() + layers[0].bias.detach())
        named = dict(zip(first.topology.outputs or (), hidden.unbind(-1), strict=True)) | {"b": x[..., 1]}
        read = torch.stack([named[name] for name in second.topology.inputs or ()], -1)
        return read @ layers[1].weight.detach().t() + layers[1].bias.detach()

    return model, "levels.0.values", twin


def _convolution() -> Any:
    """Over two channels without a batch, which have the shape of a batch of four features."""
    layer = SparseConv1d(2, OUTPUTS, 2, padding="same", topology=st.Topology.from_mask(MASK), dtype=DOUBLE)
    bias: Any = layer.bias

    def twin(values: Tensor, x: Tensor) -> Tensor:
        weight = written_out(values).view(OUTPUTS, 2, 2)
        return nn.functional.conv1d(nn.functional.pad(x[None], (0, 1)), weight, bias.detach())[0]

    return layer, "values", twin


KINDS: dict[str, Callable[[], Any]] = {
    "sparse": _sparse,
    "without bias": lambda: _sparse(bias=False),
    "sparse_grad": lambda: _sparse(sparse_grad=True),
    "every edge": _full,
    "transposed": _transposed,
    "masked": lambda: _masked("forward"),
    "masked by steps": lambda: _masked("step"),
    "bias": _bias,
    "delta": _delta,
    "delta beside a hook": _delta_beside_a_hook,
    "signed": _signed,
    "bounded": _bounded,
    "frozen": _frozen,
    "shared": _shared,
    "hierarchy": _hierarchy,
    "convolution": _convolution,
}


@pytest.mark.parametrize("kind", KINDS)
def test_by_parameters_and_inputs(kind: str) -> None:
    layer, name, twin = KINDS[kind]()
    p = layer.get_parameter(name).detach().clone()
    x = torch.randn(2, OUTPUTS if kind == "transposed" else INPUTS, dtype=DOUBLE)
    x[:, 1] = 0  # a column that is not used
    many = torch.stack([x, 2 * x, x.cos() * (x != 0)])
    both, k = torch.cat([p.flatten(), x.flatten()]), p.numel()

    def call(p: Tensor, x: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, {name: p}, (x,))
        return y

    compare(RULES, call, twin, p, x)
    compare(MAPPED, call, twin, p, many)
    compare(RULES, lambda x, _: layer(x), lambda x, _: twin(p, x), x, None)
    compare(
        RULES,
        lambda both, _: call(with_dense_gradient(both[:k].view_as(p)), both[k:].view_as(x)),
        lambda both, _: twin(both[:k].view_as(p), both[k:].view_as(x)),
        both,
        None,
    )


@pytest.mark.parametrize("kind", ["sparse", "sparse_grad", "delta"])
def test_in_single_precision(kind: str) -> None:
    layer, name, twin = KINDS[kind]()
    x, p = torch.randn(2, INPUTS), layer.get_parameter(name).detach().float()
    layer.float()
    call = lambda p, x: functional_call(layer, {name: p}, (x,))  # noqa: E731
    compare(RULES, call, lambda p, x: twin(p, x.double()), p, x)


PENALTIES: dict[str, tuple[Callable[[Any], Tensor], Callable[[Tensor], Tensor]]] = {
    "l1": (penalty.l1, lambda w: w.abs().sum()),
    "l2": (penalty.l2, lambda w: 0.5 * (w * w).sum()),
    "l2 of some": (lambda layer: penalty.l2(layer, [0, 2, 5]), lambda w: 0.5 * (w[[0, 2, 5]] ** 2).sum()),
    "lp 2": (lambda layer: penalty.lp(layer, 2), lambda w: (w * w).sum().sqrt()),
    "lp 3": (lambda layer: penalty.lp(layer, 3), lambda w: (w.abs() ** 3).sum() ** (1 / 3)),
    "lp 1.5": (lambda layer: penalty.lp(layer, 1.5), lambda w: (w.abs() ** 1.5).sum() ** (1 / 1.5)),
    "lp inf": (lambda layer: penalty.lp(layer, torch.inf), lambda w: w.abs().amax()),
}


class Penalized(nn.Module):
    """A penalty as what a module computes, for functional_call."""

    def __init__(self, layer: nn.Module, norm: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, scale: Tensor) -> Tensor:
        return scale * self.norm(self.layer)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name: str) -> None:
    norm, twin = PENALTIES[name]
    model, scales = Penalized(sparse(), norm), torch.tensor([1.0, 0.5, 2.0], dtype=DOUBLE)
    call = lambda p, x: functional_call(model, {"layer.values": p}, (x,))  # noqa: E731
    p = torch.randn(int(MASK.sum()), dtype=DOUBLE)
    compare(RULES, call, lambda p, x: x * twin(p), p, scales[0])
    compare(MAPPED, call, lambda p, x: x * twin(p), p, scales)
