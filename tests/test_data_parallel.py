"""DistributedDataParallel and ZeroRedundancyOptimizer over our layers, in two processes, against one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import RANKS, equal_everywhere, in_each
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain.nn import LookupTable, SparseLinear

STEPS = 6


def test_ranks_agree_and_train_as_one_process(tmp_path: Path) -> None:
    in_each(check_ranks, tmp_path)


def check_ranks(rank: int, _: Path) -> None:
    edges_of_rank_0(rank)
    constrained_layers_are_refused(rank)
    a_wrapper_of_former_layers_is_refused()
    for unused in ("frozen", "dense"):
        trains_as_one_process(rank, unused, partial(st.optim.AdamW, lr=0.1, weight_decay=0.1, unused=unused))
        trains_as_one_process(rank, unused, partial(st.optim.SGD, lr=0.1, momentum=0.9, unused=unused))
    trains_as_one_process(rank, "frozen", lambda p: zero(p, st.optim.Adagrad, lr=0.1))
    trains_as_one_process(rank, "dense", lambda p: zero(p, st.optim.SGD, lr=0.1, momentum=0.9, unused="dense"))
    trains_as_one_process(rank, "dense", lambda p: zero(p, torch.optim.SGD, lr=0.1), sparse=False)


def zero(parameters: Any, kind: Any, **options: Any) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer  # with a warning, which is an error in the tests

    return ZeroRedundancyOptimizer(parameters, optimizer_class=kind, **options)


def edges_of_rank_0(rank: int) -> None:
    """Drawn without a common seed, as many on all ranks or not, with names or a tied decoder."""
    torch.manual_seed(rank)
    encoder = SparseLinear(8, 4, density=0.5)
    names = st.Topology.from_edges([("a", "y"), ("b", "z")] if rank else [("a", "z"), ("b", "y")])
    more = [SparseLinear(8, 4, density=0.5 + 0.2 * rank), SparseLinear(2, 2, topology=names)]
    tied = [encoder, encoder.transposed()]
    frozen = st.nn.SparseDeltaLinear(nn.Linear(4, 8), st.patterns.uniform((8, 4), 0.5))
    model = nn.ModuleList([*tied, *more, frozen])
    parameters = list(model.parameters())
    DistributedDataParallel(model)
    assert all(map(lambda a, b: a is b, model.parameters(), parameters))
    equal_everywhere([(m.topology.digest, m.topology.inputs, m.topology.outputs, m.values.tolist()) for m in model])
    assert model[1].topology is encoder.topology
    assert model[3].topology.outputs == ("z", "y")


def a_wrapper_of_former_layers_is_refused() -> None:
    wrapped = DistributedDataParallel(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    st.convert.sparsify(wrapped, {"1": 0.5})  # names are those of the model itself
    with pytest.raises(RuntimeError, match=r"some were converted since, .* Wrap its module again"):
        wrapped(torch.ones(2, 4))
    again = DistributedDataParallel(wrapped.module)
    again(torch.ones(2, 4)).sum().backward()
    equal_everywhere(again.module[1].values.grad.tolist())


def constrained_layers_are_refused(rank: int) -> None:
    torch.manual_seed(rank)
    layer = st.constrain.positive(SparseLinear(8, 4, density=0.5), edges=[0, 1], project=True)
    with pytest.raises(RuntimeError, match=r"layer '0': .* Rank 1 can't go on with the edges of rank 0"):
        DistributedDataParallel(nn.Sequential(layer))
    everywhere = st.constrain.positive(SparseLinear(8, 4, density=0.5), project=True)
    equal_everywhere(DistributedDataParallel(everywhere).module.edges().values.tolist())
    with pytest.raises(RuntimeError, match=r"layer '0' to be on rank 1 what it is on rank 0, .*\(4, 8\).*\(4, 9\)"):
        DistributedDataParallel(nn.Sequential(SparseLinear(8 + rank, 4, density=0.5)))


class Words(nn.Module):
    """A table, a pooled one, and a layer whose gradient is sparse over its edges."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        double = {"dtype": torch.float64, "generator": generator}
        self.table = LookupTable(20, 3, **double) if sparse else nn.Embedding(20, 3, dtype=torch.float64)
        self.pool = LookupTable(20, 3, pool="sum", **double) if sparse else nn.Embedding(20, 3, dtype=torch.float64)
        t = st.patterns.uniform((3, 40), 0.4, generator)
        self.codes = SparseLinear(40, 3, topology=t, sparse_grad=sparse, **double)
        for p in self.parameters():
            nn.init.normal_(p, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        x = nn.functional.one_hot(ids[:, 0], 40).double()
        pool = self.pool(ids) if isinstance(self.pool, LookupTable) else self.pool(ids).sum(1)
        y: Tensor = (self.table(ids).sum(1) + pool + self.codes(x)).square().sum(1)
        return y.mean()


def trains_as_one_process(rank: int, unused: str, make: Callable[[Any], Any], sparse: bool = True) -> None:
    """The loss of all samples, of which each rank has a part, and rows that only one of them reads."""
    model, alone = Words(sparse), Words(sparse)
    ddp = DistributedDataParallel(model)
    optimizer = make(model.parameters())
    inner = getattr(optimizer, "optim", optimizer)
    other = type(inner)(
        alone.parameters(), **{k: v for k, v in inner.defaults.items() if k != "decoupled_weight_decay"}
    )
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        ids = torch.randint(0, 4, (4 * RANKS, 2), generator=generator) + 5 * (step % 3)
        for module, opt, given in ((ddp, optimizer, ids.chunk(RANKS)[rank]), (alone, other, ids)):
            opt.zero_grad()
            module(given).backward()
            opt.step()
        if sparse:
            assert model.table.weight.grad is not None
            assert model.table.weight.grad.is_sparse
            assert model.codes.values.grad is not None
            assert model.codes.values.grad.is_sparse
    states = model.state_dict(), alone.state_dict()
    for key, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][key], rtol=1e-12, atol=1e-13, msg=f"{key}, {unused}, {inner!r}")
    equal = {key: tensor.numpy().round(11).tolist() for key, tensor in states[0].items()}
    equal_everywhere(equal)
