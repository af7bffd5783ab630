"""Masks of attention, as nn.MultiheadAttention takes them, made one that is added to the scores."""

import torch
from torch import Tensor
from torch.nn.functional import pad

WHERE = "SparseMultiheadAttention"


def merged_mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor, lengths: tuple[int, int], added: int
) -> Tensor | None:
    """What is added to scores of shape (batch, heads, L, S), or None where nothing is masked.

    Args:
        attn_mask: (L, S) or (batch * heads, L, S).
        key_padding_mask: (batch, S).
        like: queries, (batch, heads, L, E / heads).
        lengths: L and S.
        added: keys at the end that nothing masks.
    """
    batch, heads = like.shape[:2]
    parts = []
    if attn_mask is not None:
        shape = (batch * heads, *lengths) if attn_mask.dim() == 3 else lengths
        _check_shape("attn_mask", attn_mask, shape, " or (batch * heads, L, S)" if attn_mask.dim() != 3 else "")
        part = _additive("attn_mask", attn_mask, like)
        parts.append(part.view(batch, heads, *lengths) if part.dim() == 3 else part[None, None])
    if key_padding_mask is not None:
        _check_shape("key_padding_mask", key_padding_mask, (batch, lengths[1]), "")
        parts.append(_additive("key_padding_mask", key_padding_mask, like)[:, None, None])
    if not parts:
        return None
    merged = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return pad(merged, (0, added)) if added else merged


def _check_shape(name: str, mask: Tensor, shape: tuple[int, ...], otherwise: str) -> None:
    if tuple(mask.shape) != shape:
        raise ValueError(f"{WHERE}: expected {name} of shape {shape}{otherwise}, got {tuple(mask.shape)}.")


def _additive(name: str, mask: Tensor, like: Tensor) -> Tensor:
    """Minus infinity where a boolean mask is true; numbers as they are."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)
    if not mask.is_floating_point():
        raise TypeError(
            f"{WHERE}: expected {name} of booleans (true: do not attend) or of floats (added to the scores), got "
            f"{mask.dtype}."
        )
    return mask.to(like.dtype)
