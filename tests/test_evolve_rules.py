"""Rules and schedules by themselves: what they choose, beside plain counts over dense matrices."""

import copy
import math
import re
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from sparsetrain import evolve, io
from sparsetrain.evolve.shares import shared_out
from sparsetrain.nn import SparseLinear
from sparsetrain.structure.edit import Edit

# ---- schedules -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 30), st.integers(0, 60), st.integers(1, 120))
def test_next_due_is_the_first_step_that_is_due(interval: int, start: int, length: int, step: int) -> None:
    schedule = evolve.Cosine(interval=interval, start=start, stop=start + length, prune_fraction=0.3)
    later = [t for t in range(step, 200) if schedule.due(t)]
    assert schedule.next_due(step) == (later[0] if later else None)
    assert schedule.due(start)
    assert schedule.due(start + length)


@pytest.mark.parametrize(
    ("kind", "remaining"),
    [
        (evolve.Cosine, (1, (1 + math.sqrt(0.5)) / 2, 0.5, 0)),
        (evolve.Linear, (1, 0.75, 0.5, 0)),
        (evolve.Cubic, (1, 0.421875, 0.125, 0)),
    ],
)
def test_shapes_of_schedules(kind: Any, remaining: tuple[float, ...]) -> None:
    schedule = kind(start=100, stop=500, prune_fraction=0.4, final_density=0.2)
    for step, rho in zip((100, 200, 300, 500), remaining, strict=True):
        assert schedule.fraction(step) == pytest.approx(0.4 * rho, abs=1e-15)
        assert schedule.density(0.9, 0.2, step) == pytest.approx(0.2 + 0.7 * rho, abs=1e-15)
    assert schedule.density(0.9, 0.2, 1) == pytest.approx(0.9, abs=1e-15)
    assert schedule.density(0.9, 0.2, 10_000) == 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_fraction": 0.3}, "expected stop"),
        ({"stop": 10}, "neither"),
        ({"stop": 10, "prune_fraction": 1.5}, "prune_fraction from 0 to 1"),
        ({"stop": 10, "final_density": -0.1}, "density from 0 to 1"),
        ({"stop": 10, "prune_fraction": 0.3, "interval": 0}, "interval >= 1"),
        ({"stop": 10, "prune_fraction": 0.3, "start": -1}, "start >= 0"),
        ({"stop": 3, "start": 5, "prune_fraction": 0.3}, "stop >= start = 5"),
        ({"stop": 10, "prune_fraction": math.nan}, "prune_fraction"),
    ],
)
def test_schedules_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        evolve.Cosine(**options)


def test_schedules_of_other_types() -> None:
    with pytest.raises(TypeError, match="interval to be an integer"):
        evolve.Constant(interval=1.5, prune_fraction=0.3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="never reached"):
        evolve.Constant(stop=100, final_density=0.3)


# ---- shares ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 200),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 60)), min_size=1, max_size=6),
)
def test_shares_add_up_and_fit(count: int, layers: list[tuple[float, int]]) -> None:
    weights, room = [weight for weight, _ in layers], [room for _, room in layers]
    parts = shared_out(count, weights, room)
    assert sum(parts) == min(count, sum(room))
    assert all(0 <= part <= most for part, most in zip(parts, room, strict=True))


# ---- rules -----------------------------------------------------------------------------------------------------------


def two_layers() -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    return nn.Sequential(
        SparseLinear(15, 24, density=0.3, generator=generator, dtype=torch.float64),
        nn.Tanh(),
        SparseLinear(24, 10, density=0.4, generator=generator, dtype=torch.float64),
    )


def test_sparse_momentum_beside_a_dense_momentum() -> None:
    """Three steps before the update; the fourth lies further back and counts for nothing."""
    model, beta = two_layers(), 0.8
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    evolver = evolve.Evolver(
        model, optimizer, evolve.SNFS(beta, batches=3), evolve.Constant(interval=4, start=4, prune_fraction=0.4)
    )
    layers: list[Any] = [model[0], model[2]]
    momentum = [torch.zeros(layer.topology.shape, dtype=torch.float64) for layer in layers]
    change = None
    for step in range(1, 5):
        x, y = torch.randn(8, 15).double(), torch.randn(8, 10).double()
        dense = [layer.to_dense() for layer in layers]
        nn.functional.mse_loss(dense[1](torch.tanh(dense[0](x))), y).backward()
        if step > 1:
            for k in range(2):
                momentum[k] = beta * momentum[k] + (1 - beta) * dense[k].weight.grad
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        before = [(layer.topology, layer.values.detach().clone()) for layer in layers]
        change = evolver.step()
    assert change is not None
    kept, means = [], []
    for (t, values), m in zip(before, momentum, strict=True):
        stay = t.nnz - math.floor(0.4 * t.nnz)
        keep = torch.zeros(t.nnz, dtype=torch.bool).index_fill_(0, values.abs().argsort(descending=True)[:stay], True)
        kept.append(keep)
        means.append(float(m[t.row.long(), t.col.long()][keep].abs().mean()))
    went = [int((~keep).sum()) for keep in kept]
    shares = shared_out(sum(went), means, [10**6, 10**6])
    for layer, (t, _), keep, m, share in zip(layers, before, kept, momentum, shares, strict=True):
        mask = torch.zeros(t.shape, dtype=torch.bool)
        mask[t.row[keep].long(), t.col[keep].long()] = True
        scores = m.abs().masked_fill(mask, -1).flatten()
        mask.view(-1)[scores.argsort(descending=True, stable=True)[:share]] = True
        assert torch.equal(layer.topology.to_mask(), mask)
    assert shares != went  # edges moved from one layer to the other


@pytest.mark.parametrize("floor", [0, 2, 4])
def test_global_magnitude_beside_one_sort_over_all(floor: int) -> None:
    model = two_layers()
    layers: list[Any] = [model[0], model[2]]
    with torch.no_grad():
        layers[1].values *= 3  # so that layers keep different parts
        layers[0].values[:4] = 0.01  # equal ones
    dense = [layer.to_dense().weight.detach().abs() for layer in layers]
    masks = [layer.topology.to_mask() for layer in layers]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = evolve.Linear(interval=1, start=1, stop=1, final_density=0.24)
    total = sum(round(0.24 * mask.numel()) for mask in masks)
    evolver = evolve.Evolver(model, optimizer, evolve.GlobalMagnitude(floor), schedule)
    evolver.step()
    protected = []
    for weight, mask in zip(dense, masks, strict=True):
        ranked = weight.masked_fill(~mask, -1).argsort(dim=1, descending=True, stable=True)[:, :floor]
        protected.append(torch.zeros_like(mask).scatter_(1, ranked, True) & mask)
    scores = torch.cat([
        weight.masked_fill(p, torch.inf)[mask] for weight, p, mask in zip(dense, protected, masks, strict=True)
    ])  # fmt: skip
    assert sum(layer.topology.nnz for layer in layers) == total
    threshold = scores.sort(descending=True).values[total - 1]
    for layer, weight, mask, p in zip(layers, dense, masks, protected, strict=True):
        new = layer.topology.to_mask()
        assert bool(new[p].all())
        assert bool(new[mask & (weight > threshold)].all())
        assert not bool(new[mask & ~p & (weight < threshold)].any())
        assert bool((new.sum(1) >= mask.sum(1).clamp(max=floor)).all())


@pytest.mark.parametrize("rule", [evolve.GMP(), evolve.GlobalMagnitude()])
def test_rules_that_only_prune_replace_nothing(rule: evolve.Rule) -> None:
    layer = SparseLinear(30, 20, density=1.0)
    schedule = evolve.Cubic(stop=9, final_density=0.5, prune_fraction=0.3)
    with pytest.raises(ValueError, match="expected a schedule without prune_fraction"):
        evolve.Evolver(layer, torch.optim.SGD(layer.parameters()), rule, schedule)


def test_a_floor_that_does_not_fit() -> None:
    model = two_layers()
    with pytest.raises(ValueError, match="leaves each neuron its 4 edges"):
        evolve.Evolver(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            evolve.GlobalMagnitude(),
            evolve.Linear(stop=10, final_density=0.05),
        )


@given(
    st.integers(0, 5), st.sampled_from(["outputs", "inputs"]), st.floats(0.3, 1), st.floats(0.05, 1), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_gradual_magnitude_keeps_edges_of_each_neuron(
    floor: int, neurons: Any, first: float, last: float, seed: int
) -> None:
    """Beside a sort of each row or column of the dense matrix, and one of what is left."""
    generator = torch.Generator().manual_seed(seed)
    layer: Any = SparseLinear(13, 19, density=first, generator=generator, dtype=torch.float64)
    mask, weight = layer.topology.to_mask(), layer.to_dense().weight.detach().abs()
    dim = 1 if neurons == "outputs" else 0
    ranked = weight.masked_fill(~mask, -1).argsort(dim=dim, descending=True).narrow(dim, 0, floor)
    protected = torch.zeros_like(mask).scatter_(dim, ranked, True) & mask
    total = round(min(first, last) * mask.numel())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    schedule = evolve.Linear(interval=1, start=1, stop=1, final_density=min(first, last))
    rule = evolve.GMP(floor, neurons)
    if total < protected.sum():
        with pytest.raises(ValueError, match="keeps"):
            evolve.Evolver(layer, optimizer, rule, schedule)
        return
    assume(total >= 19)  # fewer edges than outputs: tests/test_evolve_floor.py
    evolve.Evolver(layer, optimizer, rule, schedule).step()
    scores = weight.masked_fill(~mask, -1).masked_fill(protected, torch.inf).flatten()
    expected = torch.zeros(mask.numel(), dtype=torch.bool)
    expected[scores.argsort(descending=True)[: min(total, layer.topology.nnz)]] = True
    assert torch.equal(layer.topology.to_mask(), expected.view_as(mask))


def test_two_evolvers_for_neurons_on_two_sides() -> None:
    """Hidden neurons keep edges that enter them, and edges that leave them, under one optimizer."""
    model = nn.Sequential(SparseLinear(30, 40, density=1.0), nn.Tanh(), SparseLinear(40, 20, density=1.0))
    with torch.no_grad():
        model[0].values[model[0].topology.row < 20] *= 1e-3  # type: ignore[index, operator, union-attr]
        model[2].values[model[2].topology.col < 20] *= 1e-3  # type: ignore[index, operator, union-attr]
    optimizer = torch.optim.Adam(model.parameters())
    schedule = evolve.Linear(interval=2, stop=6, final_density=0.2)
    evolvers = [
        evolve.Evolver(model, optimizer, evolve.GMP(3), schedule, layers="0"),
        evolve.Evolver(model, optimizer, evolve.GMP(3, "inputs"), schedule, layers="2"),
    ]
    for _ in range(8):
        optimizer.zero_grad()
        model(torch.randn(6, 30)).square().mean().backward()
        optimizer.step()
        for evolver in evolvers:
            evolver.step()
    first, last = (model[k].topology for k in (0, 2))  # type: ignore[union-attr]
    assert (first.nnz, last.nnz) == (240, 160)  # type: ignore[union-attr]
    assert int(first.fan_in.min()) == int(last.fan_out.min()) == 3  # type: ignore[union-attr, operator]
    assert optimizer.state[model[2].values]["exp_avg"].shape == (160,)  # type: ignore[index]


@pytest.mark.parametrize("neurons", ["outputs", "inputs"])
def test_a_floor_of_gradual_magnitude_that_does_not_fit(neurons: Any) -> None:
    model = two_layers()
    schedule = evolve.Linear(stop=10, final_density=0.15)
    edges = int(model[0].topology.fan_in.clamp(max=4).sum() if neurons == "outputs" else 60)  # type: ignore[union-attr]
    message = f"leaves layer '0' the {edges} edges that GMP(floor=4, neurons='{neurons}') keeps, got final_density=0.15"
    with pytest.raises(ValueError, match=re.escape(message)):
        evolve.Evolver(model, torch.optim.SGD(model.parameters(), lr=0.1), evolve.GMP(4, neurons), schedule)


def test_neurons_that_are_neither() -> None:
    with pytest.raises(ValueError, match="expected neurons to be 'outputs' or 'inputs', got 'rows'"):
        evolve.GMP(4, "rows")  # type: ignore[arg-type]


class Oldest(evolve.Rule):
    """A rule of a user: old edges go, new ones come at the places of the diagonal first."""

    def keep(self, layer: evolve.Layer, count: int) -> torch.Tensor:
        return layer.largest(-layer.age.double(), count)

    def start(self, layer: evolve.Layer, edit: Edit) -> torch.Tensor:
        return torch.full((edit.grown.numel(),), 0.5)


def test_a_rule_of_ones_own() -> None:
    layer = SparseLinear(30, 20, density=0.2)
    evolver = evolve.Evolver(
        layer, torch.optim.SGD(layer.parameters(), lr=0.0), Oldest(), evolve.Constant(interval=1, prune_fraction=0.5)
    )
    first = evolver.step()
    second = evolver.step()
    third = evolver.step()
    assert first is not None
    assert second is not None
    assert third is not None
    assert [int(change.layers[""].age.max()) for change in (first, second, third)] == [1, 1, 1]
    assert int((layer.values == 0.5).sum()) == 120  # all were born, in two updates


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (lambda layer, count: layer.largest(layer.values * torch.nan, count), ValueError, "got NaN in layer ''"),
        (lambda layer, count: layer.largest(layer.values[:3], count), ValueError, "each of 120 edges of '', got (3,)"),
        (lambda layer, count: layer.values.abs().topk(count).indices, TypeError, "expected booleans of shape (120,)"),
        (lambda layer, count: None, TypeError, "Kept.keep: expected booleans"),
    ],
)
def test_rules_that_are_wrong(keep: Any, error: type[Exception], message: str) -> None:
    class Kept(evolve.Rule):
        def keep(self, layer: evolve.Layer, count: int) -> torch.Tensor:
            return keep(layer, count)  # type: ignore[no-any-return]

    layer = SparseLinear(30, 20, density=0.2)
    before = layer.topology
    evolver = evolve.Evolver(
        layer, torch.optim.SGD(layer.parameters(), lr=0.1), Kept(), evolve.Constant(interval=1, prune_fraction=0.5)
    )
    with pytest.raises(error, match=re.escape(message)):
        evolver.step()
    assert layer.topology is before


def test_gradual_growth_and_pruning_together() -> None:
    """A schedule with a density and a fraction: edges are replaced while they become fewer."""
    layer = SparseLinear(40, 30, density=0.8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    evolver = evolve.Evolver(
        layer,
        optimizer,
        evolve.SET(),
        evolve.Linear(interval=1, start=1, stop=5, prune_fraction=0.2, final_density=0.4),
    )
    edges, grown = [], []
    for _ in range(5):
        change = evolver.step()
        assert change is not None
        edges.append(change.edges)
        grown.append(change.grown)
    assert edges == [960, 840, 720, 600, 480]
    assert grown == [192, 126, 72, 30, 0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_top_kast_beside_a_dense_weight_of_which_a_part_is_read(optimizer: str) -> None:
    """The twin keeps all values and masks them in the forward pass, with a gradient that passes straight through."""
    make: Any = {"sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "adam": lambda p: torch.optim.Adam(p)}[
        optimizer
    ]
    layer = SparseLinear(12, 10, density=0.5, dtype=torch.float64)
    t, theta = layer.topology, layer.values.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    ours, theirs = make(layer.parameters()), make([theta, bias])
    rule = evolve.TopKAST(forward=0.4)
    evolver = evolve.Evolver(layer, ours, rule, evolve.Constant(interval=5, start=5, prune_fraction=0.2))
    for step in range(1, 16):
        x, y = torch.randn(6, 12).double(), torch.randn(6, 10).double()
        if step % 5 == 1:  # A is chosen when edges have changed, and at first
            active = theta.detach().abs() >= theta.detach().abs().sort().values[theta.numel() - 24]
        effective = theta + (theta.detach() * active - theta.detach())
        weight = torch.zeros(10, 12, dtype=torch.float64).index_put((t.row.long(), t.col.long()), effective)
        losses = ((layer(x) - y).square().mean(), (nn.functional.linear(x, weight, bias) - y).square().mean())
        torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
        for loss, each in zip(losses, (ours, theirs), strict=True):
            each.zero_grad()
            loss.backward()
            each.step()
        change = evolver.step()
        if change is None:
            continue
        edit = change.layers[""].edit
        stays = edit.source >= 0
        kept = theta.detach().abs().argsort(descending=True)[:48].sort().values
        assert torch.equal(edit.source[stays].long(), kept)
        whole = rule._whole("", layer.values.detach())
        moved = whole.clone()
        moved[stays] = theta.detach()[kept]
        torch.testing.assert_close(whole, moved, rtol=0, atol=1e-12)
        with torch.no_grad():
            theta.copy_(moved)
        for name, state in theirs.state[theta].items():
            if name != "step":
                state.copy_(torch.where(stays, state[edit.source.clamp(min=0).long()], 0.0))
        t = layer.topology
        assert int((layer.values != 0).sum()) == 24


def test_top_kast_goes_on_from_a_checkpoint() -> None:
    def new(seed: int) -> tuple[SparseLinear, Any, evolve.Evolver]:
        layer = SparseLinear(12, 10, density=0.5, generator=torch.Generator().manual_seed(seed))
        optimizer = torch.optim.Adam(layer.parameters())
        schedule = evolve.Constant(interval=3, start=1, prune_fraction=0.2)
        return layer, optimizer, evolve.Evolver(layer, optimizer, evolve.TopKAST(decay=0.1), schedule)

    def train(layer: Any, optimizer: Any, evolver: evolve.Evolver, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            layer(torch.randn(4, 12, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            optimizer.step()
            evolver.step()

    one, other = new(0), new(1)
    train(*one, range(8))
    io.adopt(other[0], one[0].state_dict())
    other[1].load_state_dict(copy.deepcopy(one[1].state_dict()))  # torch would share the count of steps
    other[2].load_state_dict(one[2].state_dict())
    train(*one, range(8, 16))
    train(*other, range(8, 16))
    assert torch.equal(one[0].values, other[0].values)
    assert one[0].topology.digest == other[0].topology.digest
