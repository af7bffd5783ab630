"""Edges that change in layers whose values are masked, constrained, pending or frozen, or were changed elsewhere."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import MaskedLinear, SparseLinear

EVERY = evolve.Constant(interval=1, prune_fraction=0.3)


def layer(**options: Any) -> SparseLinear:
    return SparseLinear(12, 9, bias=False, density=0.4, dtype=torch.float64, **options)


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=1.0)


# ---- warm-up ---------------------------------------------------------------------------------------------------------


def bounded() -> Any:
    module = layer()
    st.constrain.bounded(module, -5.0, 5.0)
    return module


@pytest.mark.parametrize("make", [layer, lambda: MaskedLinear.from_sparse(layer()), bounded])
def test_newborn_edges_warm_up_whatever_an_optimizer_has(make: Callable[[], Any]) -> None:
    module = make()
    (p,) = module.parameters()
    schedule = evolve.Constant(interval=100, start=1, prune_fraction=0.3)
    evolver = evolve.Evolver(module, sgd(module), evolve.SET(start="zero"), schedule, warm_up=4)
    change = evolver.step()
    assert change is not None
    edit = change.layers[""].edit
    newborn = torch.zeros_like(p, dtype=torch.bool)
    t = edit.topology
    place = (t.row[edit.grown].long(), t.col[edit.grown].long()) if p.ndim == 2 else edit.grown
    newborn[place] = True
    for part in (0.25, 0.5, 0.75, 1.0, 1.0):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        evolver.optimizer.step()
        evolver.step()
        moved = before - p.detach()
        torch.testing.assert_close(moved[newborn], torch.full_like(moved[newborn], part))
        torch.testing.assert_close(moved[~newborn], torch.ones_like(moved[~newborn]))


# ---- pending updates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [evolve.SET(start="zero"), evolve.RigL(), evolve.TopKAST], ids=lambda rule: str(rule))
def test_pending_updates_of_unused_edges_count(rule: Any) -> None:
    """A rule that chooses by values sees them as a dense optimizer would have them."""
    digests = []
    for flush in (True, False):
        torch.manual_seed(1)
        module = SparseLinear(400, 5, bias=False, density=0.5, sparse_grad=True)
        optimizer = st.optim.SGD(module.parameters(), lr=0.5, momentum=0.9, unused="dense")
        evolver = evolve.Evolver(
            module, optimizer, rule() if isinstance(rule, type) else rule,
            evolve.Constant(interval=6, prune_fraction=0.3), warm_up=4,
        )  # fmt: skip
        for _ in range(13):
            x = torch.zeros(4, 400).scatter_(1, torch.randint(400, (4, 1)), 1.0)
            optimizer.zero_grad()
            (module(x) - 1).square().sum().backward()
            optimizer.step()
            if flush:
                optimizer.flush()
            evolver.step()
        optimizer.flush()
        digests.append((module.topology.digest, module.values.detach().clone()))
    assert digests[0][0] == digests[1][0]
    torch.testing.assert_close(digests[0][1], digests[1][1])


# ---- frozen layers ---------------------------------------------------------------------------------------------------


def test_layers_that_do_not_train_keep_their_edges() -> None:
    model = nn.Sequential(layer(), SparseLinear(9, 4, density=0.5, dtype=torch.float64))
    optimizer = sgd(model)
    evolver = evolve.Evolver(model, optimizer, evolve.SET(), EVERY)
    model[0].values.requires_grad_(False)  # type: ignore[union-attr, operator]
    edges = [module.topology for module in model]
    with pytest.raises(ValueError, match=re.escape("values that train in layer '0', they are frozen")):
        evolver.step()
    with pytest.raises(ValueError, match=re.escape("values that train in layer '0', they are frozen")):
        evolve.Evolver(model, optimizer, evolve.SET(), EVERY)
    assert all(module.topology is t for module, t in zip(model, edges, strict=True))
    change = evolve.Evolver(model, optimizer, evolve.SET(), EVERY, layers="1").step()
    assert change is not None
    assert list(change.layers) == ["1"]


# ---- edges that something else has changed ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [evolve.SET, evolve.RigL, evolve.TopKAST])
@pytest.mark.parametrize("masked", [False, True])
def test_edges_that_something_else_has_changed(rule: type[evolve.Rule], masked: bool) -> None:
    module: Any = MaskedLinear.from_sparse(layer()) if masked else layer()
    optimizer = sgd(module)
    evolver = evolve.Evolver(module, optimizer, rule(), EVERY)
    other = ~module.topology.to_mask()
    row, col = other.nonzero()[:3].t()
    edit = st.Edit(module.topology, range(3, module.topology.nnz), (row, col))  # as many as before
    st.optim.carry(optimizer, {module: edit})
    module(torch.randn(4, 12, dtype=torch.float64)).sum().backward()
    before = module.topology.digest, evolver.histories[""].born.clone()
    with pytest.raises(ValueError, match="expected the edges that layer '' had after the last step"):
        evolver.step()
    assert module.topology.digest == before[0]
    assert torch.equal(evolver.histories[""].born, before[1])


# ---- Top-KAST --------------------------------------------------------------------------------------------------------


def test_top_kast_has_layers_without_constraints_and_one_training() -> None:
    module = bounded()
    with pytest.raises(ValueError, match="expected values without constraints in layer ''"):
        evolve.Evolver(module, sgd(module), evolve.TopKAST(), EVERY)
    rule = evolve.TopKAST()
    for error in (None, "expected a rule that no other Evolver has"):
        module = layer()
        if error is None:
            evolve.Evolver(module, sgd(module), rule, EVERY)
            continue
        before = module.values.detach().clone()
        with pytest.raises(ValueError, match=error):
            evolve.Evolver(module, sgd(module), rule, EVERY)
        assert torch.equal(module.values, before)


def test_top_kast_does_not_write_into_a_state_that_it_has_loaded() -> None:
    module = layer()
    optimizer = sgd(module)
    evolver = evolve.Evolver(module, optimizer, evolve.TopKAST(), evolve.Constant(interval=9, prune_fraction=0.3))
    state = evolver.state_dict()
    aside: Tensor = state["kept"]["aside"][""][1]
    before = aside.clone()
    evolver.load_state_dict(state)
    module.values.grad = torch.ones_like(module.values)
    optimizer.step()
    evolver.step()
    assert torch.equal(aside, before)


def test_top_kast_over_no_edges() -> None:
    module = SparseLinear(3, 2, density=0.0)
    change = evolve.Evolver(module, sgd(module), evolve.TopKAST(), EVERY).step()
    assert change is not None
    assert change.edges == 0


# ---- constraints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        evolve.Rule(), evolve.SET(start="zero"), evolve.RigL(), evolve.SNFS(batches=1), evolve.CHT(), evolve.GMP(),
        evolve.GlobalMagnitude(floor=1),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("count", [3, 20, 40])
def test_frozen_edges_stay_however_many_they_are(rule: evolve.Rule, count: int) -> None:
    module: Any = layer()
    smallest = module.values.detach().abs().argsort()[:count]
    held = module.values.detach()[smallest].sort().values
    st.constrain.frozen(module, smallest)
    falls = evolve.Linear(interval=1, stop=3, final_density=0.15)
    schedule = falls if rule.only_prunes else evolve.Constant(interval=1, prune_fraction=0.5)
    evolver = evolve.Evolver(module, sgd(module), rule, schedule)
    for _ in range(3):
        module(torch.randn(4, 12, dtype=torch.float64)).square().mean().backward()
        assert evolver.step() is not None
    constraints = module.parametrizations["values"][0]
    assert torch.equal(module.values.detach()[constraints.frozen].sort().values, held)
    if not rule.only_prunes:
        assert module.topology.nnz == 43


@pytest.mark.parametrize("count", [0, 3, 20])
def test_set_replaces_as_many_edges_beside_frozen_ones(count: int) -> None:
    module: Any = layer()
    if count:
        st.constrain.frozen(module, module.values.detach().abs().argsort()[:count])
    rule = evolve.SET()
    evolver = evolve.Evolver(module, sgd(module), rule, EVERY)
    assert int(rule.keep(evolver._views()[0], 31).count_nonzero()) == 31


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (None, 0.0), (-0.01, 0.02), (-9.0, 9.0), (0.5, 0.6), (-2, -1)])
def test_newborn_edges_are_drawn_within_the_constraints_of_all(low: float | None, high: float | None) -> None:
    module: Any = layer()
    ends = -9.0 if low is None else low, 9.0 if high is None else high
    with torch.no_grad():
        module.values.uniform_(*ends)
    if low is None:
        st.constrain.negative(module)
    elif high is None:
        st.constrain.positive(module)
    else:
        st.constrain.bounded(module, low, high)
    evolver = evolve.Evolver(module, sgd(module), evolve.SET(), EVERY)
    for _ in range(3):
        change = evolver.step()
        assert change is not None
        edit = change.layers[""].edit
        values = module.values.detach()[edit.grown]
        assert bool(((values >= ends[0]) & (values <= ends[1])).all())
        assert values.unique().numel() > edit.grown.numel() / 2


TWO_SIGNS = (
    "layer '': expected constraints that say what holds for newborn edges, got signs that differ from edge to edge"
)


def test_constraints_that_say_nothing_of_newborn_edges_are_refused_before_a_training() -> None:
    module: Any = layer()
    with torch.no_grad():
        module.values.abs_()
        module.values[:3] *= -1
    st.constrain.negative(module, [0, 1, 2])
    st.constrain.positive(module, range(3, module.topology.nnz))
    for rule in (evolve.SET(), evolve.RigL()):
        with pytest.raises(ValueError, match=re.escape(TWO_SIGNS)):
            evolve.Evolver(module, sgd(module), rule, EVERY)
    evolve.Evolver(module, sgd(module), evolve.Static(), EVERY)
    falls = evolve.Linear(interval=1, stop=3, final_density=0.15)
    change = evolve.Evolver(module, sgd(module), evolve.GMP(), falls).step()
    assert change is not None
    assert change.edges < 43


def test_values_that_are_computed_from_others_are_refused_before_a_training() -> None:
    module: Any = layer()
    nn.utils.parametrizations.weight_norm(module, "values", dim=None)
    with pytest.raises(TypeError, match="expected values that are a Parameter or constrained by"):
        evolve.Evolver(module, sgd(module), evolve.SET(), EVERY)


def test_edges_that_are_born_on_a_bound_move() -> None:
    module: Any = layer()
    with torch.no_grad():
        module.values.uniform_(0.2, 0.8)
    st.constrain.bounded(module, 0.0, 1.0)
    evolver = evolve.Evolver(module, sgd(module), evolve.SET(start="zero"), EVERY)
    change = evolver.step()
    assert change is not None
    born = change.layers[""].edit.grown
    torch.testing.assert_close(module.values.detach()[born], torch.full((born.numel(),), 0.01, dtype=torch.float64))
    module.values.sum().neg().backward()
    evolver.optimizer.step()
    assert bool((module.values.detach()[born] > 0.011).all())


def test_a_masked_weight_under_muon() -> None:
    module = MaskedLinear(12, 9, bias=False, density=0.4)
    optimizer = torch.optim.Muon(module.parameters())
    evolver = evolve.Evolver(module, optimizer, evolve.SET(), EVERY)
    module(torch.randn(4, 12)).square().mean().backward()
    optimizer.step()
    change = evolver.step()
    assert change is not None
    momentum = optimizer.state[module.weight]["momentum_buffer"]
    t = change.layers[""].edit.topology
    born = change.layers[""].edit.grown
    assert not momentum[t.row[born].long(), t.col[born].long()].any()
    assert momentum.count_nonzero() > 0
