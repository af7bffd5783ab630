"""Tensors that are sent to a process are moved to shared memory where they are, and their old memory is freed: a layer that
has run computes on, and so does its copy."""

import gc
import weakref
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import sparsetrain as st
from sparsetrain.ops import library
from sparsetrain.structure import living


def step(layer: torch.nn.Module, x: Tensor) -> list[Tensor]:
    """Output and gradients."""
    layer.zero_grad()
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    y.sum().backward()
    assert leaf.grad is not None
    return [y.detach(), leaf.grad, *(p.grad.to_dense().clone() for p in layer.parameters() if p.grad is not None)]


def overwritten(size: int) -> list[Any]:
    """Memory that was freed, filled with indices that are out of range."""
    return [np.full(n, 10**6, np.int32) for n in (size, size // 2, 401, 2001) for _ in range(30)]


@pytest.mark.parametrize("sparse_grad", [False, True])
@pytest.mark.parametrize("move", ["ForkingPickler", "share_memory_", "topology"])
@pytest.mark.parametrize("size", [70, 400])
def test_a_layer_that_has_run_computes_on(size: int, move: str, sparse_grad: bool) -> None:
    layer = st.nn.SparseLinear(size, size, density=0.2, sparse_grad=sparse_grad)
    x = torch.randn(8, size)
    before = step(layer, x)
    layer.zero_grad()  # torch shares no sparse tensors
    place = layer.topology.col.data_ptr()
    if move == "share_memory_":
        layer.share_memory()
        for index in (layer.topology.crow, layer.topology.col, *layer.topology.transposed):
            index.share_memory_()
    elif move == "topology":
        sent = [ForkingPickler.dumps(layer.topology), ForkingPickler.dumps(layer.topology.transpose())]
    else:
        sent = [ForkingPickler.dumps(layer)]
    assert layer.topology.col.data_ptr() != place, "nothing was moved"
    junk = overwritten(layer.topology.nnz)
    for one, other in zip(before, step(layer, x), strict=True):
        assert torch.equal(one, other)
    del junk, move
    assert "sent" not in locals() or sent


def test_a_gradient_does_not_depend_on_ids_that_are_sent_away() -> None:
    table = st.nn.LookupTable(50, 4, pool="sum")
    ids = torch.arange(5, 45)
    table(ids, offsets=torch.tensor([0, 10, 20])).sum().backward()
    sent = ForkingPickler.dumps(ids)
    junk = overwritten(80)
    assert table.weight.grad is not None
    assert table.weight.grad.coalesce().indices()[0].tolist() == list(range(5, 45))
    assert sent
    assert junk


def test_a_topology_is_found_again_where_it_was_moved_to() -> None:
    t = st.patterns.uniform((6, 5), 0.6, torch.Generator().manual_seed(0))
    place = t.crow.data_ptr(), t.col.data_ptr(), t.shape
    sent = ForkingPickler.dumps(t)
    assert library.topology_of(t.crow, t.col, 5) is t
    other = st.patterns.uniform((6, 5), 0.3, torch.Generator().manual_seed(1))
    living._living[place] = t  # as long as nobody asked, it is still known by its old place
    living._living[other.crow.data_ptr(), other.col.data_ptr(), t.shape] = t  # where another is by now
    assert st.Topology.living(other.crow, other.col, t.shape) is not t
    assert sent


class Computed(Dataset[Tensor]):
    """Samples that a layer computes, in whatever process."""

    def __init__(self, layer: torch.nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def __len__(self) -> int:
        return len(self.x)

    @torch.no_grad()
    def __getitem__(self, place: int) -> Tensor:
        y: Tensor = self.layer(self.x[place : place + 1])[0]
        return y


def test_a_loader_whose_workers_are_spawned() -> None:
    layer = st.nn.SparseLinear(70, 70, density=0.2)
    x = torch.randn(4, 70)
    before = layer(x).detach()
    loader = DataLoader(Computed(layer, x), batch_size=2, num_workers=1, multiprocessing_context="spawn")
    got = torch.cat(list(loader))
    torch.testing.assert_close(got, before, rtol=1e-5, atol=1e-5)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("what", ["layer", "table"])
def test_storages_of_the_caller_can_be_resized(what: str) -> None:
    """As FSDP does to parameters, inputs and outputs."""
    x = torch.randn(16, 70, requires_grad=True) if what == "layer" else torch.randint(40, (16,))
    module = st.nn.SparseLinear(70, 70, density=0.2) if what == "layer" else st.nn.LookupTable(40, 8)
    optimizer = st.optim.AdamW(module.parameters())
    y = module(x)
    dy = torch.randn(y.shape)
    y.backward(dy)
    optimizer.step()
    state = [s for p in module.parameters() for s in optimizer.state[p].values() if isinstance(s, Tensor) and s.ndim]
    tensors = [x, y, dy, x.grad, *module.parameters(), *(p.grad for p in module.parameters()), *state]
    if isinstance(module, st.nn.SparseLinear):
        tensors += [module.topology.crow, module.topology.col]
        _ = module.topology.digest
    for tensor in tensors:
        if tensor is not None and not tensor.is_sparse:
            assert tensor.untyped_storage().resizable()
            tensor.untyped_storage().resize_(0)


def test_storages_of_saved_models_can_be_resized(tmp_path: Path) -> None:
    model = st.convert.train_edges(nn.Sequential(nn.Linear(6, 4)), 0.2)
    st.io.save_edges(tmp_path / "edges", model)
    st.io.save(tmp_path / "model", model)
    for each in (*model.parameters(), model[0].linear.weight):  # type: ignore[index, union-attr]
        assert each.untyped_storage().resizable()


def test_a_tensor_whose_storage_was_freed_is_refused() -> None:
    layer = st.nn.SparseLinear(70, 70, bias=False, density=0.2)
    layer.values.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="storage is empty"):
        layer(torch.randn(16, 70))


def test_a_dropped_topology_is_freed_by_counting_references() -> None:
    gc.collect()
    gc.disable()
    try:
        layer = st.nn.SparseLinear(70, 70, density=0.2, sparse_grad=True)
        step(layer, torch.randn(16, 70))
        t = layer.topology
        _ = t.digest, t.transpose(), t.to("cpu"), t.to("meta"), t.to("meta").to("cpu")
        loaded = t.crow.clone(), t.col.clone()
        library.topology_of(*loaded, 70)
        known = st.Topology.living(*loaded, (70, 70))
        assert known is not None
        alive = [weakref.ref(t), weakref.ref(known)]
        del layer, t, loaded, known, _
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()
