"""Lookups beside a row of padding as operators of graphs: their gradients name the other rows alone, and how many these
are is not known when a graph is compiled. torch's own operators are compiled for one number of ids."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .lookup import gradient_of_lookup, gradient_of_pool

_library = torch.library.Library("sparsetrain", "FRAGMENT")
for _schema in (
    "lookup(Tensor ids, Tensor weight, int padding_idx) -> Tensor",
    "lookup_gradient(Tensor ids, Tensor dy, SymInt rows, int padding_idx) -> Tensor",  # sparse, as the next but one
    "pooled(Tensor ids, Tensor weight, Tensor offsets, str pool, int padding_idx) -> Tensor",
    "pooled_gradient(Tensor ids, Tensor dy, Tensor offsets, SymInt rows, str pool, int padding_idx) -> Tensor",
):
    _library.define(_schema)
_ops = torch.ops.sparsetrain


def lookup(ids: Tensor, weight: Tensor, padding_idx: int) -> Tensor:
    """weight[ids], (k, dim), in a graph."""
    return _ops.lookup(ids, weight, padding_idx)  # type: ignore[no-any-return]


def pooled_lookup(ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int) -> Tensor:
    """The sum or mean of weight[ids] of each bag, (bags, dim), in a graph."""
    return _ops.pooled(ids, weight, offsets, pool, padding_idx)  # type: ignore[no-any-return]


@torch.library.impl(_library, "lookup", "CompositeExplicitAutograd")
def _lookup(ids: Tensor, weight: Tensor, padding_idx: int) -> Tensor:
    return functional.embedding(ids, weight)


@torch.library.impl(_library, "lookup_gradient", "CompositeExplicitAutograd")
def _lookup_gradient(ids: Tensor, dy: Tensor, rows: int, padding_idx: int) -> Tensor:
    return gradient_of_lookup(ids, dy, torch.Size([rows, dy.shape[1]]), padding_idx)


@torch.library.impl(_library, "pooled", "CompositeExplicitAutograd")
def _pooled(ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int) -> Tensor:
    return functional.embedding_bag(ids, weight, offsets, mode=pool, padding_idx=padding_idx)


@torch.library.impl(_library, "pooled_gradient", "CompositeExplicitAutograd")
def _pooled_gradient(ids: Tensor, dy: Tensor, offsets: Tensor, rows: int, pool: str, padding_idx: int) -> Tensor:
    return gradient_of_pool(ids, dy, offsets, torch.Size([rows, dy.shape[1]]), pool, padding_idx)


@torch.library.register_fake("sparsetrain::lookup", lib=_library)
def _fake_lookup(ids: Tensor, weight: Tensor, padding_idx: int) -> Tensor:
    return weight.new_empty(ids.shape[0], weight.shape[1])


@torch.library.register_fake("sparsetrain::pooled", lib=_library)
def _fake_pooled(ids: Tensor, weight: Tensor, offsets: Tensor, pool: str, padding_idx: int) -> Tensor:
    return weight.new_empty(offsets.shape[0], weight.shape[1])


def _fake_gradient(ids: Tensor, dy: Tensor, rows: int) -> Tensor:
    """With as many entries as there are ids, at most: graphs depend on shapes alone."""
    indices, values = ids.new_empty((1, ids.shape[0]), dtype=torch.int64), dy.new_empty(ids.shape[0], dy.shape[1])
    return torch.sparse_coo_tensor(indices, values, (rows, dy.shape[1]), check_invariants=False)


@torch.library.register_fake("sparsetrain::lookup_gradient", lib=_library)
def _fake_lookup_gradient(ids: Tensor, dy: Tensor, rows: int, padding_idx: int) -> Tensor:
    return _fake_gradient(ids, dy, rows)


@torch.library.register_fake("sparsetrain::pooled_gradient", lib=_library)
def _fake_pooled_gradient(ids: Tensor, dy: Tensor, offsets: Tensor, rows: int, pool: str, padding_idx: int) -> Tensor:
    return _fake_gradient(ids, dy, rows)


def _keep_lookup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, weight, ctx.padding_idx = inputs
    ctx.rows = weight.shape[0]
    ctx.save_for_backward(ids)


def _gradient_of_lookup(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (ids,) = ctx.saved_tensors
    return None, _ops.lookup_gradient(ids, dy, ctx.rows, ctx.padding_idx), None


def _keep_pooled(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ids, weight, offsets, ctx.pool, ctx.padding_idx = inputs
    ctx.rows = weight.shape[0]
    ctx.save_for_backward(ids, offsets)


def _gradient_of_pooled(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    ids, offsets = ctx.saved_tensors
    return None, _ops.pooled_gradient(ids, dy, offsets, ctx.rows, ctx.pool, ctx.padding_idx), None, None, None


torch.library.register_autograd("sparsetrain::lookup", _gradient_of_lookup, setup_context=_keep_lookup, lib=_library)
torch.library.register_autograd("sparsetrain::pooled", _gradient_of_pooled, setup_context=_keep_pooled, lib=_library)
