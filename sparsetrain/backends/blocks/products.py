"""Products through dense blocks: a block of rows of W is written out with its zeros, multiplied by torch's dense
product, and forgotten. The gradient of the values is a dense product too, of which the stored positions are kept.
Values, gradients and optimizer state stay as small as the edges. Where each position has an edge, the values are the
matrix.

A zero that is not stored is multiplied here, as in nn.Linear: an infinity or NaN of the input reaches all outputs.
"""

import torch
from torch import Tensor

from ...dtypes import HALVES
from ...structure.topology import Topology
from ..dense_products import dense_product
from ..layout import empty_like_layout, is_feature_major, no_view, sum_over_batch
from ..numba.products import backward_plan
from ..plans_in_use import through_blocks
from .expand import expand, gather
from .precision import computed, without_autocast
from .scratch import block_bytes, row_blocks


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    return _spmm(t, values, x, bias, transpose, x)


def _spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool, like: Tensor) -> Tensor:
    """``W x + bias`` or ``Wᵀ x + bias``, in layout and dtype of ``like``."""
    t.check_untouched()
    with without_autocast(x):
        operand = computed(x)
        values, bias = values.detach(), None if bias is None else bias.detach()
        product = _transposed if transpose else _plain
        return no_view(product(t, values, operand, bias, like).to(like.dtype))


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    t.check_untouched()
    with without_autocast(a):
        a, b = computed(a), computed(b)
        if _is_full(t):
            return no_view(_outer(a, b).view(-1))
        grad = a.new_empty(t.nnz, dtype=torch.float64 if a.dtype is torch.float64 else torch.float32)
        for first, last in row_blocks(*t.shape, grad.itemsize, block_bytes(a.device)):
            gather(t, _outer(a[first:last], b), first, last, grad)
        return grad


def backward(t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    through_blocks(t, backward_plan)
    grad = sddmm(t, dy, x)
    dx = _spmm(t, values, dy, None, True, x)
    return grad, dx, sum_over_batch(dy.to(values.dtype)) if bias else None


def _plain(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """W x + bias: each block makes its rows of the result."""
    if _is_full(t):
        return _product(values.reshape(t.shape), x, bias, like)
    blocks = _blocks(t, x)
    parts = (
        _product(_expanded(t, values, first, last, x), x, None if bias is None else bias[first:last], like)
        for first, last in blocks
    )
    if len(blocks) == 1:
        return next(parts)
    y = empty_like_layout(like, t.shape[0], x.dtype)
    for (first, last), part in zip(blocks, parts, strict=True):
        y[first:last] = part
    return y


def _transposed(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """Wᵀ x + bias: the sum of what the blocks make of their rows of x."""
    if _is_full(t):
        return _product(values.reshape(t.shape).t(), x, bias, like)
    parts = (
        _product(_expanded(t, values, first, last, x).t(), x[first:last], None if first else bias, like)
        for first, last in _blocks(t, x)
    )
    y = next(parts)
    for part in parts:
        y.add_(part)
    return y


def _product(a: Tensor, x: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """a x + bias in the layout of ``like``, (features, batch)."""
    if is_feature_major(like):
        y = dense_product(a, x.t())
        return y if bias is None else y.add_(bias.to(y.dtype)[:, None])
    return dense_product(x.t(), a, None if bias is None else bias.to(a.dtype)).t()


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ, the samples summed in float32 at least, contiguous."""
    if a.dtype in HALVES:
        return torch.mm(a, b.t(), out_dtype=torch.float32)
    return dense_product(a, b).contiguous()


def _expanded(t: Topology, values: Tensor, first: int, last: int, x: Tensor) -> Tensor:
    block = x.new_empty(last - first, t.shape[1])
    expand(t, values, first, last, block)
    return block


def _blocks(t: Topology, x: Tensor) -> list[tuple[int, int]]:
    return row_blocks(*t.shape, x.itemsize, block_bytes(x.device))


def _is_full(t: Topology) -> bool:
    return t.nnz == t.numel
