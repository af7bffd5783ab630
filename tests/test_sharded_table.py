"""ShardedLookupTable in one, two and three processes, against a LookupTable that sees the joined batch."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import equal_everywhere, in_stages
from sharded_states import (
    DIM,
    ROWS,
    Words,
    all_rows,
    loads_and_saves,
    loads_in_one_process,
    refused_states,
    saves,
)
from tables import DENSE, FROZEN, Case
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain.distributed import ShardedLookupTable
from sparsetrain.nn import LookupTable

STEPS = 5


def test_two_processes_then_one_then_three(tmp_path: Path) -> None:
    whole = LookupTable(ROWS, DIM, generator=torch.Generator().manual_seed(1))
    st.io.save(tmp_path / "whole.safetensors", whole)
    one = (1, loads_in_one_process)
    in_stages([(2, check_two), one, (3, check_three), one], tmp_path)


def check_two(rank: int, folder: Path) -> None:
    torch.manual_seed(rank)
    trains_as_one_table(FROZEN, "frozen")
    trains_as_one_table(DENSE, "dense")
    trains_as_one_table([("SGD", {"lr": 0.1})], "frozen", kind=torch.optim)
    trains_as_one_table([("SparseAdam", {"lr": 0.1})], "frozen", kind=torch.optim)
    for options in (
        {"padding_idx": 4}, {"padding_idx": -1, "pool": "sum"}, {"pool": "mean", "padding_idx": 4}, {"pool": "max", "padding_idx": 4},
        {"max_norm": 0.7}, {"max_norm": 0.7, "norm_type": 1.0, "padding_idx": 2, "pool": "sum"}, {"columns": True, "pool": "mean"},
    ):  # fmt: skip
        trains_as_one_table([("AdamW", {"lr": 0.1, "weight_decay": 0.1})], "dense", **options)
    equal_to_the_bit_where_no_row_is_shared(rank)
    other_forms_of_input(rank)
    second_derivatives(rank)
    beside_data_parallel(rank)
    clipped_by_the_norm_of_all_rows(rank)
    bytes_follow_the_ids(rank)
    copies_and_casts(rank)
    saves(rank, folder)
    refusals(rank)
    refused_states(rank, folder)
    a_process_that_takes_no_part(rank)


def check_three(rank: int, folder: Path) -> None:
    torch.manual_seed(rank)
    trains_as_one_table([("AdamW", {"lr": 0.1, "weight_decay": 0.1})], "frozen")
    trains_as_one_table([("Adagrad", {"lr": 0.1, "rowwise": True})], "frozen", padding_idx=4)
    trains_as_one_table([("Adam", {"lr": 0.1})], "dense", pool="mean")
    trains_as_one_table([("SGD", {"lr": 0.1, "momentum": 0.9})], "dense", rows=4)  # the last process has no row
    loads_and_saves(folder)
    a_group_of_some(rank)


# ---- against one table -------------------------------------------------------------------------------------------------


def pair(rows: int = ROWS, **options: Any) -> tuple[ShardedLookupTable, LookupTable]:
    """A sharded table and a whole one with the same numbers."""
    options = {"dtype": torch.float64, **options}
    sharded, whole = ShardedLookupTable(rows, DIM, **options), LookupTable(rows, DIM, **options)
    whole.load_state_dict({"weight": all_rows(sharded)})
    return sharded, whole


def batches(step: int, rows: int = ROWS) -> list[Tensor]:
    """The ids of each process: duplicates in one and between them, in some steps none at all in the last."""
    generator = torch.Generator().manual_seed(step)
    ranks = dist.get_world_size()
    near = min(rows, 6)
    ids = [(torch.randint(near, (4, 2), generator=generator) + 2 * step + r) % rows for r in range(ranks)]
    if step % 3 == 1:
        ids[-1] = ids[-1][:0]
    return ids


def loss_of(table: Any, ids: Tensor) -> Tensor:
    y = table(ids).movedim(0, -1) if table.columns else table(ids)
    loss: Tensor = (y * torch.arange(1.0, DIM + 1)).sin().sum()
    return loss


def trains_as_one_table(cases: list[Case], unused: str, kind: Any = st.optim, rows: int = ROWS, **options: Any) -> None:
    """The mean of the processes' losses, accumulated over two batches in some steps."""
    rank = dist.get_rank()
    for name, of_optimizer in cases:
        sharded, whole = pair(rows, **options)
        if kind is st.optim:
            of_optimizer = {**of_optimizer, "unused": unused}
        optimizers = [getattr(kind, name)(table.parameters(), **of_optimizer) for table in (sharded, whole)]
        for step in range(STEPS):
            for optimizer in optimizers:
                optimizer.zero_grad()
            for part in range(1 + step % 2):
                ids = batches(2 * step + part, rows)
                y = loss_of(sharded, ids[rank])
                y.backward()
                expected = [loss_of(whole, each) for each in ids]
                torch.testing.assert_close(y, expected[rank], rtol=1e-12, atol=1e-12)
                torch.stack(expected).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
        one, other = all_rows(sharded), whole.state_dict()["weight"]
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=f"{name} {of_optimizer} {options}")
        if kind is st.optim:
            states_are_those_of_one_table(*optimizers)


def states_are_those_of_one_table(optimizer: Any, other: Any) -> None:
    one, two = (each.state_dict()["state"].get(0, {}) for each in (optimizer, other))
    assert one.keys() == two.keys()
    for name, kept in one.items():
        kept = kept.full_tensor() if hasattr(kept, "full_tensor") else kept
        if isinstance(kept, Tensor):
            torch.testing.assert_close(kept, two[name], rtol=1e-9, atol=1e-12, msg=name)


def equal_to_the_bit_where_no_row_is_shared(rank: int) -> None:
    for pool in (None, "sum"):
        sharded, whole = pair(dtype=torch.float32, pool=pool)
        optimizers = [st.optim.Adam(table.parameters(), lr=0.1) for table in (sharded, whole)]
        for step in range(STEPS):
            ids = [torch.randint(5, (6, 2)), torch.randint(5, (6, 2)) + 5]
            sent = [None, None]
            dist.all_gather_object(sent, ids)
            ids = sent[0]  # type: ignore[assignment]
            for optimizer in optimizers:
                optimizer.zero_grad()
            y = sharded(ids[rank])
            assert y.equal(whole(ids[rank])), step
            y.sin().sum().backward()
            (sum(whole(each).sin().sum() for each in ids) / 2).backward()  # type: ignore[union-attr]
            for optimizer in optimizers:
                optimizer.step()
        assert all_rows(sharded).equal(whole.weight)


def other_forms_of_input(rank: int) -> None:
    sharded, whole = pair()
    for ids in (
        torch.tensor(4),
        torch.zeros(2, 0, 3, dtype=torch.long),
        torch.tensor([[[6, 0, 2]]], dtype=torch.int32),
    ):
        assert sharded(ids).equal(whole(ids))
    assert sharded(torch.tensor([rank] if rank else [])[:rank].long()).shape == (rank, DIM)
    sharded, whole = pair(pool="sum", padding_idx=3)
    ids, offsets = torch.tensor([3, 6, 3, 0, 2, rank]), torch.tensor([0, 2, 2])
    mine, theirs = (torch.linspace(1, 2, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    y, expected = sharded(ids, offsets, mine), whole(ids, offsets, theirs)
    assert y.equal(expected)
    y.sin().sum().backward()
    expected.sin().sum().backward()
    assert mine.grad is not None
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-14, atol=1e-14)
    assert not sharded(ids, torch.tensor([], dtype=torch.long)).numel()
    half = ShardedLookupTable(ROWS, DIM, dtype=torch.bfloat16)
    assert half.weight.dtype is torch.float32
    assert half(torch.tensor([1])).dtype is torch.bfloat16
    with torch.no_grad():
        assert not sharded(ids, offsets).requires_grad


def second_derivatives(rank: int) -> None:
    """A penalty on the gradient of the mean of losses: each process has its own rows of that."""
    for pool in (None, "sum"):
        sharded, whole = pair(pool=pool)
        ids = batches(0)
        (gradient,) = torch.autograd.grad(loss_of(sharded, ids[rank]), sharded.weight, create_graph=True)
        gradient.to_dense().pow(2).sum().backward()
        table = whole.weight.detach().requires_grad_()
        rows = [table[each] if pool is None else table[each].sum(1) for each in ids]
        push = torch.arange(1.0, DIM + 1)
        (dense,) = torch.autograd.grad(sum((x * push).sin().sum() for x in rows) / 2, table, create_graph=True)  # type: ignore[union-attr]
        (second,) = torch.autograd.grad(dense.pow(2).sum() / 2, table)  # a mean of penalties, too
        first, own = sharded.first_row, sharded.weight.shape[0]
        assert sharded.weight.grad is not None
        torch.testing.assert_close(gradient.to_dense(), dense[first : first + own], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sharded.weight.grad.to_dense(), second[first : first + own], rtol=1e-12, atol=1e-12)


def beside_data_parallel(rank: int) -> None:
    """The wrapper leaves the table alone; gradients are accumulated with and without ``no_sync``."""
    tables = pair()
    model, alone = (Words(table) for table in tables)
    wrapped = DistributedDataParallel(model)
    optimizers = [st.optim.AdamW(each.parameters(), lr=0.1) for each in (model, alone)]
    for optimizer in optimizers:
        optimizer.clip_norm = 1.0
    for step in range(STEPS):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with wrapped.no_sync():
            wrapped(batches(step)[rank]).backward()
        wrapped(batches(step + 9)[rank]).backward()
        for each in (*batches(step), *batches(step + 9)):
            (alone(each) / 2).backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(all_rows(tables[0]), tables[1].weight.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(model.linear.weight, alone.linear.weight, rtol=1e-11, atol=1e-12)
    equal_everywhere(model.linear.weight.tolist())
    with pytest.raises(RuntimeError, match="expected parameters beside those that are spread over ranks"):
        DistributedDataParallel(tables[0])


def clipped_by_the_norm_of_all_rows(rank: int) -> None:
    for norm_type in (2.0, 1.0, float("inf")):
        models = [Words(table) for table in pair()]
        models[0](batches(0)[rank]).backward()
        for p in models[0].linear.parameters():
            assert p.grad is not None
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()
        for each in batches(0):
            (models[1](each) / 2).backward()
        norms = [st.optim.clip_grad_norm_(model.parameters(), 0.5, norm_type) for model in models]
        torch.testing.assert_close(*norms, rtol=1e-12, atol=0)
        first, own = models[0].table.first_row, models[0].table.weight.shape[0]
        one, two = (model.table.weight.grad.to_dense() for model in models)
        torch.testing.assert_close(one, two[first : first + own], rtol=1e-12, atol=1e-14)

    def no_answer(*_: Any, **__: Any) -> None:
        raise RuntimeError("closed by peer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", no_answer)
        with pytest.raises(RuntimeError, match=rf"clip_grad_norm_: expected all 2 ranks to take part, rank {rank} got"):
            st.optim.clip_grad_norm_(models[0].parameters(), 0.5)


def bytes_follow_the_ids(rank: int) -> None:
    sent = {}
    for rows in (10_000, 1_000_000):
        table = ShardedLookupTable(rows, 8)
        assert table.weight.untyped_storage().nbytes() == rows * 8 * 4 // 2  # its own rows alone
        ids = (torch.arange(300) % 200 + 4900 + rank) * (rows // 10_000)
        sent[rows] = counted(lambda table=table, ids=ids: table(ids).sum().backward())
        assert table.weight.grad is not None
        assert table.weight.grad._values().untyped_storage().nbytes() <= 2 * 200 * 8 * 4
    headers = 2 * 3 * 8
    assert sent[10_000] == sent[1_000_000]
    total = torch.tensor(sent[10_000])
    dist.all_reduce(total)
    assert int(total) == 2 * headers + 2 * 200 * (8 + 2 * 8 * 4)  # each id once, its row and its gradient


def counted(work: Callable[[], None]) -> int:
    """Bytes that this process hands to collectives."""
    total = 0
    send = dist.all_to_all_single

    def counting(out: Tensor, x: Tensor, *args: Any, **options: Any) -> Any:
        nonlocal total
        total += x.numel() * x.element_size()
        return send(out, x, *args, **options)

    dist.all_to_all_single = counting  # type: ignore[assignment]
    try:
        work()
    finally:
        dist.all_to_all_single = send
    return total


def copies_and_casts(rank: int) -> None:
    import copy

    sharded, whole = pair(dtype=torch.float32)
    ids = batches(0)[rank]
    twin = copy.deepcopy(sharded)
    assert twin(ids).equal(whole(ids))
    twin.double()
    assert twin(ids).equal(whole(ids).double())
    assert twin.state_dict()["weight"].shape == (ROWS, DIM)
    st.optim.SGD(twin.parameters(), lr=0.1).state_dict()
    assert repr(twin) == f"ShardedLookupTable(11, 3, rows {6 * rank} to {5 if rank == 0 else 10} here)"
    seeded = [ShardedLookupTable(3000, 2, generator=torch.Generator().manual_seed(3 + k * rank)) for k in (0, 1)]
    assert all_rows(seeded[0]).equal(all_rows(seeded[1]))  # the first process's generator
    assert abs(float(all_rows(seeded[0]).std()) - 1) < 0.05
    assert all_rows(seeded[0]).unique(dim=0).shape[0] == 3000


# ---- refusals ----------------------------------------------------------------------------------------------------------


def refusals(rank: int) -> None:
    table = ShardedLookupTable(ROWS, DIM)
    bad = torch.tensor([0, 11 if rank else 3])
    kind, match = (IndexError, "") if rank else (RuntimeError, "rank 1 refused its ids: ")
    with pytest.raises(kind, match=f"{match}ShardedLookupTable: expected ids from 0 to 10, got 11 at position 1"):
        table(bad)
    with pytest.raises(
        (TypeError, RuntimeError), match=r"expected ids to be a tensor of int64 or int32, got torch\.float32"
    ):
        table(torch.tensor([1]) if rank else torch.tensor([1.0]))
    table(torch.tensor([rank])).sum().backward()  # goes on after a refusal
    with pytest.raises(NotImplementedError, match=r"outside of torch\.func"):
        torch.func.jvp(lambda w: torch.func.functional_call(table, {"weight": w}, (torch.tensor([1]),)), (table.weight.detach(),), (table.weight.detach(),))  # fmt: skip
    with pytest.raises(NotImplementedError, match=r"outside of .* sparsetrain\.curvature"):
        st.curvature.ggn(table, lambda y, _: y.square().sum(), (torch.tensor([1]), torch.tensor([1])))
    for options in ({"rows": ROWS + rank}, {"dim": DIM + rank}, {"dtype": (torch.float32, torch.float64)[rank]}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"got {name}=.* on rank 1 and {name}=.* on rank 0"):
            ShardedLookupTable(**{"rows": ROWS, "dim": DIM, **options})  # type: ignore[arg-type]
    tables = [ShardedLookupTable(ROWS, DIM) for _ in range(2)]
    with pytest.raises(RuntimeError, match="expected all ranks to read tables in the same order, got table"):
        tables[rank](torch.tensor([1]))
    with pytest.raises(TypeError, match=r"spread over 2 ranks. Save state_dict\(\)"):
        torch.save(table, "/dev/null")
    with pytest.raises(TypeError, match=r"io\.save: expected whole tensors, got weight sharded over 2 ranks"):
        st.io.save("/dev/null/none", table)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = Words(ShardedLookupTable(ROWS, DIM, dtype=torch.float64))
    zero = ZeroRedundancyOptimizer([model.table.weight], optimizer_class=st.optim.SGD, lr=0.1)
    model(torch.tensor([1, 2])).backward()
    if rank == 0:  # which ZeRO gives the only parameter
        with pytest.raises(RuntimeError, match="expected parameters that are the same on all ranks"):
            zero.step()


def a_process_that_takes_no_part(rank: int) -> None:
    group = dist.new_group(timeout=timedelta(seconds=2))
    table = ShardedLookupTable(ROWS, DIM, group)
    if rank == 0:
        with pytest.raises(RuntimeError, match="expected all 2 ranks to take part, rank 0 got no answer"):
            table(torch.tensor([1]))
    dist.barrier()


def a_group_of_some(rank: int) -> None:
    group = dist.new_group([0, 2])
    if rank == 1:
        with pytest.raises(ValueError, match="ShardedLookupTable: expected a group that rank 1 is in"):
            ShardedLookupTable(ROWS, DIM, group)
        return
    table = ShardedLookupTable(ROWS, DIM, group)
    assert table.first_row == (6 if rank == 2 else 0)
    rows = all_rows(table)
    assert table(torch.tensor([0, 10, rank])).equal(rows[[0, 10, rank]])


# ---- one process -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize("pool", [None, "sum", "mean", "max"])
def test_alone_it_is_a_lookup_table_to_the_bit(unused: str, pool: Any) -> None:
    one, other = ShardedLookupTable(ROWS, DIM, pool=pool), LookupTable(ROWS, DIM, pool=pool)
    other.load_state_dict(one.state_dict())
    optimizers = [st.optim.AdamW(table.parameters(), lr=0.1, unused=unused) for table in (one, other)]
    for step in range(STEPS):
        for table, optimizer in zip((one, other), optimizers, strict=True):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(step)
            table(torch.randint(ROWS, (4, 2), generator=generator)).sin().sum().backward()
            optimizer.step()
    assert one.state_dict()["weight"].equal(other.state_dict()["weight"])
    with pytest.raises(IndexError, match="ShardedLookupTable: expected ids from 0 to 10, got 11"):
        one(torch.tensor([[11]]))
