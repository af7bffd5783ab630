"""The loop around the rules beside what else a training has: accumulation, compiling, scalers, averages, ties."""

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from evolving_models import EVERY, data, masks, network, rigl, train
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import MaskedLinear, SparseDeltaLinear, SparseLinear


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
