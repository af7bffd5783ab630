"""DistributedDataParallel and ZeroRedundancyOptimizer over our layers, in two processes, against one."""

import hashlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import RANKS, equal_everywhere, in_each
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st
from sparsetrain.nn import LookupTable, SparseConv2d, SparseDeltaLinear, SparseLinear, SparseMultiheadAttention

MADE_BY_CLASS = ("decoupled_weight_decay",)  # options that are no arguments of AdamW


def test_ranks_agree_and_train_as_one_process(tmp_path: Path) -> None:
    in_each(check_ranks, tmp_path)


def check_ranks(rank: int, _: Path) -> None:
    edges_of_rank_0(rank)
    constrained_layers_are_refused(rank)
    a_wrapper_of_former_layers_is_refused()
    second_derivatives_are_refused()
    sparse_gradients_are_waited_for()
    hooks_that_do_not_wait_are_refused()
    for k, (make, options) in enumerate(trainings()):
        trains_as_one_process(rank, make, alone_on=k % RANKS, **options)


def trainings() -> Iterator[tuple[Callable[[Any], Any], dict[str, Any]]]:
    """Every optimizer in every mode, and torch's."""
    for unused in ("frozen", "dense"):
        yield (
            partial(st.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, unused=unused),
            {"micro": 1 + (unused == "dense")},
        )
        yield partial(st.optim.RMSprop, lr=0.01, eps=1e-3, centered=True, momentum=0.5, unused=unused), {}
        yield partial(st.optim.Adagrad, lr=0.1, eps=1e-3, rowwise=unused == "frozen", unused=unused), {}
        yield partial(st.optim.Adam, lr=0.02, eps=1e-3, amsgrad=True, unused=unused), {}
        yield partial(st.optim.AdamW, lr=0.02, eps=1e-3, weight_decay=0.1, unused=unused), {}
    yield partial(zero, kind=st.optim.Adagrad, lr=0.1, eps=1e-3), {}
    yield partial(zero, kind=st.optim.SGD, lr=0.01, momentum=0.9, unused="dense"), {}
    yield partial(zero, kind=torch.optim.SGD, lr=0.01, momentum=0.9), {"sparse": False}
    yield partial(torch.optim.SGD, lr=0.01, momentum=0.9), {}
    yield partial(torch.optim.Adam, lr=0.02, eps=1e-3), {"sparse": False}


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


def second_derivatives_are_refused() -> None:
    """They are no backward passes, which are all that the wrapper averages."""
    layer = SparseLinear(8, 4, density=0.5)
    wrapped, x = DistributedDataParallel(layer), torch.ones(2, 8)
    before = layer.values.tolist()
    optimizer = st.optim.HessianFree(layer.parameters())
    for passes in (
        lambda: optimizer.step(lambda: wrapped(x), lambda y: y.square().mean()),
        lambda: st.curvature.ggn(wrapped, nn.functional.mse_loss, (x, torch.ones(2, 4))),
    ):
        with pytest.raises(RuntimeError, match=r"of the samples of rank . alone. Pass wrapped.module to curvature"):
            passes()
    assert layer.values.tolist() == before


def hooks_that_do_not_wait_are_refused() -> None:
    """At each pass: one that went on after the error would write into freed memory."""
    wrapped = DistributedDataParallel(nn.Sequential(LookupTable(5, 3), SparseLinear(3, 2, density=0.5)))
    wrapped._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="expected a communication hook that waits for row-sparse gradients"):
            wrapped(torch.tensor([1, 2]))
    dense = DistributedDataParallel(nn.Sequential(SparseLinear(3, 2, density=0.5)))
    dense._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
    dense(torch.ones(2, 3)).sum().backward()


def sparse_gradients_are_waited_for() -> None:
    """torch's way writes into freed memory while the backward pass computes on. A hook of the user's is left alone."""
    calls = []

    def hook(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        calls.append(bucket.buffer().is_sparse)
        dist.all_reduce(bucket.buffer())
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def all_reduce(tensor: Tensor, *args: Any, async_op: bool = False, **kwargs: Any) -> Any:
        waited.append((tensor.is_sparse, not async_op))
        return reduce(tensor, *args, async_op=async_op, **kwargs)

    reduce, waited = dist.all_reduce, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", all_reduce)
        for model in (
            nn.Sequential(LookupTable(4, 2), nn.Linear(2, 1)),
            SparseLinear(4, 2, sparse_grad=True, density=1.0),
        ):
            wrapped = DistributedDataParallel(model)
            x = torch.tensor([1, 2]) if isinstance(model, nn.Sequential) else torch.eye(4)[:2]
            for each in (wrapped, wrapped, pickle.loads(pickle.dumps(wrapped))):
                each(x).sum().backward()
    assert [each for each in waited if each[0]] == 6 * [(True, True)], waited
    wrapped = DistributedDataParallel(LookupTable(4, 2))
    wrapped.register_comm_hook(None, hook)
    wrapped(torch.tensor([1])).sum().backward()
    assert calls == [True]


def constrained_layers_are_refused(rank: int) -> None:
    torch.manual_seed(rank)
    layer = st.constrain.positive(SparseLinear(8, 4, density=0.5), edges=[0, 1], project=True)
    with pytest.raises(RuntimeError, match=r"layer '0': .* Rank 1 can't go on with the edges of rank 0"):
        DistributedDataParallel(nn.Sequential(layer))
    everywhere = st.constrain.positive(SparseLinear(8, 4, density=0.5), project=True)
    equal_everywhere(DistributedDataParallel(everywhere).module.edges().values.tolist())
    with pytest.raises(RuntimeError, match=r"layer '0' to be on rank 1 what it is on rank 0, .*\(4, 8\).*\(4, 9\)"):
        DistributedDataParallel(nn.Sequential(SparseLinear(8 + rank, 4, density=0.5)))


class Everything(nn.Module):
    """Each kind of layer with edges or rows; ``sparse=False`` is with gradients that torch's Adam takes."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        f64: Any = {"dtype": torch.float64}
        half: Any = {"density": 0.5, **f64}
        self.linear = SparseLinear(8, 6, **half)
        self.codes = SparseLinear(12, 6, sparse_grad=sparse, **half)
        self.delta = SparseDeltaLinear(nn.Linear(6, 6, **f64), st.patterns.uniform((6, 6), 0.4))
        graph = [("a", "f"), ("b", "f"), ("c", "g"), ("f", "y"), ("g", "y"), ("d", "z")]
        self.graph = st.convert.from_hierarchy(graph, inputs=list("abcd"), outputs=list("yz")).double()
        self.convolution = SparseConv2d(1, 2, 2, **half)
        self.attention = SparseMultiheadAttention(6, 2, batch_first=True, **half)
        tables = {"rows": {}, "columns": {"columns": True, "padding_idx": 1}}
        pools = {pool: {"pool": pool} for pool in ("sum", "mean", "max")}
        self.tables = nn.ModuleDict(
            {
                name: LookupTable(12, 6, **options, **f64) if sparse else nn.Embedding(12, 6, **f64)
                for name, options in (tables | pools).items()
            }
        )

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """A loss for each sample."""
        code = nn.functional.one_hot(ids[:, 0], 12).double()
        hidden = self.delta(torch.tanh(self.linear(x) + self.codes(code)))
        read = [table(ids) for table in self.tables.values()]
        rows = [y.permute(1, 2, 0) if y.shape[0] == 6 else y for y in read]
        hidden = hidden + sum(y.mean(1) if y.ndim == 3 else y for y in rows)
        attended = self.attention(hidden[:, None], rows[0] + hidden[:, None], rows[0], need_weights=False)[0][:, 0]
        graph = self.graph(attended[:, :4]).square().sum(1)
        image = self.convolution(x.view(-1, 1, 2, 4)).square().flatten(1).sum(1)
        return (hidden.square().sum(1) + attended.sum(1) + graph + image) / 10


def trains_as_one_process(
    rank: int, make: Callable[[Any], Any], sparse: bool = True, alone_on: int = 0, micro: int = 1, steps: int = 12
) -> None:
    """The mean loss of all samples, of which each rank has a part; some rows are read by one of the ranks, some by none.
    ``micro`` batches are added up before a step, all but the last under ``no_sync``."""
    model, alone = Everything(sparse), Everything(sparse)
    ddp = DistributedDataParallel(model)
    optimizer = make(model.parameters())
    inner = getattr(optimizer, "optim", optimizer)
    other = type(inner)(alone.parameters(), **{k: v for k, v in inner.defaults.items() if k not in MADE_BY_CLASS})
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        optimizer.zero_grad()
        other.zero_grad()
        for k in range(micro):
            x = torch.randn(2 * RANKS, 8, dtype=torch.float64, generator=generator)
            ids = torch.randint(0, 4, (2 * RANKS, 2), generator=generator) + 4 * (step % 3)
            with ddp.no_sync() if k < micro - 1 else nullcontext():
                (ddp(x.chunk(RANKS)[rank], ids.chunk(RANKS)[rank]).mean() / micro).backward()
            if rank == alone_on:
                (alone(x, ids).mean() / micro).backward()
        optimizer.step()
        if rank == alone_on:
            other.step()
        if sparse and step == 0:
            assert all(p.grad.is_sparse for p in (model.codes.values, *model.tables.parameters()))
    states = model.state_dict(), alone.state_dict()
    bits = {key: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for key, tensor in states[0].items()}
    equal_everywhere(bits)
    for key, tensor in states[0].items() if rank == alone_on else ():
        torch.testing.assert_close(tensor, states[1][key], rtol=1e-10, atol=1e-11, msg=f"{key}, {inner!r}")
