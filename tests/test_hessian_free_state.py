"""What HessianFree remembers: the start of the next search, by entry and by row id; saving, copying, and changes of edges."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import identical
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from word_model import IDS, Words, stepped

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.nn import LookupTable, MaskedLinear, SparseLinear
from sparsetrain.optim import HessianFree
from sparsetrain.optim.hessian_free import optimizer as of_steps

F64 = torch.float64
OTHERS = torch.tensor([0, 1, 8, 6, 8, 2])


def parameters_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


# ---- the start of a search -------------------------------------------------------------------------------------------


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Where searches have started."""
    found: list[Tensor] = []
    minimize = of_steps.minimize

    def noted(product: Any, gradient: Tensor, start: Tensor, *rest: Any) -> Any:
        found.append(start.clone())
        return minimize(product, gradient, start, *rest)

    monkeypatch.setattr(of_steps, "minimize", noted)
    return found


def test_rows_start_where_their_last_step_went(starts: list[Tensor]) -> None:
    table = LookupTable(9, 2, dtype=F64)
    optimizer = HessianFree(table.parameters(), decay=0.5)
    batches = [[1, 4], [4, 7], [1, 4, 7, 8]]
    moved: dict[int, Tensor] = {}  # of each row, the last time
    for batch in batches:
        before = table.weight.detach().clone()
        ids = torch.tensor(batch)
        optimizer.step(lambda ids=ids: table(ids), lambda z: (z - 1).square().sum() + (z**4).sum())  # type: ignore[misc]
        assert optimizer.report is not None
        expected = torch.stack([moved.get(row, torch.zeros(2, dtype=F64)) for row in batch])
        torch.testing.assert_close(starts[-1].view(-1, 2), 0.5 * expected, rtol=0, atol=1e-12)
        step = (table.weight.detach() - before) / optimizer.report.rate
        moved |= {row: step[row] for row in batch}
    state = optimizer.state[table.weight]
    assert state["rows"].tolist() == [1, 4, 7, 8]
    torch.testing.assert_close(
        state["direction"], torch.stack([moved[row] for row in (1, 4, 7, 8)]), rtol=0, atol=1e-12
    )


def test_decay_of_zero_starts_at_zero(starts: list[Tensor]) -> None:
    model = Words()
    optimizer = HessianFree(model.parameters(), decay=0.0)
    stepped(model, optimizer)
    stepped(model, optimizer)
    assert not starts[-1].any()


def test_a_table_that_is_read_as_a_whole_once(starts: list[Tensor]) -> None:
    """What is remembered of rows is neither forgotten nor taken for that of others."""
    table = LookupTable(5, 2, dtype=F64)
    optimizer = HessianFree(table.parameters(), decay=1.0)

    def step(ids: list[int] | None) -> None:
        optimizer.step(
            lambda: table.weight * 1.0 if ids is None else table(torch.tensor(ids)), lambda z: (z - 1).square().sum()
        )

    step([3])
    step(None)
    whole = optimizer.state[table.weight]["direction"].clone()
    assert whole.shape == (5, 2)
    step([1])
    assert torch.equal(starts[-1], whole[1])
    step([3])
    assert torch.equal(starts[-1], whole[3])
    # and the other way around
    table = LookupTable(5, 2, dtype=F64)
    optimizer = HessianFree(table.parameters(), decay=1.0)
    step(None)
    whole = optimizer.state[table.weight]["direction"].clone()
    step([3])
    step([1])
    assert torch.equal(starts[-1], whole[1])


# ---- saving and copying ----------------------------------------------------------------------------------------------


def test_a_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    model, optimizer = Words(), None
    optimizer = HessianFree(model.parameters(), damping=0.2, iterations=12, decay=0.7, probes=2)
    stepped(model, optimizer)
    stepped(model, optimizer, OTHERS)
    st.io.save(tmp_path / "run.safetensors", model, optimizer)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    copied = copy.deepcopy((model, optimizer))
    pickled = pickle.loads(pickle.dumps((model, optimizer)))
    runs = [copied, pickled]
    for load in ("state", "file"):
        other = Words(seed=1 if load == "file" else 0)
        fresh = HessianFree(other.parameters())  # options are loaded, too
        if load == "state":
            other.load_state_dict(saved[0])
            fresh.load_state_dict(saved[1])
        else:
            st.io.load(tmp_path / "run.safetensors", other, fresh, topology="adopt")
        runs.append((other, fresh))
    expected = [float(stepped(model, optimizer, ids)) for ids in (IDS, OTHERS)]
    for other, fresh in runs:
        assert [float(stepped(other, fresh, ids)) for ids in (IDS, OTHERS)] == expected
        assert identical(parameters_of(other), parameters_of(model))
        assert identical(fresh.state_dict(), optimizer.state_dict())
        assert fresh.report == optimizer.report


def test_ids_of_rows_survive_float32(tmp_path: Path) -> None:
    rows = 2**24 + 4
    model = nn.Embedding(rows, 1, _weight=torch.from_numpy(np.zeros((rows, 1), "float32")))
    optimizer = HessianFree(model.parameters())
    used = torch.tensor([2**24 + 1, 2**24 + 3])
    optimizer.step(lambda: model(used), lambda z: (z - 1).square().sum())
    fresh = HessianFree(model.parameters())
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.state[model.weight]["rows"].tolist() == used.tolist()
    fresh.state[model.weight]["rows"].zero_()  # is a copy
    assert optimizer.state[model.weight]["rows"].tolist() == used.tolist()


# ---- edges that change -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_newborn_edges_start_at_zero(sparse_grad: bool, starts: list[Tensor]) -> None:
    torch.manual_seed(0)
    t = st.Topology.from_mask([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]])
    layer = SparseLinear(4, 3, topology=t, dtype=F64, sparse_grad=sparse_grad)
    optimizer = HessianFree(layer.parameters(), decay=1.0)
    x = torch.eye(4, dtype=F64)[:3]  # column 3 is not used

    def step() -> None:
        optimizer.step(lambda: layer(x), lambda z: cross_entropy(z, torch.tensor([0, 1, 2])))

    step()
    direction = optimizer.state[layer.values]["direction"].clone()
    assert direction[:5].all()
    assert not direction[5]
    edit = st.Edit(t, kept=[0, 2, 3, 5], grown=([0, 2], [1, 2]))
    st.optim.carry(optimizer, {layer: edit})
    carried = optimizer.state[layer.values]["direction"].clone()
    assert carried.tolist() == [direction[s].item() if s >= 0 else 0.0 for s in edit.source.tolist()]
    step()
    used = layer.topology.col != 3 if sparse_grad else torch.ones(6, dtype=torch.bool)
    assert torch.equal(starts[-1][: int(used.sum())], carried[used])
    assert optimizer.report is not None
    assert optimizer.report.after < optimizer.report.before


def test_after_zeros_are_dropped() -> None:
    model = Words()
    optimizer = HessianFree(model.parameters())
    stepped(model, optimizer)
    with torch.no_grad():
        model.out.values[::2] = 0
    kept = optimizer.state[model.out.values]["direction"][1::2].clone()
    st.convert.drop_zeros(model, optimizer=optimizer)
    assert torch.equal(optimizer.state[model.out.values]["direction"], kept)
    before = float(stepped(model, optimizer))
    assert optimizer.report is not None
    assert optimizer.report.after < before


def network(masked: bool) -> nn.Sequential:
    torch.manual_seed(0)
    kind: Any = MaskedLinear if masked else SparseLinear
    t = st.patterns.uniform((8, 6), 0.4, torch.Generator().manual_seed(0))
    return nn.Sequential(kind(6, 8, topology=t, dtype=F64), nn.Tanh(), nn.Linear(8, 3, dtype=F64))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "two batches"])
def test_edges_grow_where_the_gradient_is_large(masked: bool, apart: bool) -> None:
    """Of all backward passes of a step, the one that computes the gradient counts."""
    x, y = torch.randn(10, 6, dtype=F64), torch.arange(10) % 3
    grown = []
    for hessian_free in (True, False):
        model = network(masked)
        optimizer: Any = HessianFree(model.parameters()) if hessian_free else torch.optim.SGD(model.parameters(), lr=1)
        schedule = evolve.Constant(interval=1, prune_fraction=0.3)
        evolver = evolve.Evolver(model, optimizer, evolve.RigL(), schedule, layers=["0"])

        def loss(z: Tensor, y: Tensor = y) -> Tensor:
            return cross_entropy(z, y)

        if hessian_free:
            batch = (lambda: model(x[:4]), lambda z: loss(z, y[:4])) if apart else None  # noqa: B023
            before = parameters_of(model)
            optimizer.step(lambda: model(x), loss, curvature_batch=batch)  # noqa: B023
            for p, old in zip(model.parameters(), before, strict=True):
                p.detach().copy_(old)  # so that the same edges go
        else:
            loss(model(x)).backward()
        change = evolver.step()
        assert change is not None
        (of_layer,) = change.layers.values()
        grown.append(of_layer.edit.topology.digest)
        if hessian_free:
            optimizer.step(lambda: model(x), loss)  # noqa: B023
            assert optimizer.report.after < optimizer.report.before
    assert grown[0] == grown[1]


# ---- other optimizers ------------------------------------------------------------------------------------------------


def test_pending_updates_of_another_optimizer_come_first() -> None:
    tables = [LookupTable(6, 2, dtype=F64, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    used = torch.tensor([1, 5])
    for table, flushed in zip(tables, (True, False), strict=True):
        adam = st.optim.Adam(table.parameters(), lr=0.1, unused="dense")
        for ids in ([0, 1], [2], [2]):
            adam.zero_grad()
            table(torch.tensor(ids)).square().sum().backward()
            adam.step()
        if flushed:
            adam.flush()
        HessianFree(table.parameters()).step(lambda table=table: table(used), lambda z: z.cosh().sum())  # type: ignore[misc]
        adam.flush()
    assert torch.equal(tables[0].weight, tables[1].weight)
