"""Queries, keys and values of an attention, head by head, and their weighted sums."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from .attention_masks import WHERE


def heads_of(attention: Any, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Queries, keys and values, (batch, heads, length, E / heads) each."""
    tensors = {"query": query, "key": key, "value": value}
    for name, x in tensors.items():
        if x.is_nested or x.dim() not in (2, 3) or x.dim() != query.dim():
            got = "a nested tensor" if x.is_nested else f"{tuple(x.shape)} beside a query {tuple(query.shape)}"
            raise ValueError(f"{WHERE}: expected {name} of 3 dimensions, or all of 2 without a batch, got {got}.")
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"{WHERE}: expected a value for each key, got {tuple(value.shape)} for {tuple(key.shape)}.")
    heads = []
    for x, layer in zip(tensors.values(), (attention.q_proj, attention.k_proj, attention.v_proj), strict=True):
        y = layer(x).unflatten(-1, (attention.num_heads, attention.head_dim))
        y = y[None] if y.dim() == 3 else y if attention.batch_first else y.transpose(0, 1)
        heads.append(y.transpose(1, 2))
    if heads[0].shape[0] != heads[1].shape[0]:
        raise ValueError(
            f"{WHERE}: expected as many samples of keys as of queries, got {heads[1].shape[0]} for "
            f"{heads[0].shape[0]}. The batch is dimension {0 if attention.batch_first else 1}."
        )
    return heads


def extended(attention: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
    """Keys and values with those that are added, and how many these are."""
    count = k.shape[2]
    if attention.bias_k is not None and attention.bias_v is not None:
        k, v = (
            torch.cat([x, added.to(x.dtype).view(1, attention.num_heads, 1, -1).expand(len(x), -1, -1, -1)], dim=2)
            for x, added in ((k, attention.bias_k), (v, attention.bias_v))
        )
    if attention.add_zero_attn:
        k, v = (torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
    return k, v, k.shape[2] - count


def weighted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rate: float) -> tuple[Tensor, Tensor]:
    """What scaled_dot_product_attention computes, with its weights."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    weights = dropout((scores if mask is None else scores + mask).softmax(dim=-1), rate)
    return weights @ v, weights
