"""CHT: scores against all paths listed one by one, positions against all scores sorted, and a masked dense twin."""

import math
from typing import Any

import masked_twins as twins
import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsetrain_kernels import launch, reference
from structures import Structure, structures
from torch import Tensor, nn

from sparsetrain import Topology, evolve
from sparsetrain.nn import SparseLinear
from sparsetrain.ops import likely_vacant as module
from sparsetrain.ops.likely_vacant import likely_vacant

some = settings(max_examples=40, deadline=None)


def arrays(s: Structure) -> tuple[Any, ...]:
    crow_t, col_t, _ = kernels.transpose(s.crow, s.col, s.columns)
    return s.crow, s.col, crow_t, col_t


def all_scores(mask: Tensor) -> Tensor:
    """Of every absent edge, by the list of its paths as the definition has it; 0 elsewhere. Float64."""
    edges = mask.bool()
    scores = torch.zeros(edges.shape, dtype=torch.float64)
    for u, v in (~edges).nonzero().tolist():
        joined = edges & edges[u].unsqueeze(0) & edges[:, v].unsqueeze(1)
        local_outputs, local_inputs = joined.any(1), joined.any(0)
        local_outputs[u] = local_inputs[v] = True  # links to u and v are not external
        for z, y in joined.nonzero().tolist():
            of_y, of_z = int((edges[:, y] & ~local_outputs).sum()), int((edges[z] & ~local_inputs).sum())
            scores[u, v] += 1 / math.sqrt((1 + of_y) * (1 + of_z))
    return scores


def likeliest(mask: Tensor, count: int) -> Tensor:
    """The mask of the largest scores, where there are any."""
    scores = all_scores(mask).float()
    return twins.smallest(-scores, scores > 0, count)


def mask_of(pair: tuple[Tensor, Tensor], shape: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[pair] = True
    return mask


@some
@given(structures(12), st.sampled_from([np.int32, np.int64]), st.sampled_from([0.0, 0.8]))
def test_scores_are_those_of_the_twin(s: Structure, index: type, limit: float) -> None:
    edges = tuple(each.astype(index) for each in arrays(s))
    costs = kernels.paths(*edges)
    for first, last in ((0, s.rows), (s.rows // 3, s.rows // 2)):
        position, score = kernels.links(*edges, costs, first, last, limit)
        exact, exact_score = reference.links(*edges, costs, first, last, limit)
        assert position.tolist() == exact.tolist()
        np.testing.assert_allclose(score, exact_score, rtol=2e-7)


@some
@given(structures(10))
def test_scores_are_those_of_the_definition(s: Structure) -> None:
    exact = all_scores(torch.from_numpy(s.dense(np.ones(s.col.size))))
    edges = arrays(s)
    position, score = kernels.links(*edges, kernels.paths(*edges), 0, s.rows)
    got = torch.zeros(s.rows * s.columns, dtype=torch.float64)
    got[torch.from_numpy(position)] = torch.from_numpy(score).double()
    torch.testing.assert_close(got.view(s.rows, s.columns), exact, rtol=1e-7, atol=0)


def test_a_score_by_hand() -> None:
    # 0 - a - 1 - b, and a has another output, 2; output 1 has another input, c
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 0, 0]])
    edges = arrays(
        Structure(3, 3, *(each.numpy() for each in (Topology.from_mask(mask).crow, Topology.from_mask(mask).col)))
    )
    position, score = kernels.links(*edges, kernels.paths(*edges), 0, 1)
    assert position.tolist() == [1, 2]
    assert score.tolist() == pytest.approx([1 / math.sqrt((1 + 1) * (1 + 1))] * 2)


@some
@given(structures(10), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_positions_are_the_largest_scores(s: Structure, count: int, seed: int) -> None:
    t = Topology.from_mask(torch.from_numpy(s.dense(np.ones(s.col.size))))
    kept = torch.rand(t.nnz, generator=torch.Generator().manual_seed(seed)) < 0.7
    left = mask_of((t.row[kept].long(), t.col[kept].long()), t.shape)
    count = min(count, int((~left).sum()))
    got = likely_vacant(t, kept, count)
    assert torch.equal(mask_of(got, t.shape), likeliest(left, count))
    position = got[0] * max(1, t.shape[1]) + got[1]
    assert bool((position.diff() > 0).all())


@pytest.mark.parametrize("threads", [2, 3])
def test_neither_threads_nor_blocks_change_a_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PARALLEL_WORK", 0)
    t = Topology.from_mask(torch.rand(60, 50, generator=torch.Generator().manual_seed(1)) < 0.08)
    edges = arrays(Structure(60, 50, t.crow.numpy(), t.col.numpy()))
    alone = kernels.links(*edges, kernels.paths(*edges), 0, 60)
    together = kernels.links(*edges, kernels.paths(*edges), 0, 60, threads=threads)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    kept = torch.ones(t.nnz, dtype=torch.bool)
    whole = likely_vacant(t, kept, 40)
    monkeypatch.setattr(module, "BLOCK", 70)
    assert all(torch.equal(a, b) for a, b in zip(whole, likely_vacant(t, kept, 40), strict=True))
    assert torch.equal(mask_of(whole, t.shape), likeliest(t.to_mask(), 40))


def test_equal_scores_come_row_by_row() -> None:
    blocks = torch.block_diag(*[torch.tensor([[1, 0], [1, 1]])] * 6)  # each with one path, all alike
    rows, cols = likely_vacant(Topology.from_mask(blocks), torch.ones(18, dtype=torch.bool), 4)
    assert (rows.tolist(), cols.tolist()) == ([0, 2, 4, 6], [1, 3, 5, 7])


def test_where_paths_run_out_the_rest_is_random() -> None:
    grown = []
    for seed in (0, 0, 1):
        layer = SparseLinear(30, 30, topology=Topology.from_mask(torch.eye(30)))
        with torch.no_grad():
            layer.values.copy_(torch.arange(1.0, 31.0))
        evolver = evolve.Evolver(
            layer, torch.optim.SGD(layer.parameters(), lr=0.1), evolve.CHT(),
            evolve.Constant(interval=1, prune_fraction=0.5), generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        assert evolver.step() is not None
        assert layer.topology.nnz == 30
        grown.append(layer.topology.to_mask())
    assert torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[0], grown[2])
    assert bool(grown[0].diagonal()[15:].all())


@pytest.mark.parametrize("start", ["zero", "draw"])
def test_values_of_newborn_edges(start: Any) -> None:
    layer = SparseLinear(60, 40, density=0.1, generator=torch.Generator().manual_seed(0))
    rule, schedule = evolve.CHT(start=start), evolve.Constant(interval=1, prune_fraction=0.4)
    change = evolve.Evolver(layer, torch.optim.SGD(layer.parameters(), lr=0.1), rule, schedule).step()
    assert change is not None
    born = layer.values.detach()[change.layers[""].edit.grown]
    assert born.numel() > 40
    assert bool((born != 0).all() if start == "draw" else (born == 0).all())


def test_the_masked_twin_has_the_same_masks() -> None:
    generator = torch.Generator().manual_seed(3)
    layers = [SparseLinear(i, o, density=0.3, generator=generator, dtype=torch.float64) for i, o in ((12, 14), (14, 7))]
    model, masked = nn.Sequential(layers[0], nn.Tanh(), layers[1]), [twins.MaskedLayer.of(layer) for layer in layers]
    first = [layer.mask for layer in masked]
    ours = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD([p for layer in masked for p in (layer.weight, layer.bias)], lr=0.1, momentum=0.9)
    schedule = evolve.Constant(interval=2, start=1, prune_fraction=0.3)
    evolver = evolve.Evolver(model, ours, evolve.CHT(), schedule)
    for _ in range(10):
        x, y = torch.randn(16, 12, generator=generator).double(), torch.randn(16, 7, generator=generator).double()
        loss, twin_loss = (model(x) - y).square().mean(), (masked[1](torch.tanh(masked[0](x))) - y).square().mean()
        torch.testing.assert_close(loss, twin_loss, rtol=0, atol=1e-10)
        for each, optimizer in ((loss, ours), (twin_loss, theirs)):
            optimizer.zero_grad()
            each.backward()
            optimizer.step()
        if evolver.step() is None:
            continue
        for layer, twin in zip(layers, masked, strict=True):
            edges = int(twin.mask.sum())
            stay = edges - math.floor(0.3 * edges)
            kept = twins.prune(twin, stay)
            twins.change(twin, theirs, twin.mask, kept | likeliest(kept, edges - stay))
            assert torch.equal(layer.topology.to_mask(), twin.mask)
            torch.testing.assert_close(layer.to_dense().weight, twin.weight * twin.mask, rtol=0, atol=1e-12)
    assert all(not torch.equal(layer.mask, mask) for layer, mask in zip(masked, first, strict=True))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"CHT: expected start to be 'zero' or 'draw', got 'ones'"):
        evolve.CHT(start="ones")  # type: ignore[arg-type]
    layer = SparseLinear(10, 5, density=0.2)
    with pytest.raises(ValueError, match="prune_fraction"):
        evolve.Evolver(
            layer, torch.optim.SGD(layer.parameters(), lr=0.1), evolve.CHT(), evolve.Cubic(stop=9, final_density=0.1)
        )
    t = Topology.from_mask([[1, 0], [1, 1]])
    with pytest.raises(ValueError, match=r"likely_vacant: expected a count from 0 to 2, .* got 3"):
        likely_vacant(t, torch.tensor([True, False, True]), 3)
    with pytest.raises(ValueError, match=r"likely_vacant: expected kept as booleans of shape \(3,\)"):
        likely_vacant(t, torch.tensor([1, 0, 1]), 1)
    assert repr(evolve.CHT()) == "CHT(start='zero')"
