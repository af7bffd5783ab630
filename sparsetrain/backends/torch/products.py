"""The backend of a GPU, and of any device by request: torch.sparse on CSR.

torch.sparse.mm and sampled_addmm are called without autograd on tensors made for the call: torch's own gradients of
a sparse operand turn dense in some forms (``csr @ x``, addmm, F.linear), and copy the structure in the others.
"""

import warnings

import torch
from torch import Tensor

from ...structure.topology import Topology
from ..layout import empty_like_layout, in_layout_of, sum_over_batch


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    values, x = values.detach(), x.detach()
    if transpose:
        crow_t, col_t, perm = t.transposed
        matrix = _csr(crow_t, col_t, values[perm], (t.shape[1], t.shape[0]))
    else:
        matrix = _csr(t.crow, t.col, values, t.shape)
    if 0 in matrix.shape or x.shape[1] == 0 or t.nnz == 0:
        y = empty_like_layout(x, matrix.shape[0]).zero_()
    else:
        y = in_layout_of(x, torch.sparse.mm(matrix, x))
    return y if bias is None else y.add_(bias.detach()[:, None])


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    if t.nnz == 0 or a.shape[1] == 0:
        return a.new_zeros(t.nnz)
    pattern = _csr(t.crow, t.col, a.new_zeros(t.nnz), t.shape)
    sampled: Tensor = torch.sparse.sampled_addmm(pattern, a.detach(), b.detach().t(), beta=0.0)
    return sampled.values()


def backward(t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    return sddmm(t, dy, x), spmm(t, values, dy, None, transpose=True), sum_over_batch(dy) if bias else None


def _csr(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)
