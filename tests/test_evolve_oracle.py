"""SET, RigL and GMP beside masked dense twins in float64: the same masks after 20 updates, the same losses."""

import math
from itertools import pairwise
from typing import Any

import masked_twins as twins
import pytest
import torch
from torch import nn

from sparsetrain import evolve
from sparsetrain.nn import SparseLinear

UPDATES = 20
INTERVAL = 2


def networks(density: float) -> tuple[nn.Sequential, list[twins.MaskedLayer]]:
    generator = torch.Generator().manual_seed(3)
    sizes = (12, 20, 9)
    layers = [SparseLinear(i, o, density=density, generator=generator, dtype=torch.float64) for i, o in pairwise(sizes)]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1]), [twins.MaskedLayer.of(layer) for layer in layers]


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["set", "rigl", "rigl of two batches", "gmp"])
def test_the_masked_twin_ends_with_the_same_mask(name: str, optimizer: str) -> None:
    last = 1 + (UPDATES - 1) * INTERVAL
    gmp = name == "gmp"
    model, masked = networks(1.0 if gmp else 0.3)
    rule = {"set": evolve.SET(start="zero"), "rigl": evolve.RigL(), "gmp": evolve.GMP()}.get(
        name, evolve.RigL(batches=2)
    )
    schedule: Any = (
        evolve.Cubic(interval=INTERVAL, start=1, stop=last, final_density=0.1)
        if gmp
        else evolve.Cosine(interval=INTERVAL, start=1, stop=2 * last, prune_fraction=0.3)
    )
    ours = OPTIMIZERS[optimizer](model.parameters())
    theirs = OPTIMIZERS[optimizer]([p for layer in masked for p in (layer.weight, layer.bias)])
    evolver = evolve.Evolver(model, ours, rule, schedule)
    data = torch.Generator().manual_seed(5)
    updates = 0
    while updates < UPDATES:
        x, y = torch.randn(16, 12, generator=data).double(), torch.randn(16, 9, generator=data).double()
        loss = (model(x) - y).square().mean()
        twin_loss = (masked[1](torch.tanh(masked[0](x))) - y).square().mean()
        torch.testing.assert_close(loss, twin_loss, rtol=0, atol=1e-10)
        for each, optimizer_of in ((loss, ours), (twin_loss, theirs)):
            optimizer_of.zero_grad()
            each.backward()
            optimizer_of.step()
        before = [layer.topology for layer in (model[0], model[2])]
        change = evolver.step()
        if change is None:
            if name != "rigl of two batches":
                for layer in masked:
                    layer.gradient = torch.empty(0)
            continue
        updates += 1
        for layer, twin, edges in zip((model[0], model[2]), masked, before, strict=True):
            follow(name, schedule, change.step, layer, twin, edges, theirs)
            assert torch.equal(layer.topology.to_mask(), twin.mask)
            torch.testing.assert_close(layer.to_dense().weight, twin.weight * twin.mask, rtol=0, atol=1e-12)
    assert gmp or not torch.equal(before[0].to_mask(), networks(0.3)[1][0].mask)  # it moved at all


def follow(
    name: str, schedule: Any, step: int, layer: Any, twin: twins.MaskedLayer, before: Any, optimizer: Any
) -> None:
    """The same update of the twin; random positions are taken over, everything else is found anew."""
    if name == "gmp":
        left = round(schedule.density(1.0, 0.1, step) * twin.mask.numel())
        kept = twins.prune(twin, max(left, twin.mask.shape[0]))
        twins.change(twin, optimizer, kept, kept)
        return
    edges = int(twin.mask.sum())
    stay = edges - math.floor(schedule.fraction(step) * edges)
    if name == "set":
        kept = twins.prune_by_sign(twin, stay)
        new = layer.topology.to_mask()
        assert bool((new | ~kept).all())  # what stays by the twin stayed
        assert int(new.sum()) == edges
        twins.change(twin, optimizer, kept, new)
    else:
        kept = twins.prune(twin, stay)
        twins.change(twin, optimizer, twin.mask, kept | twins.grow_by_gradient(twin, kept, edges - stay))


def test_set_starts_newborn_edges_as_a_new_layer_does() -> None:
    layer = SparseLinear(200, 100, density=0.1, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    evolver = evolve.Evolver(layer, optimizer, evolve.SET(), evolve.Constant(interval=1, prune_fraction=0.5))
    change = evolver.step()
    assert change is not None
    born = layer.values.detach()[change.layers[""].edit.grown]
    bound = 1 / math.sqrt(20)
    assert born.numel() == 1000
    assert 0.98 * bound < float(born.abs().max()) <= bound
    assert abs(float(born.mean())) < 4 * bound / math.sqrt(3 * born.numel())


def test_set_prunes_each_sign_in_proportion() -> None:
    layer = SparseLinear(40, 50, density=0.5)
    with torch.no_grad():
        layer.values.copy_(torch.linspace(-1, 3, layer.topology.nnz)[torch.randperm(layer.topology.nnz)])
    before = layer.values.detach().clone()
    rule = evolve.SET(start="zero")
    evolver = evolve.Evolver(
        layer, torch.optim.SGD(layer.parameters(), lr=0.1), rule, evolve.Constant(interval=1, prune_fraction=0.2)
    )
    change = evolver.step()
    assert change is not None
    stayed = before[change.layers[""].edit.source[change.layers[""].edit.source >= 0].long()]
    for sign in (-1, 1):
        of_sign = before[before.sign() == sign].abs()
        kept = stayed[stayed.sign() == sign].abs()
        assert kept.numel() == round(0.8 * of_sign.numel())
        assert torch.equal(kept.sort().values, of_sign.sort().values[-kept.numel() :])
