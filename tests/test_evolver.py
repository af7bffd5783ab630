"""The loop around the rules: what it works with, what it refuses, and what it says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import MaskedLinear, SparseDeltaLinear, SparseLinear

EVERY = evolve.Constant(interval=1, prune_fraction=0.3)


def network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return nn.Sequential(
        SparseLinear(12, 20, density=0.3, generator=generator, dtype=dtype),
        nn.Tanh(),
        SparseLinear(20, 9, density=0.4, generator=generator, dtype=dtype),
    )


def data(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 12, generator=generator).to(dtype), torch.randn(16, 9, generator=generator).to(dtype)


def train(model: Any, optimizer: Any, evolver: evolve.Evolver, steps: range) -> list[evolve.Change]:
    changes = []
    for step in steps:
        x, y = data(step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        if change := evolver.step():
            changes.append(change)
    return changes


def masks(model: nn.Sequential) -> list[Tensor]:
    return [layer.topology.to_mask() for layer in model if isinstance(layer, SparseLinear | MaskedLinear)]


def rigl(model: nn.Module, optimizer: Any, **options: Any) -> evolve.Evolver:
    schedule = evolve.Cosine(interval=2, start=1, stop=20, prune_fraction=0.3)
    return evolve.Evolver(model, optimizer, evolve.RigL(), schedule, **options)


# ---- what it works with ----------------------------------------------------------------------------------------------


def test_a_sum_over_micro_batches_grows_as_one_batch_does() -> None:
    whole, parts = network(dtype=torch.float64), network(dtype=torch.float64)
    for model, pieces in ((whole, 1), (parts, 4)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        evolver = rigl(model, optimizer)
        for step in range(6):
            x, y = data(step, torch.float64)
            optimizer.zero_grad()
            for x_part, y_part in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                ((model(x_part) - y_part).square().mean() / pieces).backward()
            optimizer.step()
            evolver.step()
    for one, other in zip(masks(whole), masks(parts), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rule", [evolve.RigL(), evolve.SET(start="zero")], ids=["rigl", "set"])
def test_compiled_models_change_as_others_do_without_compiling_anew(rule: evolve.Rule) -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    plain, inner = network(), network()
    compiled = torch.compile(inner, backend=counter)
    for model, each in ((plain, plain), (compiled, inner)):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        schedule = evolve.Cosine(interval=2, start=1, stop=20, prune_fraction=0.3)
        evolver = evolve.Evolver(model, optimizer, rule, schedule, generator=torch.Generator().manual_seed(1))
        assert len(train(model, optimizer, evolver, range(8))) == 4
    for one, other in zip(masks(plain), masks(inner), strict=True):
        assert torch.equal(one, other)
    assert counter.frame_count == 1


def test_a_compiled_model_that_is_pruned_compiles_twice_at_most() -> None:
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    model = network()
    compiled = torch.compile(model, backend=counter)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.GMP(), evolve.Linear(interval=1, stop=8, final_density=0.1))
    with torch._dynamo.config.patch(force_parameter_static_shapes=False):  # as the guide says
        train(compiled, optimizer, evolver, range(9))
    assert counter.frame_count == 2


def test_an_overflow_under_a_scaler_is_waited_for() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.RigL(), evolve.Constant(interval=5, start=1, prune_fraction=0.3))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    steps = []
    for step in range(11):
        x, y = data(step)
        optimizer.zero_grad()
        scaler.scale(64 * (model(x) - y).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        if change := evolver.step():
            steps.append(change.step)
    assert steps == [7, 11]  # six times the scale was too large at first


def test_gradients_that_stay_infinite_are_an_error() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    evolver = rigl(model, optimizer)
    before = masks(model)
    for step in range(11):
        (model(data(step)[0]) * torch.inf).sum().backward()
        if step == 10:
            with pytest.raises(ValueError, match="expected finite gradients, those of the last 10 steps"):
                evolver.step()
        else:
            assert evolver.step() is None
    assert all(map(torch.equal, before, masks(model)))


def test_an_average_of_weights_follows() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = AveragedModel(model)
    evolver = evolve.Evolver(model, optimizer, evolve.SET(), evolve.Constant(interval=2, start=1, prune_fraction=0.3))
    for step in range(6):
        for change in train(model, optimizer, evolver, range(step, step + 1)):
            change.follow(average.module)
        average.update_parameters(model)
    for one, other in zip(model[::2], average.module[::2], strict=True):
        assert one.topology.digest == other.topology.digest
    assert torch.isfinite(average(data(0)[0])).all()


def test_schedulers_and_clipping_go_on() -> None:
    model = network()
    optimizer = st.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    evolver = rigl(model, optimizer)
    for step in range(8):
        x, y = data(step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        evolver.step()
    assert scheduler.get_last_lr()[0] < 0.05


def test_half_precision_activations_grow_where_float32_does() -> None:
    plain, under_autocast = network(), network()
    for model, enabled in ((plain, False), (under_autocast, True)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        evolver = evolve.Evolver(model, optimizer, evolve.RigL(), EVERY)
        x, y = data(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (model(x) - y).square().mean().backward()
        evolver.step()
    for one, other in zip(masks(plain), masks(under_autocast), strict=True):
        assert (one & other).sum() >= 0.9 * one.sum()


def test_masked_layers_change_as_sparse_ones_do() -> None:
    sparse = network(dtype=torch.float64)
    for form in ("forward", "step"):
        model = network(dtype=torch.float64)
        masked = nn.Sequential(
            MaskedLinear.from_sparse(model[0], form=form),
            nn.Tanh(),
            MaskedLinear.from_sparse(model[2], form=form),  # type: ignore[arg-type]
        )
        sparse = network(dtype=torch.float64)
        for each in (sparse, masked):
            optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
            evolver = rigl(each, optimizer)
            for step in range(6):
                x, y = data(step, torch.float64)
                optimizer.zero_grad()
                (each(x) - y).square().mean().backward()
                optimizer.step()
                if form == "step" and each is masked:
                    masked[0].apply_mask()
                    masked[2].apply_mask()
                evolver.step()
        for one, other in zip(masks(sparse), masks(masked), strict=True):
            assert torch.equal(one, other)
        torch.testing.assert_close(sparse(data(9, torch.float64)[0]), masked(data(9, torch.float64)[0]))


def test_a_tied_decoder_counts_twice() -> None:
    """The gradient of an absent position is the sum of both uses."""
    encoder = SparseLinear(12, 8, density=0.3, dtype=torch.float64)
    decoder = encoder.transposed()
    model = nn.Sequential(encoder, nn.Tanh(), decoder)
    dense, bias = encoder.to_dense(), decoder.bias.detach()
    x = data(0, torch.float64)[0]
    (nn.functional.linear(torch.tanh(dense(x)), dense.weight.t(), bias) - x).square().mean().backward()
    evolver = evolve.Evolver(model, torch.optim.SGD(model.parameters(), lr=0.1), evolve.RigL(), EVERY)
    kept = encoder.values.detach().abs().argsort()[int(0.3 * encoder.topology.nnz) :]
    (model(x) - x).square().mean().backward()
    before = encoder.topology
    change = evolver.step()
    assert change is not None
    mask = torch.zeros(before.shape, dtype=torch.bool)
    mask[before.row[kept].long(), before.col[kept].long()] = True
    scores = dense.weight.grad.abs().masked_fill(mask, -1).flatten()
    mask.view(-1)[scores.argsort(descending=True, stable=True)[: before.nnz - kept.numel()]] = True
    assert torch.equal(encoder.topology.to_mask(), mask)
    assert decoder.topology is encoder.topology


def test_edges_beside_a_frozen_weight() -> None:
    layer = SparseDeltaLinear(nn.Linear(12, 9), st.patterns.uniform((9, 12), 0.2))
    optimizer = torch.optim.SGD([layer.values], lr=0.1)
    evolver = evolve.Evolver(layer, optimizer, evolve.RigL(), EVERY)
    for step in range(3):
        x, y = data(step)
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
        assert evolver.step() is not None
    assert layer.topology.nnz == round(0.2 * 108)


@pytest.mark.parametrize("rule", [evolve.Rule(), evolve.SET(start="zero")], ids=["plain", "set"])
def test_frozen_edges_stay_however_small_they_are(rule: evolve.Rule) -> None:
    layer = network()[0]
    smallest = layer.values.detach().abs().argsort()[:5]
    held = layer.values.detach()[smallest].sort().values
    st.constrain.frozen(layer, smallest)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    evolver = evolve.Evolver(layer, optimizer, rule, EVERY)
    for _ in range(4):
        assert evolver.step() is not None
    constraints: Any = layer.parametrizations["values"][0]  # type: ignore[index]
    assert layer.topology.nnz == 72
    assert torch.equal(layer.values.detach()[constraints.frozen].sort().values, held)


# ---- layers and rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "grown"),
    [
        (None, {"0": 21, "2": 21}),
        ("2", {"2": 21}),
        (["0", "2"], {"0": 21, "2": 21}),
        ({"0": 0.5, "*": 1.0}, {"0": 10, "2": 21}),
        ({"0": 0.0, "*": 1.0}, {"2": 21}),
        (re.compile("[0-1]"), {"0": 21}),
    ],
)
def test_names_patterns_and_rates(layers: Any, grown: dict[str, int]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, Returns(), EVERY, layers=layers)
    change = evolver.step()
    assert change is not None
    assert {name: layer.grown for name, layer in change.layers.items()} == grown


def test_names_are_those_of_the_model_itself() -> None:
    """Parts of a wrapper's name are left out, and parts of a model's own names that read alike are not."""
    own = nn.ModuleDict({"module": nn.ModuleDict({"x": network()[0]}), "x": network()[0]})
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    change = evolve.Evolver(own, optimizer, evolve.SET(), EVERY).step()
    assert change is not None
    assert list(change.layers) == ["module.x", "x"]
    model = network()
    followers = [AveragedModel(model), torch.compile(network(), backend="eager"), nn.DataParallel(network())]
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        change = evolve.Evolver(wrapped, optimizer, evolve.SET(), EVERY).step()
        assert change is not None
        assert list(change.layers) == ["0", "2"]
        for follower in followers:
            change.follow(follower)  # type: ignore[arg-type]
    for follower in followers:
        digests = [layer.topology.digest for layer in follower.modules() if isinstance(layer, SparseLinear)]
        assert digests == [layer.topology.digest for layer in model[::2]]


class Returns(evolve.Rule):
    """New edges never come where old ones went, so that counts are exact."""

    def grow(self, layer: evolve.Layer, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        return layer.random_vacant(torch.ones_like(kept), count)


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_numbers_of_a_change() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, Returns(), EVERY, layers="0")
    tried = model[0].topology.to_mask()
    for step in range(1, 5):
        change = evolver.step()
        assert change is not None
        tried |= model[0].topology.to_mask()
        layer = change.layers["0"]
        assert change.explored == pytest.approx(float(tried.float().mean()))
        assert (change.step, change.edges, change.pruned, change.grown) == (step, 72, 21, 21)
        assert change.churn == pytest.approx(21 / 72)
        assert layer.in_degree.tolist() == model[0].topology.to_mask().sum(1).tolist()
        assert layer.out_degree.tolist() == model[0].topology.to_mask().sum(0).tolist()
        assert layer.dead_outputs == int((model[0].topology.to_mask().sum(1) == 0).sum())
    numbers = change.scalars("edges/")
    assert numbers["edges/0/age"] == pytest.approx(float(layer.age.float().mean()))
    assert all(isinstance(number, float) for number in numbers.values())
    assert int((layer.age == 0).sum()) == 21


def test_explored_share_of_a_sample_of_rows() -> None:
    from sparsetrain.evolve.history import sample

    t = st.patterns.uniform((5000, 3000), 0.001)
    layer = SparseLinear(3000, 5000, topology=t)
    evolver = evolve.Evolver(layer, torch.optim.SGD(layer.parameters(), lr=0.1), evolve.SET(), EVERY)
    for _ in range(3):
        change = evolver.step()
    assert change is not None
    history = evolver.histories[""]
    assert history.tried.numel() <= 1 << 20
    assert change.explored == pytest.approx(0.001 * (1 + 3 * 0.3), rel=0.1)
    rows = sample(5000, 349)
    assert rows.unique().numel() == rows.numel() >= 340
    assert float(rows.double().mean()) == pytest.approx(2500, rel=0.05)


# ---- warm-up ---------------------------------------------------------------------------------------------------------


def test_updates_of_newborn_edges_grow_from_none_to_whole() -> None:
    layer = SparseLinear(30, 20, density=0.2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    evolver = evolve.Evolver(
        layer,
        optimizer,
        evolve.SET(start="zero"),
        evolve.Constant(interval=100, start=1, prune_fraction=0.3),
        warm_up=4,
    )
    change = evolver.step()
    assert change is not None
    newborn = change.layers[""].edit.grown
    old = torch.ones(layer.topology.nnz, dtype=torch.bool).index_fill(0, newborn, False)
    for part in (0.25, 0.5, 0.75, 1.0, 1.0):
        before = layer.values.detach().clone()
        layer.values.grad = torch.ones_like(layer.values)
        optimizer.step()
        evolver.step()
        moved = before - layer.values.detach()
        torch.testing.assert_close(moved[newborn], torch.full((newborn.numel(),), part))
        torch.testing.assert_close(moved[old], torch.ones(int(old.sum())))


# ---- checkpoints -----------------------------------------------------------------------------------------------------

RESUME = """
import sys, torch
sys.path.insert(0, {tests!r})
import sparsetrain as st
from test_evolver import resumable, train
model, optimizer, evolver = resumable(seed=7)
st.io.load({path!r}, model, optimizer, evolver, topology="adopt")
train(model, optimizer, evolver, range(11, 24))
torch.save([p.detach() for p in model.parameters()] + [l.topology.col for l in model[::2]], {out!r})
"""


def resumable(seed: int) -> tuple[nn.Sequential, Any, evolve.Evolver]:
    model = network(seed)
    optimizer = st.optim.Adam(model.parameters(), lr=0.02)
    schedule = evolve.Linear(interval=4, start=1, stop=20, prune_fraction=0.3, final_density=0.2)
    return model, optimizer, evolve.Evolver(model, optimizer, evolve.SNFS(batches=3), schedule, warm_up=3)


def test_training_goes_on_bit_for_bit_in_a_new_process(tmp_path: Path) -> None:
    model, optimizer, evolver = resumable(seed=0)
    train(model, optimizer, evolver, range(11))  # within the steps that the rule looks at, and within a warm-up
    path, out = tmp_path / "training.st", tmp_path / "resumed.pt"
    st.io.save(path, model, optimizer, evolver)
    train(model, optimizer, evolver, range(11, 24))
    script = RESUME.format(tests=str(Path(__file__).parent), path=str(path), out=str(out))
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
    ours = [p.detach() for p in model.parameters()] + [layer.topology.col for layer in model[::2]]
    assert all(map(torch.equal, ours, torch.load(out)))


def test_states_of_others_are_refused() -> None:
    model, optimizer, evolver = resumable(seed=0)
    state = evolver.state_dict()
    other = evolve.Evolver(model, optimizer, evolve.SET(), evolver.schedule)
    with pytest.raises(ValueError, match=re.escape("expected the rule SET(start='draw'), the state has SNFS")):
        other.load_state_dict(state)
    other = evolve.Evolver(model, optimizer, evolver.rule, evolver.schedule, layers="0")
    with pytest.raises(ValueError, match="of another model"):
        other.load_state_dict(state)
    _, optimizer, other = resumable(seed=1)
    before = other.generator.get_state()
    with pytest.raises(ValueError, match="the state was saved with others"):
        other.load_state_dict(state)
    assert torch.equal(other.generator.get_state(), before)


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_what_makes_no_evolver() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    foreign = torch.optim.SGD(network().parameters(), lr=0.1)
    cases: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (TypeError, "Pass rule=SET(...), an object", (model, optimizer, evolve.SET, EVERY), {}),
        (TypeError, "expected schedule to be a Schedule", (model, optimizer, evolve.SET(), 100), {}),
        (TypeError, "expected optimizer to be an Optimizer", (model, None, evolve.SET(), EVERY), {}),
        (TypeError, "expected a module", (None, optimizer, evolve.SET(), EVERY), {}),
        (ValueError, "optimizer of the values of layer '0'", (model, foreign, evolve.SET(), EVERY), {}),
        (
            ValueError,
            "match ['nothing'], the model has '0', '2'",
            (model, optimizer, evolve.SET(), EVERY),
            {"layers": "nothing"},
        ),
        (ValueError, "the rate 0 for all", (model, optimizer, evolve.SET(), EVERY), {"layers": {"*": 0.0}}),
        (ValueError, "rate of '*' from 0 to 1", (model, optimizer, evolve.SET(), EVERY), {"layers": {"*": 2.0}}),
        (ValueError, "with a final_density", (model, optimizer, evolve.GMP(), EVERY), {}),
        (
            ValueError,
            "with a prune_fraction",
            (model, optimizer, evolve.SET(), evolve.Linear(stop=9, final_density=0.1)),
            {},
        ),
        (
            ValueError,
            "and the rule only drops edges",
            (model, optimizer, evolve.GMP(), evolve.Linear(stop=9, final_density=0.9)),
            {},
        ),
        (ValueError, "make some with convert.sparsify", (nn.Linear(3, 2), optimizer, evolve.SET(), EVERY), {}),
        (TypeError, "generator to be a torch.Generator", (model, optimizer, evolve.SET(), EVERY), {"generator": 3}),
    ]
    for kind, message, arguments, options in cases:
        with pytest.raises(kind, match=re.escape(message)):
            evolve.Evolver(*arguments, **options)


def test_densities_below_one_edge_a_neuron_keep_one_with_a_warning() -> None:
    layer = SparseLinear(100, 50, density=0.5)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with pytest.warns(UserWarning, match="leaves layer '' 25 edges for 50 neurons. It keeps 50"):
        evolver = evolve.Evolver(layer, optimizer, evolve.GMP(), evolve.Linear(interval=1, stop=3, final_density=0.005))
    for _ in range(3):
        evolver.step()
    assert layer.topology.nnz == 50


def test_values_that_something_else_holds() -> None:
    model = network()
    holder = nn.Module()
    holder.register_parameter("weight", model[0].values)
    model.append(holder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the values of layer '0' are a parameter of '3' too"):
        evolve.Evolver(model, optimizer, evolve.SET(), EVERY)


def test_nan_values_and_missing_gradients() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.RigL(), EVERY)
    before = masks(model)
    with pytest.raises(ValueError, match="expected a gradient of layer '0' since the last step, got none"):
        evolver.step()
    with torch.no_grad():
        model[2].values[3] = torch.nan
    with pytest.raises(ValueError, match="expected finite values in layer '2'"):
        evolver.step()
    assert all(map(torch.equal, before, masks(model)))


def test_inputs_that_were_changed_in_place() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, evolve.RigL(), EVERY)
    x, y = data(0)
    (model(x) - y).square().mean().backward()
    x.zero_()
    with pytest.raises(RuntimeError, match="was changed in place after the backward pass"):
        evolver.step()


def test_a_step_inside_of_backward() -> None:
    model = network()
    evolver = evolve.Evolver(model, torch.optim.SGD(model.parameters(), lr=0.1), evolve.SET(), EVERY)
    x, y = data(0)
    loss = (model(x) - y).square().mean()
    model[2].values.register_hook(lambda g: evolver.step() and None)
    with pytest.raises(RuntimeError, match="called inside of a backward pass"):
        loss.backward()


def test_a_rule_that_fails_changes_nothing() -> None:
    class Fails(evolve.Rule):
        def start(self, layer: evolve.Layer, edit: st.Edit) -> Tensor | None:
            if layer.name == "2":
                raise KeyError("of the user")
            return None

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    evolver = evolve.Evolver(model, optimizer, Fails(), EVERY)
    before, state = masks(model), evolver.generator.get_state()
    with pytest.raises(KeyError):
        evolver.step()
    assert all(map(torch.equal, before, masks(model)))
    assert torch.equal(evolver.generator.get_state(), state)
