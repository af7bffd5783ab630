"""FSDP2 and torch.distributed.checkpoint over sparse layers, in two processes, against one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import equal_everywhere, in_each
from torch import nn

import sparsetrain as st
from sparsetrain.nn import SparseLinear


def test_sharded_layers_train_save_and_load(tmp_path: Path) -> None:
    in_each(check_sharded, tmp_path)


def model_of(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(SparseLinear(8, 6, density=0.5), nn.ReLU(), nn.Linear(6, 2))


def check_sharded(rank: int, folder: Path) -> None:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as states
    from torch.distributed.fsdp import fully_shard

    full_state = states.StateDictOptions(full_state_dict=True)

    def whole(model: nn.Module) -> dict[str, Any]:
        state: dict[str, Any] = states.get_model_state_dict(model, options=full_state)
        return state

    def sharded(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = model_of(seed)
        fully_shard(model[0])
        fully_shard(model)
        return model, torch.optim.Adam(model.parameters(), lr=0.05)

    alone = copy.deepcopy(model_of(0))
    reference = torch.optim.Adam(alone.parameters(), lr=0.05)
    model, optimizer = sharded(0)
    x, y = torch.randn(8, 8), torch.randn(8, 2)
    for _ in range(3):
        for module, opt, part in ((alone, reference, slice(None)), (model, optimizer, slice(4 * rank, 4 * rank + 4))):
            opt.zero_grad()
            (module(x[part]) - y[part]).square().mean().backward()
            opt.step()
    full = whole(model)
    for key, tensor in alone.state_dict().items():
        torch.testing.assert_close(full[key], tensor, rtol=1e-5, atol=1e-6)

    state, optimizer_state = states.get_state_dict(model, optimizer)
    dcp.save({"model": state, "optimizer": optimizer_state}, checkpoint_id=folder / "checkpoint")
    other, resumed = sharded(0)
    state, optimizer_state = states.get_state_dict(other, resumed)
    read = {"model": state, "optimizer": optimizer_state}
    dcp.load(read, checkpoint_id=folder / "checkpoint")
    states.set_state_dict(other, resumed, model_state_dict=read["model"], optim_state_dict=read["optimizer"])
    torch.testing.assert_close(whole(other), full, rtol=0, atol=0)

    other, _ = sharded(0)
    options = states.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    states.set_model_state_dict(other, dict(full) if rank == 0 else {}, options=options)
    torch.testing.assert_close(whole(other), full, rtol=0, atol=0)
    equal_everywhere(other[0].topology.digest)

    different, _ = sharded(1)
    with pytest.raises(RuntimeError, match=r"expected the same 24 edges, the checkpoint has other edges"):
        states.set_model_state_dict(different, dict(full), options=full_state)
    dist.barrier()
    torch.manual_seed(rank)
    with pytest.raises(
        RuntimeError,
        match=r"expected the edges of a SparseLinear to be the same on all ranks .* on rank 1 .*sync_topology",
    ):
        fully_shard(SparseLinear(8, 6, density=0.5))
    st.io.adopt(alone, full)
