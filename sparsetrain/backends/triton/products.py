"""The backend of CUDA for densities below about one percent: Triton's kernels on CSR, which give the same bits in each
run. Operands are read by features: those whose samples do not lie side by side are copied before, and results after."""

from typing import Any

from torch import Tensor

from ...dtypes import wide
from ...structure.topology import Topology
from ..layout import in_layout_of, is_feature_major, no_view


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    return no_view(in_layout_of(x, _spmm(t, values, _by_features(x), bias, transpose)))


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    out = a.new_empty(t.nnz, dtype=wide(a.dtype))
    _kernels().sddmm(t.crow, t.col, _by_features(a), _by_features(b), out)
    return out


def backward(t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    dy_by_features = _by_features(dy)
    dx = in_layout_of(x, _spmm(t, values, dy_by_features, None, transpose=True))
    bias_grad = dy_by_features.sum(1, dtype=wide(dy.dtype)) if bias else None
    return sddmm(t, dy_by_features, x), dx, bias_grad


def _spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    y = x.new_empty(t.shape[1] if transpose else t.shape[0], x.shape[1])
    crow, col, perm = t.transposed if transpose else (t.crow, t.col, None)
    bias = None if bias is None else bias.detach().contiguous()
    _kernels().spmm(crow, col, values.detach().contiguous(), x, y, bias, perm)
    return y


def _by_features(x: Tensor) -> Tensor:
    x = x.detach()
    return x if is_feature_major(x) else x.contiguous()


def _kernels() -> Any:
    import sparsetrain_triton

    return sparsetrain_triton
