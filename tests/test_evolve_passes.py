"""Which backward passes a rule that grows by gradient looks at: those that make up the gradient of a step."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsetrain import constrain, evolve
from sparsetrain.nn import MaskedLinear, SparseDeltaLinear, SparseLinear

Loop = Callable[[Any, Tensor], None]


def summed(layer: Any, x: Tensor) -> None:
    layer.zero_grad()
    for k in range(3):
        (layer(k * x) - k).square().mean().backward()


def adversarial(layer: Any, x: Tensor) -> None:
    layer.zero_grad()
    attacked = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(10 * layer(attacked).sum(), attacked)
    (layer(x + 0.1 * slope.sign()) - 1).square().mean().backward()


def penalized(layer: Any, x: Tensor) -> None:
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = torch.tanh(layer(x))
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (y.mean() + (slope.norm(dim=1) - 1).square().mean()).backward()


def discarded(layer: Any, x: Tensor) -> None:
    """As a generator's step goes through a discriminator."""
    (100 * layer(x.flip(0))).sum().backward()
    layer.zero_grad()
    summed(layer, x)


def zeroed(layer: Any, x: Tensor) -> None:
    (100 * layer(x.flip(0))).sum().backward()
    layer.zero_grad(set_to_none=False)
    (layer(x) - 1).square().mean().backward()


def handed_out(layer: Any, x: Tensor) -> None:
    parameters = [p for p in layer.parameters() if p.requires_grad]
    gradients = torch.autograd.grad((layer(x) - 1).square().mean(), parameters)
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient


def looked_at(layer: Any, x: Tensor) -> None:
    """The norm of a gradient is logged before."""
    layer.zero_grad()
    loss = (layer(x) - 1).square().mean()
    parameters = [p for p in layer.parameters() if p.requires_grad]
    torch.autograd.grad(100 * layer(x.flip(0)).sum(), parameters)
    loss.backward()


def of_a_copy(layer: Any, x: Tensor) -> None:
    layer.zero_grad()
    (100 * copy.deepcopy(layer)(x.flip(0))).sum().backward()
    (layer(x) - 1).square().mean().backward()


LOOPS = [summed, adversarial, penalized, discarded, zeroed, handed_out, looked_at, of_a_copy]


def made(kind: str) -> Any:
    layer = SparseLinear(12, 9, density=0.4, dtype=torch.float64, sparse_grad=kind == "sparse_grad")
    if kind == "masked":
        return MaskedLinear.from_sparse(layer)
    if kind == "delta":
        delta = SparseDeltaLinear(nn.Linear(12, 9, dtype=torch.float64), layer.topology)
        nn.init.normal_(delta.values)
        return delta
    if kind == "bounded":
        constrain.bounded(layer, -50.0, 50.0)
    return layer


@pytest.mark.parametrize("kind", ["sparse", "sparse_grad", "masked", "bounded", "delta"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_growth_follows_the_gradient_of_the_step(loop: Loop, kind: str) -> None:
    if kind == "masked" and loop is penalized:
        pytest.skip("of a masked layer the gradient of the output is seen, not what comes by the input's gradient")
    layer = made(kind)
    dense = copy.deepcopy(layer).merge() if kind == "delta" else layer.to_dense()
    evolver = evolve.Evolver(
        layer, torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.1), evolve.RigL(),
        evolve.Constant(interval=1, prune_fraction=0.3),
    )  # fmt: skip
    x = torch.randn(16, 12, dtype=torch.float64)
    dense.requires_grad_()
    loop(layer, x)
    loop(dense, x)
    before, values = layer.topology, evolve.numbers.values_of(layer, layer.topology).clone()
    assert evolver.step() is not None
    mask = torch.zeros(before.shape, dtype=torch.bool)
    kept = values.abs().argsort(stable=True)[int(0.3 * before.nnz) :]
    mask[before.row[kept].long(), before.col[kept].long()] = True
    scores = dense.weight.grad.abs().masked_fill(mask, -1).flatten()
    mask.view(-1)[scores.argsort(descending=True, stable=True)[: before.nnz - kept.numel()]] = True
    assert torch.equal(layer.topology.to_mask(), mask)


def test_a_copy_of_a_whole_training_goes_on_as_the_training_does() -> None:
    layer = made("sparse")
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    schedule = evolve.Constant(interval=2, prune_fraction=0.3)
    evolver = evolve.Evolver(layer, optimizer, evolve.RigL(batches=2), schedule)
    batches = torch.randn(7, 16, 12, dtype=torch.float64)
    trainings = [(layer, optimizer, evolver)]
    for k, x in enumerate(batches):
        if k == 3:  # in the middle of the steps that the rule looks at
            trainings.append(copy.deepcopy(trainings[0]))
        for each, of, changes in trainings:
            of.zero_grad()
            (each(x) - 1).square().mean().backward()
            of.step()
            changes.step()
    assert trainings[1][0].topology.digest == layer.topology.digest
    assert torch.equal(trainings[1][0].values, layer.values)


def test_a_model_that_is_cast_after_the_evolver_was_made() -> None:
    layer = SparseLinear(12, 9, density=0.4)
    evolver = evolve.Evolver(
        layer, torch.optim.SGD(layer.parameters(), lr=0.1), evolve.RigL(),
        evolve.Constant(interval=1, prune_fraction=0.3),
    )  # fmt: skip
    layer.double()
    layer(torch.randn(4, 12, dtype=torch.float64)).square().mean().backward()
    assert evolver.step() is not None
