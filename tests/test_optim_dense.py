"""unused="dense": rows that a step does not use get what a dense optimizer does to them, in time to be read."""

import copy
import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest
import torch
from checkpoints import identical
from tables import DENSE, FROZEN, KINDS, apart, everything, name_of, ours, parameter, rows_gradient, torchs, twin
from torch import Tensor, nn
from torch.optim import lr_scheduler as lr

import sparsetrain as st
from sparsetrain.edges.pending import pending_of
from sparsetrain.nn import LookupTable
from sparsetrain.optim import lazy_updates

ROWS = 40


def ids_of(step: int) -> Tensor:
    """Few, some of which come often and some rarely."""
    return (ROWS * torch.rand(3, generator=torch.Generator().manual_seed(step)) ** 3).long()


def run(table: LookupTable, optimizer: Any, steps: range, scheduler: Any = None) -> list[float]:
    """Losses that show the rows as they were read; gradients that do not depend on them."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        push = torch.randn(3, table.dim, generator=generator, dtype=table.weight.dtype)
        optimizer.zero_grad()
        loss = (table(ids_of(step)) * push).sum()
        loss.backward()
        if type(optimizer).__module__.startswith("torch."):
            table.weight.grad = table.weight.grad.to_dense()  # type: ignore[union-attr]
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(loss.detach()))
    return losses


def pair(kind: str, options: dict[str, Any]) -> tuple[LookupTable, Any, LookupTable, Any]:
    table = LookupTable(ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(table)
    return (
        table, ours(kind, table.parameters(), unused="dense", **options),
        other, torchs(kind, other.parameters(), **options),
    )  # fmt: skip


def cycles(optimizer: Any) -> bool:
    return "betas" in optimizer.defaults or bool(optimizer.defaults.get("momentum"))


SCHEDULES: dict[str, Callable[[Any, int], Any]] = {
    "none": lambda o, steps: None,
    "OneCycleLR": lambda o, steps: lr.OneCycleLR(o, 0.02, steps, cycle_momentum=cycles(o)),
    "CyclicLR": lambda o, steps: lr.CyclicLR(o, 1e-4, 0.02, 30, cycle_momentum=cycles(o), base_momentum=0.5),
    "LambdaLR": lambda o, steps: lr.LambdaLR(o, lambda step: step % 7 / 7),
}


LONG = [DENSE[3], DENSE[6], DENSE[7], DENSE[9], DENSE[10]]  # one of each optimizer; rows are idle for up to 200 steps


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("kind", "options"), DENSE, ids=name_of)
def test_it_is_the_dense_optimizer(kind: str, options: dict[str, Any], schedule: str) -> None:
    steps = 500 if schedule == "OneCycleLR" and (kind, options) in LONG else 120
    table, mine, other, theirs = pair(kind, options)
    losses = run(table, mine, range(steps), SCHEDULES[schedule](mine, steps))
    expected = run(other, theirs, range(steps), SCHEDULES[schedule](theirs, steps))
    scale = max(1.0, float(other.weight.detach().abs().max()))
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-12 * scale
    mine.flush()
    assert apart(table, other) < 1e-12 * scale
    state, twins = mine.state[table.weight], theirs.state[other.weight]
    for name in twins.keys() - {"step"}:
        torch.testing.assert_close(state[name], twins[name], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("kind", "options"), DENSE, ids=name_of)
def test_idle_steps_are_owed_before_the_flush_and_not_after(kind: str, options: dict[str, Any]) -> None:
    """Otherwise the tests above would test a dense optimizer."""
    table, mine, *_ = pair(kind, options)
    run(table, mine, range(3))
    used = {k for step in range(3) for k in ids_of(step).tolist()}
    before = table.weight.detach().clone()
    run(table, mine, range(3, 6))
    idle = [k for k in sorted(used) if k not in torch.cat([ids_of(step) for step in range(3, 6)])]
    assert idle
    assert before[idle].equal(table.weight.detach()[idle])
    mine.flush()
    moves = kind in ("Adam", "AdamW") or "momentum" in options or options.get("weight_decay")
    assert bool((before[idle] != table.weight.detach()[idle]).all()) == bool(moves)
    flushed = table.weight.detach().clone()
    mine.flush()
    assert table.weight.equal(flushed)


@pytest.mark.parametrize(
    ("kind", "decay", "before", "after"),
    [
        ("SGD", 0.01, 0.9, 0.0),
        ("SGD", 0.0, 0.9, 0.0),
        ("SGD", 0.01, 0.0, 0.9),
        ("SGD", 0.0, 0.0, 0.9),
        ("RMSprop", 0.0, 0.9, 0.0),
    ],
)
def test_momentum_that_is_switched_on_or_off(kind: str, decay: float, before: float, after: float) -> None:
    table, mine, other, theirs = pair(kind, {"lr": 0.01, "momentum": before, "weight_decay": decay})
    for optimizer, each in ((mine, table), (theirs, other)):
        run(each, optimizer, range(30))
        optimizer.param_groups[0]["momentum"] = after
        run(each, optimizer, range(30, 60))
    mine.flush()
    assert apart(table, other) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_stays_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy_updates, "LIMIT", 16)
    table, mine, other, theirs = pair(kind, {"lr": 0.01, "weight_decay": 0})
    assert run(table, mine, range(100)) == pytest.approx(run(other, theirs, range(100)), abs=1e-12)
    pending: Any = pending_of(table.weight)
    assert len(pending._steps) == 16
    mine.flush()
    assert apart(table, other) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_uses_no_row_is_idle_to_all(kind: str) -> None:
    options = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    p = parameter(4, 2)
    q = twin(p)
    mine, theirs = ours(kind, [p], lr=0.1, unused="dense", **options), torchs(kind, [q], lr=0.1, **options)
    for step, ids in enumerate(([0, 1], [], [2], [])):
        mine.flush()
        p.grad = rows_gradient(p, ids, seed=step)
        q.grad = p.grad.to_dense()
        mine.step()
        theirs.step()
    mine.flush()
    assert apart([p], [q]) < 1e-14


# ---- who brings rows up to date ----------------------------------------------------------------------------------------


READERS: dict[str, Callable[[LookupTable, Any], Any]] = {
    "flush": lambda table, optimizer: (optimizer.flush(), table.weight)[1],
    "forward": lambda table, optimizer: table(torch.arange(ROWS)),
    "forward of int32": lambda table, optimizer: table(torch.arange(ROWS, dtype=torch.int32)),
    "inference": lambda table, optimizer: torch.inference_mode()(table)(torch.arange(ROWS)).clone(),
    "matrix": lambda table, optimizer: table.matrix,
    "state_dict of the optimizer": lambda table, optimizer: (optimizer.state_dict(), table.weight)[1],
    "state_dict of the module": lambda table, optimizer: table.state_dict()["weight"],
    "state_dict of a model": lambda table, optimizer: nn.Sequential(table).state_dict()["0.weight"],
    "deepcopy of the module": lambda table, optimizer: copy.deepcopy(table).weight,
    "deepcopy of a model": lambda table, optimizer: copy.deepcopy(nn.Sequential(table))[0].weight,
    "deepcopy of the optimizer": lambda table, optimizer: copy.deepcopy(optimizer).param_groups[0]["params"][0],
    "to": lambda table, optimizer: table.float().double().weight,
    "closing a graph": lambda table, optimizer: table(torch.arange(ROWS)).detach(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("kind", "options"), [DENSE[3], DENSE[6], DENSE[10]], ids=name_of)
def test_readers_see_the_dense_optimizers_rows(kind: str, options: dict[str, Any], reader: str) -> None:
    table, mine, other, theirs = pair(kind, options)
    run(table, mine, range(20))
    run(other, theirs, range(20))
    assert apart(table, other) > 1e-4  # updates are pending
    limit = 1e-12 if reader != "to" else 1e-6
    assert apart([READERS[reader](table, mine)], [other.weight]) < limit


def test_only_the_rows_that_are_read_are_brought_up_to_date() -> None:
    table, mine, other, theirs = pair(*DENSE[10])
    run(table, mine, range(20))
    run(other, theirs, range(20))
    before = table.weight.detach().clone()
    late = [k for k in range(ROWS) if not before[k].equal(other.weight.detach()[k])]
    table(torch.tensor(late[0]))
    assert apart([table.weight[late[0]]], [other.weight[late[0]]]) < 1e-12
    assert table.weight.detach()[late[1:]].equal(before[late[1:]])


def test_a_state_is_loaded_onto_the_numbers_it_belongs_to() -> None:
    table, mine, *_ = pair(*DENSE[10])
    run(table, mine, range(20))
    weights, state = copy.deepcopy((table.state_dict(), mine.state_dict()))
    run(table, mine, range(20, 40))
    at_forty = copy.deepcopy(table.state_dict())

    def load_optimizer() -> None:
        mine.load_state_dict(copy.deepcopy(state))

    for order in (0, 1):
        run(table, mine, range(40, 43))  # updates are pending, of values that are gone
        loads: list[Callable[[], Any]] = [lambda: table.load_state_dict(weights), load_optimizer]
        for load in loads[:: 1 - 2 * order]:
            load()
        run(table, mine, range(20, 40))
        assert identical(dict(table.state_dict()), dict(at_forty))


def test_loading_a_state_alone_keeps_the_steps_that_rows_are_owed() -> None:
    table, mine, other, theirs = pair(*DENSE[10])
    start = copy.deepcopy(mine.state_dict())
    run(table, mine, range(20))
    run(other, theirs, range(20))
    mine.load_state_dict(start)
    mine.flush()
    assert apart(table, other) < 1e-12


def test_a_graph_that_needs_the_old_rows_says_so() -> None:
    table, mine, *_ = pair(*DENSE[10])
    run(table, mine, range(5))
    loss: Any = table.weight.square().sum()  # keeps the table as it is, out of date
    mine.flush()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad", "Adam"])
def test_a_coupled_decay_is_refused(kind: str) -> None:
    p = parameter(3, 2)
    with pytest.raises(ValueError, match=f"{kind}: weight_decay .*AdamW"):
        ours(kind, [p], weight_decay=0.1, unused="dense")
    optimizer = ours(kind, [p], unused="dense")
    with pytest.raises(ValueError, match="AdamW"):
        optimizer.add_param_group({"params": [parameter(2)], "weight_decay": 0.1})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0]["weight_decay"] = 0.1
    p.grad = rows_gradient(p, [0])
    before = everything(optimizer)
    with pytest.raises(ValueError, match="AdamW"):
        optimizer.step()
    assert identical(everything(optimizer), before)


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_optimizer_takes_a_table_over_from_an_older_one(kind: str, scheduled: bool) -> None:
    table, mine, other, theirs = pair("AdamW", {"lr": 0.01})
    run(other, theirs, range(20))
    scheduler = lr.ConstantLR(mine, 1.0) if scheduled else None
    run(table, mine, range(20))
    ours(kind, table.parameters(), lr=0.1)  # one that leaves unused rows alone may share it
    optimizer = ours(kind, table.parameters(), lr=0.1, weight_decay=0, unused="dense")
    assert apart(table, other) < 1e-12  # the first optimizer's steps are not lost
    theirs = torchs(kind, other.parameters(), lr=0.1, weight_decay=0)
    run(table, optimizer, range(20, 30))
    run(other, theirs, range(20, 30))
    optimizer.flush()
    mine.flush()
    assert apart(table, other) < 1e-12
    saved = mine.state_dict()
    with pytest.raises(
        RuntimeError, match=r"AdamW: expected parameter 0 of group 0 to be stepped by the optimizer .* last"
    ):
        mine.step()
    with pytest.raises(ValueError, match=r"AdamW: expected parameters that no other .* has taken"):
        mine.load_state_dict(saved)
    assert apart(table, other) < 1e-12
    del scheduler


def test_a_frozen_optimizer_takes_over_from_a_dense_one() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    first = ours("AdamW", embedding.parameters(), lr=0.1, weight_decay=0.1, unused="dense")
    for ids in ([0, 1], [2]):
        first.flush()
        first.zero_grad()
        embedding(torch.tensor(ids)).sum().backward()
        first.step()
    del first
    second = ours("AdamW", embedding.parameters(), lr=0.1)
    second.zero_grad()
    embedding(torch.tensor([0])).sum().backward()
    second.step()
    assert second.state[embedding.weight]["row_steps"].tolist() == [1, 0, 0, 0]


def test_an_optimizer_that_is_refused_gives_tables_back() -> None:
    table, mine, other, theirs = pair("AdamW", {"lr": 0.01})
    run(table, mine, range(20))
    run(other, theirs, range(20))
    bad = {"params": [parameter(2)], "lr": -1.0}
    with pytest.raises(ValueError, match="lr"):
        ours("SGD", [{"params": [table.weight]}, bad], unused="dense")
    run(table, mine, range(20, 30))
    run(other, theirs, range(20, 30))
    mine.flush()
    assert apart(table, other) < 1e-12


@pytest.mark.parametrize(("kind", "options"), [DENSE[1], DENSE[3], DENSE[6], DENSE[8], DENSE[10]], ids=name_of)
def test_an_embedding_that_was_read_out_of_date_is_refused(kind: str, options: dict[str, Any]) -> None:
    embedding, dense = nn.Embedding(4, 2, sparse=True), nn.Linear(2, 1)
    optimizer = ours(kind, [*embedding.parameters(), *dense.parameters()], unused="dense", **options)
    for ids in ([0], [1]):
        optimizer.zero_grad()
        dense(embedding(torch.tensor(ids))).sum().backward()
        if ids == [0]:
            optimizer.step()
    before = everything(optimizer)
    with pytest.raises(
        RuntimeError, match=r"rows of parameter 0 of group 0 were read .*LookupTable, or call flush\(\)"
    ):
        optimizer.step()
    assert identical(everything(optimizer), before)
    optimizer.flush()
    optimizer.zero_grad()
    dense(embedding(torch.tensor([1]))).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad"])
def test_an_embedding_may_be_read_where_weights_never_move_idly(kind: str) -> None:
    embedding = nn.Embedding(4, 2, sparse=True, dtype=torch.float64)
    other = copy.deepcopy(embedding)
    mine = ours(kind, embedding.parameters(), unused="dense")
    theirs = torchs(kind, other.parameters())
    for ids in ([0], [1], [0, 2]):
        for each, optimizer in ((embedding, mine), (other, theirs)):
            optimizer.zero_grad()
            each(torch.tensor(ids)).sum().backward()
            if each is other:
                other.weight.grad = other.weight.grad.to_dense()  # type: ignore[union-attr]
            optimizer.step()
    assert apart(embedding, other) < 1e-14


# ---- nothing is kept alive ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unused", ["frozen", "dense"])
def test_table_and_optimizer_are_freed(kind: str, unused: str) -> None:
    table = LookupTable(ROWS, 2, dtype=torch.float64)
    optimizer = ours(kind, table.parameters(), weight_decay=0, unused=unused)
    run(table, optimizer, range(3))
    gc.collect()
    gc.disable()
    try:
        weight, held = ref(table.weight), ref(optimizer)
        del optimizer
        assert held() is None
        del table
        assert weight() is None
    finally:
        gc.enable()


def test_the_optimizer_does_not_need_the_layer() -> None:
    table = LookupTable(ROWS, 2, dtype=torch.float64)
    optimizer = ours("AdamW", table.parameters(), unused="dense")
    run(table, optimizer, range(3))
    weight = ref(table.weight)
    del table
    optimizer.flush()
    assert weight() is not None
    del optimizer
    gc.collect()
    assert weight() is None


# ---- the other backend -------------------------------------------------------------------------------------------------


BACKEND = [(k, o, "dense") for k, o in DENSE] + [(k, o, "frozen") for k, o in FROZEN] + [
    ("Adagrad", {"rowwise": True}, "frozen"),
    ("Adam", {"bias_correction": "global"}, "frozen"),
    *((kind, {"lr": 0.1, "l1": 0.05}, "frozen") for kind in KINDS),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options", "unused"), BACKEND, ids=name_of)
def test_the_torch_backend_makes_the_same_steps(kind: str, options: dict[str, Any], unused: str) -> None:
    results = []
    for backend in ("numba", "torch"):
        table = LookupTable(ROWS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        optimizer = ours(kind, table.parameters(), unused=unused, **options)
        with st.ops.use_backend(backend):
            losses = run(table, optimizer, range(60))
            state = optimizer.state_dict()["state"][0] if optimizer.state else {}
        results.append((losses, table.weight.detach(), state))
    (losses, weight, state), (expected, other, twins) = results
    assert losses == pytest.approx(expected, abs=1e-12)
    torch.testing.assert_close(weight, other, rtol=0, atol=1e-12)
    assert state.keys() == twins.keys()
    for name in state:
        torch.testing.assert_close(state[name], twins[name], rtol=1e-12, atol=1e-14)
