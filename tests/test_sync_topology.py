"""distributed.sync_topology and check_topology in two processes, and what ranks that disagree, wait or end do to others."""

import atexit
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import RANKS, equal_everywhere, in_each
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain import ranks
from sparsetrain.nn import MaskedLinear, SparseConv2d, SparseLinear

WAIT = timedelta(seconds=3)


def test_one_process_has_nothing_to_share() -> None:
    model = nn.Sequential(SparseLinear(4, 2, density=0.5))
    topology = model[0].topology
    st.distributed.sync_topology(model)
    st.distributed.check_topology(model)
    assert model[0].topology is topology
    for share in (st.distributed.sync_topology, st.distributed.check_topology):
        with pytest.raises(TypeError, match=r"topology: expected model to be a torch.nn.Module, got dict"):
            share(dict(model.state_dict()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected a torch optimizer or None, got list"):
        st.distributed.sync_topology(model, optimizer=list(model.parameters()))  # type: ignore[arg-type]


def test_ranks_share_edges_and_refuse_what_differs(tmp_path: Path) -> None:
    in_each(check_ranks, tmp_path)


def check_ranks(rank: int, _: Path) -> None:
    all_layers_take_the_edges_of_rank_0(rank)
    what_stays_keeps_value_and_state(rank)
    a_group_of_its_own(rank)
    nothing_is_half_changed(rank)
    other_models_are_refused(rank)
    edges_that_differ_are_named(rank)
    a_wrapper_compares_edges_at_its_first_pass(rank)
    edges_that_change_on_one_rank_alone(rank)
    a_rank_that_waits(rank)


def network(rank: int) -> nn.ModuleDict:
    """Every kind of layer over edges, drawn without a common seed: another number of edges, too."""
    torch.manual_seed(rank)
    encoder, other = SparseLinear(8, 4, density=0.4 + 0.1 * rank), SparseLinear(8, 4, density=0.5)
    names = [("a", "y"), ("b", "z")] if rank else [("a", "z"), ("b", "y"), ("b", "z")]
    layers: dict[str, nn.Module] = {
        "encoder": encoder,
        "decoder": encoder.transposed(),
        "other": other,
        "twin": SparseLinear(8, 4, topology=other.topology),
        "positive": st.constrain.positive(SparseLinear(8, 4, density=0.5), project=True),
        "delta": st.nn.SparseDeltaLinear(nn.Linear(4, 8), st.patterns.uniform((8, 4), 0.5)),
        "graph": SparseLinear.from_edges(names),
        "masked": MaskedLinear(8, 4, density=0.5),
        "attention": st.convert.sparsify(nn.Sequential(nn.MultiheadAttention(8, 2)), 0.5),
        "convolution": SparseConv2d(2, 3, 2, density=0.5),
    }
    return nn.ModuleDict(layers)


def edges_of(model: nn.Module) -> list[Any]:
    layers = [m for m in model.modules() if isinstance(m, st.nn.EdgeModule | MaskedLinear)]
    return [(m.topology.digest, m.topology.inputs, m.topology.outputs) for m in layers]


def by_edge(layer: Any, numbers: Tensor) -> dict[tuple[int, int], float]:
    t = layer.topology
    return dict(zip(zip(t.row.tolist(), t.col.tolist(), strict=True), numbers.tolist(), strict=True))


def all_layers_take_the_edges_of_rank_0(rank: int) -> None:
    model = network(rank)
    parameters, before = list(model.parameters()), edges_of(model)
    st.distributed.sync_topology(model)
    st.distributed.check_topology(model)
    equal_everywhere(edges_of(model))
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    assert (edges_of(model) == before) == (rank == 0)
    assert model["decoder"].topology is model["encoder"].topology
    assert model["twin"].topology is model["other"].topology
    assert bool((model["positive"].values >= 0).all())
    y = model["decoder"](model["encoder"](torch.ones(2, 8)))
    y.sum().backward()
    topologies = [layer.topology for layer in model.values() if isinstance(layer, st.nn.EdgeModule)]
    st.distributed.sync_topology(model)  # a second time there is nothing to do
    again = [layer.topology for layer in model.values() if isinstance(layer, st.nn.EdgeModule)]
    assert all(one is other for one, other in zip(topologies, again, strict=True))


def what_stays_keeps_value_and_state(rank: int) -> None:
    torch.manual_seed(10 + rank)
    layer = SparseLinear(8, 4, density=0.5)
    optimizer = st.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.randn(5, 8)).sum().backward()
    optimizer.step()
    kept = {name: optimizer.state[layer.values][name] for name in ("exp_avg", "exp_avg_sq")}
    before = {"values": by_edge(layer, layer.values), **{k: by_edge(layer, v) for k, v in kept.items()}}
    firsts = [before["values"]]
    dist.broadcast_object_list(firsts, 0)
    st.distributed.sync_topology(layer, optimizer=optimizer)
    assert set(firsts[0]) == set(by_edge(layer, layer.values))
    if rank:
        assert 0 < len(set(firsts[0]) & set(before["values"])) < len(firsts[0])
    for edge, value in by_edge(layer, layer.values).items():
        assert value == before["values"].get(edge, firsts[0][edge])
    for name in kept:
        for edge, moment in by_edge(layer, optimizer.state[layer.values][name]).items():
            assert moment == before[name].get(edge, 0.0)
    optimizer.zero_grad()
    layer(torch.randn(5, 8)).sum().backward()
    optimizer.step()


def a_group_of_its_own(rank: int) -> None:
    alone = [dist.new_group([each]) for each in range(RANKS)]
    model = network(rank)
    before = edges_of(model)
    st.distributed.sync_topology(model, alone[rank])
    assert edges_of(model) == before
    with pytest.raises(ValueError, match=f"expected a group that rank {rank} is in"):
        st.distributed.sync_topology(model, alone[1 - rank])
    everyone = dist.new_group(list(range(RANKS)))
    st.distributed.sync_topology(model, everyone)
    equal_everywhere(edges_of(model))


def nothing_is_half_changed(rank: int) -> None:
    """One layer that can't go on keeps the others, on all ranks, as they are."""
    torch.manual_seed(rank)
    held = st.constrain.positive(SparseLinear(8, 4, density=0.5), edges=[0, 1], project=True)
    model = nn.ModuleDict({"free": SparseLinear(8, 4, density=0.5), "held": held})
    before = [tensor.clone() for tensor in model.state_dict().values()]
    with pytest.raises(
        RuntimeError, match=r"layer 'held': .* Rank 1 can't go on with the edges of rank 0, and nothing"
    ):
        st.distributed.sync_topology(model)
    assert all(torch.equal(one, other) for one, other in zip(before, model.state_dict().values(), strict=True))


def other_models_are_refused(rank: int) -> None:
    shapes = nn.Sequential(SparseLinear(8, 4, density=0.5), SparseLinear(4 + rank, 2, density=0.5))
    longer = nn.Sequential(*(SparseLinear(8, 8, density=0.5) for _ in range(2 + rank)))
    kinds = nn.Sequential(MaskedLinear(8, 4, density=0.5) if rank else SparseLinear(8, 4, density=0.5))
    for model, message in (
        (shapes, r"layer '1' to be on rank 1 what it is on rank 0, .*\(2, 4\) .*, got .*\(2, 5\)"),
        (longer, "layer '2' to be on rank 1 what it is on rank 0, no such layer, got a SparseLinear"),
        (kinds, "layer '0' to be on rank 1 what it is on rank 0, a SparseLinear .*, got a MaskedLinear"),
    ):
        for refused in (st.distributed.sync_topology, st.distributed.check_topology, DistributedDataParallel):
            with pytest.raises(RuntimeError, match=f"{message} .* Make the same model on all ranks"):
                refused(model)


def edges_that_differ_are_named(rank: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(8, 4, density=0.5), SparseLinear(4, 4, density=0.5))
    st.distributed.check_topology(model)
    torch.manual_seed(rank)
    model[1] = SparseLinear(4, 4, density=0.5)
    with pytest.raises(RuntimeError, match=r"layer '1' to be on rank 1 .* with 8 edges .*sync_topology\(model\)"):
        st.distributed.check_topology(model)
    names = SparseLinear.from_edges([("a", "y" if rank else "z")])
    with pytest.raises(RuntimeError, match=r"layer '\(the model itself\)' .*, got other names of inputs or outputs"):
        st.distributed.check_topology(names)


def swapped(layer: Any, number: int) -> None:
    """Other edges, as many, at which no wrapper is amiss."""
    t = layer.topology
    absent = (~t.to_mask()).nonzero()[number]
    kept = torch.ones(t.nnz, dtype=torch.bool).index_fill_(0, torch.tensor(0), False)
    st.optim.carry(None, {layer: st.Edit(t, kept, (absent[:1], absent[1:]))})


def a_wrapper_compares_edges_at_its_first_pass(rank: int) -> None:
    """And at the first one after edges have changed; passes without averaged gradients exchange nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(8, 4, density=0.5), nn.ReLU(), SparseLinear(4, 4, density=0.5))
    wrapped, x = DistributedDataParallel(model), torch.ones(2, 8)
    if rank:
        swapped(model[2], 0)
        with wrapped.no_sync():
            wrapped(x)
        with torch.no_grad():
            wrapped(x)
    with pytest.raises(RuntimeError, match=r"layer '2' to be on rank 1 .*sync_topology\(model\)"):
        wrapped(x)
    st.distributed.sync_topology(model)
    wrapped(x).sum().backward()
    equal_everywhere([p.grad.tolist() for p in model.parameters()])
    heard: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        gather = dist.all_gather_object
        patch.setattr(dist, "all_gather_object", lambda *a, **k: (heard.append("compared"), gather(*a, **k)))
        for _ in range(3):
            wrapped(x).sum().backward()
        assert not heard
        swapped(model[2], 1)
        wrapped(x).sum().backward()
        wrapped(x).sum().backward()
        assert heard == ["compared"]


def edges_that_change_on_one_rank_alone(rank: int) -> None:
    """It hears nothing from the others, who have no reason to compare, and says which rank it is."""
    group = dist.new_group(timeout=WAIT)
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(8, 4, density=0.5))
    wrapped = DistributedDataParallel(model, process_group=group)
    wrapped(torch.ones(2, 8)).sum().backward()
    if rank:
        swapped(model[0], 0)
        with pytest.raises(RuntimeError, match="expected all 2 ranks to take part, rank 1 got no answer"):
            wrapped(torch.ones(2, 8))
    dist.barrier()


def a_rank_that_waits(rank: int) -> None:
    """Others raise within the timeout of the group."""
    group = dist.new_group(timeout=WAIT)
    model = nn.Sequential(SparseLinear(8, 4, density=0.5))
    start = time.monotonic()
    if rank == 0:
        with pytest.raises(
            RuntimeError, match="sync_topology: expected all 2 ranks to take part, rank 0 got no answer"
        ):
            st.distributed.sync_topology(model, group)
        assert time.monotonic() - start < 20 * WAIT.total_seconds()  # and not the half hour of the whole group
    dist.barrier()


def test_a_rank_that_ends(tmp_path: Path) -> None:
    in_each(check_rank_that_ends, tmp_path, ending=1)


def test_a_process_rests_once_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """gloo's threads free their last exchange meanwhile; in Python's last moments that would abort the process."""
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda *call: registered.append(call))
    ranks._rest_at_exit.cache_clear()
    for _ in range(2):
        with ranks.all_answer("here"):
            pass
    ranks._rest_at_exit.cache_clear()
    assert registered == [(time.sleep, ranks.REST)]


def check_rank_that_ends(rank: int, _: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(SparseLinear(8, 4, density=0.5))
    wrapped = DistributedDataParallel(model)

    def one_pass() -> None:
        wrapped(torch.ones(2, 8)).sum().backward()

    one_pass()
    if rank:
        os._exit(0)  # as a killed process, that does not say goodbye
    with pytest.raises(RuntimeError, match=r"(closed|reset) by peer"):  # torch's own
        one_pass()
    with pytest.raises(RuntimeError, match="check_topology: expected all 2 ranks to take part, rank 0 got no answer"):
        st.distributed.check_topology(model)
    evolver = st.evolve.Evolver
    with pytest.raises(RuntimeError, match="Evolver: expected all 2 ranks to take part, rank 0 got no answer"):
        evolver(model, torch.optim.SGD(model.parameters()), st.evolve.SET(), st.evolve.Constant(1, prune_fraction=0.3))
