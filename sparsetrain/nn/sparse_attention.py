"""Attention whose projections are layers, which may be sparse."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..structure.topology import Topology
from .attention_heads import extended, heads_of, weighted
from .attention_masks import WHERE, merged_mask
from .attention_parts import PROJECTIONS, extras, join, split
from .masked import MaskedLinear
from .sparse_linear import SparseLinear


class SparseMultiheadAttention(nn.Module):
    r"""Multi-head attention, as nn.MultiheadAttention, with four separate projection layers, each sparse or dense.

    :math:`\mathrm{softmax}(Q K^T / \sqrt{d}) V` in each head, of queries, keys and values that ``q_proj``, ``k_proj``
    and ``v_proj`` compute, and ``out_proj`` of all heads together. Arguments, shapes and results are those of
    nn.MultiheadAttention. Without weights (``need_weights=False``) it runs torch's scaled_dot_product_attention.

    Args:
        embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first: as in
            nn.MultiheadAttention.
        density: of each projection, as in SparseLinear.
        generator, device, dtype: as in SparseLinear.

    Attributes:
        q_proj, k_proj, v_proj, out_proj: SparseLinear layers, or nn.Linear where convert.sparsify left one dense.
        bias_k, bias_v: a key and a value that are added to all others, ``(1, 1, embed_dim)``, or None.

    Raises:
        ValueError: embed_dim is no multiple of num_heads, or masks or lengths do not fit. TypeError: masks of integers.

    Source: Vaswani et al. (2017), Attention is all you need.

    Example:
        >>> layer = SparseMultiheadAttention(64, 4, batch_first=True, density=0.1)
        >>> x = torch.ones(2, 5, 64)
        >>> y, weights = layer(x, x, x)
        >>> y.shape, weights.shape, layer.q_proj.topology.nnz
        (torch.Size([2, 5, 64]), torch.Size([2, 5, 5]), 410)
    """

    # torch's transformer layers read these of their attention. They say that no fused kernel can take its weights.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    q_proj: Any
    k_proj: Any
    v_proj: Any
    out_proj: Any
    bias_k: Tensor | None
    bias_v: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        density: float,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        inputs = (embed_dim, kdim or embed_dim, vdim or embed_dim, embed_dim)
        options: dict[str, Any] = {"density": density, "generator": generator, "device": device, "dtype": dtype}
        projections = {
            name: SparseLinear(size, embed_dim, bias, **options) for name, size in zip(PROJECTIONS, inputs, strict=True)
        }
        self._make(embed_dim, num_heads, dropout, add_zero_attn, batch_first, projections)
        for name in ("bias_k", "bias_v"):
            added = torch.empty(1, 1, embed_dim, device=device, dtype=dtype) if add_bias_kv else None
            self.register_parameter(name, None if added is None else nn.Parameter(added))
        self.reset_parameters(generator)

    def _make(
        self, embed_dim: int, num_heads: int, dropout: float, add_zero_attn: bool, batch_first: bool,
        projections: Mapping[str, nn.Module],
    ) -> None:  # fmt: skip
        if num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                f"{WHERE}: expected embed_dim to be a multiple of num_heads, got {embed_dim} and {num_heads}."
            )
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.dropout, self.add_zero_attn, self.batch_first = dropout, add_zero_attn, batch_first
        for name in PROJECTIONS:
            self.add_module(name, projections[name])

    @property
    def kdim(self) -> int:
        """Size of keys."""
        return int(self.k_proj.in_features)

    @property
    def vdim(self) -> int:
        """Size of values."""
        return int(self.v_proj.in_features)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new projections as SparseLinear does, with zero biases as in nn.MultiheadAttention."""
        for name in PROJECTIONS:
            layer: Any = self.get_submodule(name)
            layer.reset_parameters(generator) if isinstance(layer, SparseLinear) else layer.reset_parameters()
            if layer.bias is not None:
                layer.bias.zero_()
        for added in (self.bias_k, self.bias_v):
            if added is not None:
                nn.init.xavier_normal_(added, generator=generator)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and, with ``need_weights``, the attention weights, as in nn.MultiheadAttention.

        Args:
            query, key, value: (batch, length, features) with ``batch_first``, (length, batch, features) without; or
                (length, features).
            key_padding_mask: (batch, S), true where a key is padding, or numbers that are added to the scores.
            need_weights: return the weights as well.
            attn_mask: (L, S) or (batch * heads, L, S), true where a query does not attend, or numbers to add.
            average_attn_weights: weights are the mean over heads.
            is_causal: attn_mask, which has to be given, is the causal one.
        """
        batched = query.dim() == 3
        if is_causal and attn_mask is None:
            raise ValueError(
                f"{WHERE}: expected attn_mask with is_causal=True, which only says that this is the causal one. Make "
                "it with nn.Transformer.generate_square_subsequent_mask."
            )
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask[None]
        q, k, v = heads_of(self, query, key, value)
        lengths = (q.shape[2], k.shape[2])
        k, v, added = extended(self, k, v)
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else merged_mask(attn_mask, key_padding_mask, q, lengths, added)
        rate = self.dropout if self.training else 0.0
        if need_weights:
            y, weights = weighted(q, k, v, mask, rate)
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            y, weights = scaled_dot_product_attention(q, k, v, mask, rate, causal), None
        y = y.transpose(1, 2) if self.batch_first or not batched else y.permute(2, 0, 1, 3)
        y = self.out_proj(y.flatten(-2))
        if batched:
            return y, weights
        return y[0], None if weights is None else weights[0]

    @classmethod
    def from_dense(cls, attention: nn.MultiheadAttention, masks: Mapping[str, Tensor | Topology] | None = None) -> Self:
        """Convert an nn.MultiheadAttention, keeping chosen edges of its projections.

        Args:
            attention: it is left as it is.
            masks: for ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj`` a topology or a matrix of zeros and ones;
                those that are missing keep the weights that are not zero.

        Raises:
            ValueError: a name is unknown, or a mask's shape does not fit.

        Example:
            >>> dense = nn.MultiheadAttention(8, 2)
            >>> SparseMultiheadAttention.from_dense(dense, {"q_proj": torch.eye(8)}).q_proj.topology.nnz
            8
        """
        masks = {} if masks is None else masks
        unknown = masks.keys() - set(PROJECTIONS)
        if unknown:
            raise ValueError(f"{WHERE}.from_dense: expected masks of {PROJECTIONS}, got one of {min(unknown)!r}.")
        more = extras(attention) | extras(attention.out_proj)
        if more:
            raise ValueError(
                f"{WHERE}.from_dense: expected weights that are Parameters, got an attention with "
                f"{', '.join(sorted(more))}. Remove that first."
            )
        parts = split(attention)
        layer = cls.of_parts(
            attention, {name: SparseLinear.from_dense(part, masks.get(name)) for name, part in parts.items()}
        )
        layer.bias_k, layer.bias_v = _copied(layer.bias_k), _copied(layer.bias_v)
        return layer

    @classmethod
    def of_parts(cls, attention: nn.MultiheadAttention, projections: Mapping[str, nn.Module]) -> Self:
        """The same attention with these projections, and its own ``bias_k`` and ``bias_v``."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._make(
            attention.embed_dim, attention.num_heads, attention.dropout, attention.add_zero_attn, attention.batch_first,
            projections,
        )  # fmt: skip
        for name in ("bias_k", "bias_v"):
            layer.register_parameter(name, getattr(attention, name))
        layer.training = attention.training
        return layer

    def to_dense(self) -> nn.MultiheadAttention:
        """The nn.MultiheadAttention that computes the same, with zeros where there is no edge.

        Its ``in_proj_weight`` asks for gradients where one of the three projections does.

        Example:
            >>> SparseMultiheadAttention(8, 2, density=0.5).to_dense().in_proj_weight.shape
            torch.Size([24, 8])
        """
        parts: Any = {name: self.get_submodule(name) for name in PROJECTIONS}
        linears = {
            name: part.to_dense() if isinstance(part, SparseLinear | MaskedLinear) else part
            for name, part in parts.items()
        }
        dense = nn.MultiheadAttention(
            self.embed_dim, self.num_heads, self.dropout, False, False, self.add_zero_attn, self.kdim, self.vdim,
            self.batch_first, device="meta",
        )  # fmt: skip
        join(dense, linears)
        dtype = dense.out_proj.weight.dtype
        dense.bias_k, dense.bias_v = _copied(self.bias_k, dtype), _copied(self.bias_v, dtype)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _copied(added: Tensor | None, dtype: torch.dtype | None = None) -> nn.Parameter | None:
    return None if added is None else nn.Parameter(added.detach().to(dtype, copy=True), added.requires_grad)
