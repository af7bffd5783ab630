"""RowShardedLinear on two and three ranks, against one SparseLinear of all rows."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import equal_everywhere, in_stages
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain.distributed import RowShardedLinear
from sparsetrain.nn import SparseLinear

IN, OUT = 9, 7


def test_two_ranks_then_three(tmp_path: Path) -> None:
    in_stages([(2, check_two), (3, check_three)], tmp_path)


def check_two(rank: int, folder: Path) -> None:
    trains_as_one_layer(OUT)
    second_derivatives()
    refusals(rank)
    norms_are_of_all_ranks_before_the_first_pass()


def check_three(rank: int, folder: Path) -> None:
    trains_as_one_layer(OUT)
    trains_as_one_layer(2)  # the last rank has no row
    errors_count_ranks_as_processes_do(rank)


def pair(out: int, dtype: torch.dtype = torch.float64) -> tuple[RowShardedLinear, SparseLinear]:
    """A layer over ranks, and one with the same edges and numbers in one piece."""
    sharded = RowShardedLinear(
        IN, out, density=0.5, generator=torch.Generator().manual_seed(dist.get_rank()), dtype=dtype
    )
    own = sharded.own
    part = torch.zeros(own.out_features, IN, dtype=dtype).index_put((own.topology.row.long(), own.topology.col.long()), own.values.detach())  # fmt: skip
    parts: list = [None] * dist.get_world_size()
    dist.all_gather_object(parts, (part, own.bias.detach()))
    whole = nn.Linear(IN, out, dtype=dtype)
    with torch.no_grad():
        whole.weight.copy_(torch.cat([weight for weight, _ in parts]))
        whole.bias.copy_(torch.cat([bias for _, bias in parts]))
    return sharded, SparseLinear.from_dense(whole)


def own_values(sharded: RowShardedLinear, of_whole: Tensor, whole: SparseLinear) -> Tensor:
    first, rows = sharded.first_row, sharded.own.out_features
    return of_whole[(whole.topology.row >= first) & (whole.topology.row < first + rows)]


def trains_as_one_layer(out: int) -> None:
    torch.manual_seed(0)  # all ranks have the same batch
    sharded, whole = pair(out)
    optimizers = [st.optim.Adam(layer.parameters(), lr=0.1) for layer in (sharded, whole)]
    for _ in range(4):
        data = torch.randn(2, 5, IN, dtype=torch.float64)
        inputs = [data.clone().requires_grad_() for _ in range(2)]
        for layer, optimizer, x in zip((sharded, whole), optimizers, inputs, strict=True):
            optimizer.zero_grad()
            y = layer(x)
            y.sin().sum().backward()
        equal_everywhere([y.tolist(), inputs[0].grad.tolist()])  # type: ignore[union-attr]
        torch.testing.assert_close(sharded(data), whole(data), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-12, atol=1e-13)
        norms = [st.optim.clip_grad_norm_(layer.parameters(), 1.0) for layer in (sharded, whole)]
        torch.testing.assert_close(*norms, rtol=1e-12, atol=0)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(sharded.own.values, own_values(sharded, whole.values, whole), rtol=1e-11, atol=1e-12)


def second_derivatives() -> None:
    """Of a penalty on the gradient of x, and on that of each rank's own edges."""
    torch.manual_seed(0)
    sharded, whole = pair(OUT)
    data = torch.randn(4, IN, dtype=torch.float64)
    results = []
    for layer in (sharded, whole):
        x = data.clone().requires_grad_()
        values = layer.own.values if isinstance(layer, RowShardedLinear) else layer.values
        of_x, of_values = torch.autograd.grad(layer(x).sin().sum(), (x, values), create_graph=True)
        second = torch.autograd.grad(of_x.square().sum(), (x, values), retain_graph=True)
        through_values = torch.autograd.grad(of_values.square().sum(), (x, values))
        results.append([*second, *through_values])
    one, other = results
    for k in (1, 3):
        other[k] = own_values(sharded, other[k], whole)
    for mine, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


def refusals(rank: int) -> None:
    with pytest.raises(ValueError, match=r"expected the same \(in_features, .*\(9, 8, True, torch.float32\) on rank 1"):
        RowShardedLinear(IN, OUT + rank, density=0.5)
    own = st.patterns.uniform((4 - rank, IN), 0.5)
    assert RowShardedLinear(IN, OUT, topology=own).own.topology is own
    with pytest.raises(
        ValueError, match=rf"expected a topology of shape \({4 - rank}, 9\) on rank {rank}, of its rows"
    ):
        RowShardedLinear(IN, OUT, topology=st.patterns.uniform((OUT, IN), 0.5))
    with pytest.raises(ValueError, match=r"torch.float64\) on rank 1"):
        RowShardedLinear(IN, OUT, density=0.5, dtype=(torch.float32, torch.float64)[rank])
    refused_by_the_wrapper()
    other_batches(rank)
    layer = RowShardedLinear(IN, OUT, density=0.5)
    st.distributed.check_topology(torch.nn.Sequential(layer))  # other edges on each rank, as they should be
    assert list(layer.state_dict()) == [f"rows_{4 * rank}.{key}" for key in ("values", "bias", "_extra_state")]


def other_batches(rank: int) -> None:
    """All ranks raise, and go on with the next batch."""
    layer = RowShardedLinear(IN, OUT, density=0.5)
    with pytest.raises(ValueError, match=r"got other numbers on rank 1 than on rank 0\. Load the same"):
        layer(torch.randn(3, IN, generator=torch.Generator().manual_seed(rank)))
    rounded = torch.randn(3, IN, generator=torch.Generator().manual_seed(2)).to((torch.float32, torch.bfloat16)[rank])
    layer(rounded.float())
    for wrong, said in (
        (torch.ones(3 + rank, IN), r"shape \(3, 9\) in float32 with no gradient on rank 0 and shape \(4, 9\) in"),
        (torch.ones(3, IN - rank), r"shape \(3, 9\) in .* on rank 0 and shape \(3, 8\) in"),
        (torch.ones(3, IN, dtype=(torch.float32, torch.bfloat16)[rank]), "in float32 .* in bfloat16"),
        (torch.ones(3, IN, requires_grad=rank == 1), "with no gradient on rank 0 .* with a gradient on rank 1"),
    ):
        with pytest.raises(ValueError, match=f"expected the same batch on all ranks, got .*{said}"):
            layer(wrong)
        layer(torch.ones(3, IN)).sum().backward()
    layer(torch.full((3, IN), torch.nan))
    x = torch.eye(IN)
    for sparse in (x.to_sparse(), x.to_sparse_csr()):  # which SparseLinear takes
        assert torch.equal(layer(sparse), layer(x))


def errors_count_ranks_as_processes_do(rank: int) -> None:
    """And not by their places in a group."""
    group = dist.new_group([1, 2])
    if rank > 0:
        layer = RowShardedLinear(IN, OUT, group, density=0.5)
        with pytest.raises(ValueError, match=r"\(2, 9\) in .* on rank 1 and shape \(3, 9\) in .* on rank 2\.$"):
            layer(torch.ones(1 + rank, IN))
        with pytest.raises(ValueError, match="other numbers on rank 2 than on rank 1"):
            RowShardedLinear(IN, OUT, group, density=0.5)(torch.full((2, IN), float(rank)))


def norms_are_of_all_ranks_before_the_first_pass() -> None:
    """Also of copies, and of Parameters that took the place of the first ones."""
    layer = RowShardedLinear(IN, OUT, density=0.5)
    assigned, moved = copy.deepcopy(layer), copy.deepcopy(layer).to(torch.float64)
    assigned.load_state_dict({key: each.clone() for key, each in layer.state_dict().items()}, assign=True)
    counts: list = [None] * dist.get_world_size()
    dist.all_gather_object(counts, sum(p.numel() for p in layer.parameters()))
    for each in (layer, copy.deepcopy(layer), assigned, moved):
        for p in each.parameters():
            p.grad = torch.ones_like(p)
        norm = st.optim.clip_grad_norm_(each.parameters(), 1e9)
        torch.testing.assert_close(float(norm), sum(counts) ** 0.5, rtol=1e-6, atol=0)


def refused_by_the_wrapper() -> None:
    """Also where ranks hold as many rows and edges, which no check of shapes tells apart, and after a pass."""
    equal_rows = RowShardedLinear(IN, 6, density=0.5)
    model, before = nn.Sequential(equal_rows, nn.Linear(6, 2)), equal_rows.own.values.detach().clone()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="copies, got RowShardedLinear '0', whose rows are spread"):
            DistributedDataParallel(model)
        assert equal_rows.own.values.equal(before)
        model(torch.ones(2, IN)).sum().backward()
    with pytest.raises(RuntimeError, match=r"RowShardedLinear '\(the model itself\)'"):
        DistributedDataParallel(RowShardedLinear(IN, OUT, density=0.5))


def test_alone_it_is_a_sparse_layer() -> None:
    layer = RowShardedLinear(IN, OUT, density=0.5)
    x = torch.randn(3, IN)
    assert layer(x).equal(layer.own(x))
    assert layer.own.out_features == OUT
