"""Saving and loading models with a ShardedLookupTable: by one, two and three processes, in files of each and in a common
folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import state_dict as states

import sparsetrain as st
from sparsetrain.distributed import ShardedLookupTable
from sparsetrain.nn import LookupTable

ROWS, DIM = 11, 3  # rows that neither two nor three processes divide


class Words(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.linear = table, nn.Linear(DIM, 2, dtype=torch.float64)
        for p in self.linear.parameters():
            nn.init.constant_(p, 0.3)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.linear(self.table(ids)).square().sum()
        return y


def all_rows(table: ShardedLookupTable) -> Tensor:
    weight = table.state_dict()["weight"]
    rows: Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return rows


def trained(**options: Any) -> tuple[nn.Module, Any]:
    """A model and an optimizer with state, the same in any number of processes, whole or sharded."""
    torch.manual_seed(0)
    model = Words(ShardedLookupTable(ROWS, DIM, dtype=torch.float64, **options))
    return model, st.optim.Adam(model.parameters(), lr=0.1, unused="dense")


def steps_of(model: nn.Module, optimizer: Any) -> None:
    """Each process has the same ids, so that the mean of losses does not depend on how many there are."""
    for step in range(3):
        optimizer.zero_grad()
        model((torch.arange(8).view(4, 2) * step + step) % ROWS).backward()
        optimizer.step()


def saves(rank: int, folder: Path) -> None:
    model, optimizer = trained()
    steps_of(model, optimizer)
    state, of_optimizer = states.get_state_dict(model, optimizer)
    dcp.save({"model": state, "optimizer": of_optimizer}, checkpoint_id=folder / "checkpoint")
    torch.save((model.state_dict(), optimizer.state_dict()), folder / f"{rank}.pt")
    steps_of(model, optimizer)
    rows = all_rows(model.table)  # type: ignore[arg-type]
    again, resumed = trained()
    for each, saved in zip((again, resumed), torch.load(folder / f"{rank}.pt"), strict=True):
        each.load_state_dict(saved)
    steps_of(again, resumed)
    assert all_rows(again.table).equal(rows)  # type: ignore[arg-type]
    if rank == 0:
        torch.save(rows, folder / "expected.pt")


def read(folder: Path, model: nn.Module, optimizer: Any) -> None:
    state, of_optimizer = states.get_state_dict(model, optimizer)
    content = {"model": state, "optimizer": of_optimizer}
    dcp.load(content, checkpoint_id=folder / "checkpoint")
    states.set_state_dict(model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])


def loads_in_one_process(_: int, folder: Path) -> None:
    model, optimizer = trained()
    nn.init.zeros_(model.table.weight)
    read(folder, model, optimizer)
    steps_of(model, optimizer)
    expected = torch.load(folder / "expected.pt")
    torch.testing.assert_close(model.table.state_dict()["weight"], expected, rtol=1e-12, atol=1e-12)


def loads_and_saves(folder: Path) -> None:
    """What two processes saved goes on in three, and is written anew."""
    model, optimizer = trained()
    nn.init.zeros_(model.table.weight)  # type: ignore[arg-type]
    read(folder, model, optimizer)
    state, of_optimizer = states.get_state_dict(model, optimizer)
    dist.barrier()
    dcp.save({"model": state, "optimizer": of_optimizer}, checkpoint_id=folder / "checkpoint")
    steps_of(model, optimizer)
    expected = torch.load(folder / "expected.pt")
    torch.testing.assert_close(all_rows(model.table), expected, rtol=1e-12, atol=1e-12)  # type: ignore[arg-type]


def refused_states(rank: int, folder: Path) -> None:
    table = ShardedLookupTable(ROWS, DIM)
    embedding = nn.Embedding(ROWS, DIM)
    states_of_all = [None, None]
    dist.all_gather_object(states_of_all, embedding.state_dict())
    for assign in (False, True):
        table.load_state_dict(states_of_all[0], assign=assign)  # type: ignore[arg-type]
        assert all_rows(table).equal(states_of_all[0]["weight"])  # type: ignore[index]
        assert table.weight.untyped_storage().nbytes() == table.weight.numel() * 4
    st.io.load(folder / "whole.safetensors", table)
    assert all_rows(table).equal(LookupTable(ROWS, DIM, generator=torch.Generator().manual_seed(1)).weight)
    before = table.weight.detach().clone()
    for state, message in (
        (nn.Embedding(ROWS + 1, DIM).state_dict(), r"shape \(11, 3\), got shape \(12, 3\)"),
        (nn.Embedding(ROWS, DIM + 1).state_dict(), r"shape \(11, 3\), got shape \(11, 4\)"),
        ({"weight": table.weight.detach()}, r"These are rows of one rank alone"),
        (ShardedLookupTable(ROWS + 2, DIM).state_dict(), r"got shape \(13, 3\)"),
    ):
        with pytest.raises(RuntimeError, match=message):
            table.load_state_dict(state)
        assert table.weight.equal(before)
    dist.barrier()
    (saved, of_optimizer) = torch.load(folder / f"{1 - rank}.pt")  # of the other process
    model, optimizer = trained()
    with pytest.raises(RuntimeError, match=f"those of rank {rank} of 2, got the .* rows from {6 - 6 * rank} on"):
        model.load_state_dict(saved)
    with pytest.raises(ValueError, match=f"Adam: exp_avg: .* those of rank {rank} of 2"):
        optimizer.load_state_dict(of_optimizer)
    whole = Words(LookupTable(ROWS, DIM, dtype=torch.float64))
    other = st.optim.Adam(whole.parameters(), lr=0.1, unused="dense")
    whole(torch.arange(6)).backward()
    other.step()
    optimizer.load_state_dict(other.state_dict())  # of a whole table
    mine, theirs = (each.state_dict()["state"][0]["exp_avg"] for each in (optimizer, other))
    assert mine.full_tensor().equal(theirs)
