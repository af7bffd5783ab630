"""FSDP2 and torch.distributed.checkpoint over sparse layers, in two processes, against one."""

import copy
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import equal_everywhere, in_each
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import (
    EdgeModule,
    LookupTable,
    SparseConv1d,
    SparseConv2d,
    SparseDeltaLinear,
    SparseLinear,
    SparseMultiheadAttention,
)


def test_sharded_layers_train_save_and_load(tmp_path: Path) -> None:
    in_each(check_sharded, tmp_path)


def check_sharded(rank: int, folder: Path) -> None:
    for make in (partial(torch.optim.Adam, eps=1e-3), torch.optim.SGD, *OURS):
        trains_as_one_process(rank, make)
    in_half_precision(rank)
    outputs_are_changed_in_place(rank)
    tied_layers_and_hierarchies_return_no_view(rank)
    a_subclass_returns_more_than_a_tensor()
    as_in_the_guide()
    saved_on_two_loads_on_any_number(rank, folder)
    states_of_whole_models(rank)
    what_needs_whole_values_is_refused(rank, folder)
    other_edges_are_refused(rank)


# with an eps below which gradients do not count: of those that are rounding alone Adam makes whole steps
OURS: list[Callable[..., Any]] = [
    partial(st.optim.SGD, momentum=0.9, l1=0.001),
    partial(st.optim.RMSprop, eps=1e-3),
    partial(st.optim.Adagrad, eps=1e-3),
    partial(st.optim.Adam, eps=1e-3, l1=0.001),
    partial(st.optim.AdamW, eps=1e-3, unused="dense"),
]


class Everything(nn.Module):
    """Each kind of layer over edges, with a tied and a constrained one; tables are none of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = SparseLinear(8, 6, density=0.5)
        self.tied = self.linear.transposed()
        self.positive = st.constrain.positive(SparseLinear(8, 6, density=0.5), project=True)
        self.delta = SparseDeltaLinear(nn.Linear(6, 6), st.patterns.uniform((6, 6), 0.4))
        graph = [("a", "f"), ("b", "f"), ("c", "g"), ("f", "y"), ("g", "y"), ("d", "z")]
        self.graph = st.convert.from_hierarchy(graph, inputs=list("abcd"), outputs=list("yz"))
        self.convolution = SparseConv2d(1, 2, 2, density=0.5)
        self.attention = SparseMultiheadAttention(6, 2, batch_first=True, density=0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.positive(torch.tanh(self.tied(self.linear(x))))
        hidden = self.delta(hidden)[:, None]
        hidden = (hidden + self.attention(hidden, hidden, hidden, need_weights=False)[0])[:, 0]
        image = self.convolution(x.view(-1, 1, 2, 4)).flatten(1)
        return torch.cat([self.graph(hidden[:, :4]), image, hidden], 1)


def sharded(model: nn.Module, **options: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for layer in (model[0],) if isinstance(model, nn.Sequential) else (model.delta, model.convolution, model.attention):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    return model


def whole(model: nn.Module) -> dict[str, Any]:
    from torch.distributed.checkpoint import state_dict as states

    options = states.StateDictOptions(full_state_dict=True)
    state: dict[str, Any] = states.get_model_state_dict(model, options=options)
    return state


def trains_as_one_process(rank: int, make: Callable[..., Any]) -> None:
    alone, model = Everything(), sharded(Everything())
    optimizers = make(alone.parameters(), lr=0.01), make(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        x = torch.randn(4, 8, generator=generator)
        for module, optimizer, part in zip((alone, model), optimizers, (x, x.chunk(2)[rank]), strict=True):
            optimizer.zero_grad()
            module(part).square().mean().backward()
            optimizer.step()
    full = whole(model)
    for key, tensor in alone.state_dict().items():
        torch.testing.assert_close(full[key], tensor, rtol=1e-4, atol=2e-6, msg=f"{key}, {make}")


def outputs_are_changed_in_place(rank: int) -> None:
    """As nn.ReLU(inplace=True) does; of a view torch warns, and the backward pass finds no values."""
    from torch.distributed.fsdp import fully_shard

    for make in (
        lambda: SparseLinear(8, 6, density=0.5),
        lambda: SparseLinear(8, 6, density=1.0),
        lambda: SparseDeltaLinear(nn.Linear(8, 6), st.patterns.uniform((6, 8), 0.4)),
        lambda: nn.Sequential(nn.Unflatten(1, (1, 8)), SparseConv1d(1, 6, 8, density=0.5)),
    ):
        torch.manual_seed(0)
        alone = nn.Sequential(make(), nn.ReLU(inplace=True))
        model = copy.deepcopy(alone)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for layer in model.modules():
                if isinstance(layer, EdgeModule):
                    fully_shard(layer)
            x = torch.randn(4, 8)
            model(x.chunk(2)[rank]).square().sum().backward()
        alone(x).square().sum().backward()
        for ours, its in zip(model.parameters(), alone.parameters(), strict=True):
            if its.grad is not None:
                torch.testing.assert_close(2 * ours.grad.full_tensor(), its.grad)


def tied_layers_and_hierarchies_return_no_view(rank: int) -> None:
    """Of which torch warns. The values of a tied layer are those of another, and a hierarchy takes columns of its last."""
    from torch.distributed.fsdp import fully_shard

    def tied() -> nn.Module:
        layer = SparseLinear(4, 6, density=0.5)
        return nn.Sequential(layer, layer.transposed())

    for make in (tied, lambda: st.convert.from_hierarchy([(a, b) for a in "pqrs" for b in "yz"])):
        torch.manual_seed(0)
        alone = make()
        model = copy.deepcopy(alone)
        x = torch.randn(4, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fully_shard(model)
            model(x.chunk(2)[rank]).relu_().square().sum().backward()
        alone(x).relu_().square().sum().backward()
        for ours, its in zip(model.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(2 * ours.grad.full_tensor(), its.grad)


class Both(SparseLinear):
    """What it computes, and how many edges did."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), self.topology.nnz


def a_subclass_returns_more_than_a_tensor() -> None:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    layer = Both(8, 6, density=0.5)
    fully_shard(layer)
    y, edges = layer(torch.ones(4, 8))
    y.sum().backward()
    assert edges == 24
    assert layer.values.grad is not None


def in_half_precision(rank: int) -> None:
    """What FSDP gathers is rounded; products, gradients and their mean are those of the rounded parameters."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    for dtype in (torch.bfloat16, torch.float16):
        alone = Everything()
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        model = sharded(Everything(), mp_policy=policy)
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
        y = model(x.chunk(2)[rank])
        assert y.dtype is dtype
        y.float().square().mean().backward()
        parameters = dict(alone.named_parameters())
        rounded = {name: p.to(dtype) for name, p in parameters.items()}
        ys = [torch.func.functional_call(alone, rounded, part.to(dtype), strict=False) for part in x.chunk(2)]
        torch.testing.assert_close(y, ys[rank], rtol=0, atol=0)
        torch.stack([each.float().square().mean() for each in ys]).mean().backward()
        for name, p in model.named_parameters():
            assert p.dtype is torch.float32
            if p.grad is not None:
                expected = parameters[name].grad
                assert expected is not None
                # there ranks are added after each has been rounded, here before
                step = float(torch.finfo(dtype).eps)
                torch.testing.assert_close(p.grad.full_tensor(), expected, rtol=2 * step, atol=step / 8)


def as_in_the_guide() -> None:
    page = Path(__file__).parent.parent / "docs" / "guide" / "several-processes.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"model": small(dist.get_rank()), "st": st, "torch": torch}
    exec(next(block for block in blocks if "fully_shard(model" in block), names)
    stepped(names["model"], names["optimizer"])


def small(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(SparseLinear(8, 6, density=0.5), nn.ReLU(), nn.Linear(6, 2))


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(4, 8)).square().mean().backward()
    optimizer.step()


def saved_on_two_loads_on_any_number(rank: int, folder: Path) -> None:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as states

    def written(model: nn.Module, optimizer: Any, name: str, **options: Any) -> None:
        state, of_optimizer = states.get_state_dict(model, optimizer)
        dcp.save({"model": state, "optimizer": of_optimizer}, checkpoint_id=folder / name, **options)

    def read(model: nn.Module, optimizer: Any, name: str, **options: Any) -> None:
        state, of_optimizer = states.get_state_dict(model, optimizer)
        into = {"model": state, "optimizer": of_optimizer}
        dcp.load(into, checkpoint_id=folder / name, **options)
        states.set_state_dict(model, optimizer, model_state_dict=into["model"], optim_state_dict=into["optimizer"])

    for make in (torch.optim.Adam, st.optim.Adam):
        on = f"{make.__module__}-"
        model = sharded(small(0))
        optimizer = make(model.parameters(), lr=0.05)
        stepped(model, optimizer)
        written(model, optimizer, on + "two")
        full, again = whole(model), sharded(small(0))
        resumed = make(again.parameters(), lr=0.05)
        read(again, resumed, on + "two")
        torch.testing.assert_close(whole(again), full, rtol=0, atol=0)
        if rank == 0:  # as a process of its own
            alone = small(0)
            its_own = make(alone.parameters(), lr=0.05)
            read(alone, its_own, on + "two", no_dist=True)
            torch.testing.assert_close(dict(alone.state_dict()), full, rtol=0, atol=0)
            stepped(alone, its_own)
            written(alone, its_own, on + "one", no_dist=True)
        dist.barrier()
        back = sharded(small(0))
        gone_on = make(back.parameters(), lr=0.05)
        read(back, gone_on, on + "one")
        stepped(model, optimizer)
        for one, other in ((back, gone_on), (again, resumed)):
            if one is again:
                stepped(one, other)
            torch.testing.assert_close(whole(one), whole(model), rtol=1e-6, atol=1e-7)
        stepped(model, optimizer)
        stepped(back, gone_on)
        torch.testing.assert_close(whole(back), whole(model), rtol=1e-6, atol=1e-7)


def states_of_whole_models(rank: int) -> None:
    from torch.distributed.checkpoint import state_dict as states

    full, model = dict(small(0).state_dict()), sharded(small(0))
    options = states.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    states.set_model_state_dict(model, dict(full) if rank == 0 else {}, options=options)
    torch.testing.assert_close(whole(model), full, rtol=0, atol=0)
    equal_everywhere(model[0].topology.digest)
    options = states.StateDictOptions(full_state_dict=True)
    with pytest.raises(RuntimeError, match="expected the same 24 edges, the checkpoint has other edges"):
        states.set_model_state_dict(sharded(small(1)), dict(full), options=options)
    st.io.adopt(small(1), full)
    # a state of shards, as each rank has it, is one for as many ranks
    with pytest.raises(RuntimeError, match=r"SparseLinear 0: expected values that are .*, 1, the checkpoint .* over 2"):
        small(0).load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match=r"SparseLinear 0: expected values that are .*, 2, the checkpoint .* over 1"):
        model.load_state_dict(full)
    torch.testing.assert_close(whole(model), full, rtol=0, atol=0)


def what_needs_whole_values_is_refused(rank: int, folder: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    model = sharded(small(0))
    before = whole(model)
    rowwise = st.optim.Adagrad(model.parameters(), rowwise=True)
    with pytest.raises(TypeError, match=r"parameter 0 of group 0 to be a whole tensor, .* got a DTensor"):
        stepped(model, rowwise)
    free = st.optim.HessianFree(model.parameters())
    with pytest.raises(TypeError, match=r"HessianFree.step: expected whole parameters, got DTensors"):
        free.step(lambda: model(torch.ones(4, 8)), lambda y: y.square().mean())
    schedule = st.evolve.Constant(interval=1, prune_fraction=0.3)
    with pytest.raises(ValueError, match="Evolver: expected whole values in layer '0', they are sharded"):
        st.evolve.Evolver(model, torch.optim.SGD(model.parameters()), st.evolve.SET(), schedule)
    later = small(0)
    evolver = st.evolve.Evolver(later, torch.optim.SGD(later.parameters()), st.evolve.SET(), schedule)
    sharded(later)
    with pytest.raises(ValueError, match=r"Evolver.step: expected whole values in layer '0'"):
        evolver.step()
    with pytest.raises(TypeError, match=r"io.save: expected whole tensors, got 0.values sharded over 2 ranks"):
        st.io.save(folder / f"{rank}.st", model)
    with pytest.raises(NotImplementedError, match=r"SparseLinear: fully_shard can't reduce .* Set layer.sparse_grad"):
        fully_shard(SparseLinear(8, 6, density=0.5, sparse_grad=True))
    table = nn.Sequential(LookupTable(10, 4), nn.Linear(4, 2))
    with pytest.raises(NotImplementedError, match=r"LookupTable: fully_shard can't reduce .* ignored_params"):
        fully_shard(table)
    model[0].topology = st.patterns.uniform((6, 8), 0.5, torch.Generator().manual_seed(rank))
    with pytest.raises(RuntimeError, match=r"layer '0': the values are sharded over ranks. Call it before fully_shard"):
        st.distributed.sync_topology(model)
    model[0].topology = small(0)[0].topology
    torch.testing.assert_close(whole(model), before, rtol=0, atol=0)


def other_edges_are_refused(rank: int) -> None:
    from torch.distributed.fsdp import fully_shard

    dist.barrier()
    torch.manual_seed(rank)
    model = SparseLinear(8, 6, density=0.5)
    with pytest.raises(
        RuntimeError,
        match=r"expected the edges of a SparseLinear to be the same on all ranks .* on rank 1 .*sync_topology",
    ):
        fully_shard(copy.deepcopy(model))
    st.distributed.sync_topology(model)
    sharded_one = fully_shard(model)
    sharded_one(torch.ones(4, 8)).sum().backward()
