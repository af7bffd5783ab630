"""The backend of a GPU, and of any device by request: torch.sparse on CSR.

addmm and sampled_addmm are called without autograd on tensors made for the call: torch's own gradients of a sparse
operand turn dense in some forms (``csr @ x``, addmm, F.linear), and copy the structure in the others.

Activations in half precision are widened around a product. cuSPARSE takes them beside values in half precision alone,
which would round the float32 values, and its sampled product takes no half precision at all.
"""

import warnings

import torch
from torch import Tensor

from ...dtypes import widened
from ...structure.index_types import widened as wide_index
from ...structure.topology import Topology
from ..layout import empty_like_layout, no_view, sum_over_batch


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    return _product(t, values, x, bias, transpose, x)


def _product(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool, like: Tensor) -> Tensor:
    """``W x + bias`` or ``Wᵀ x + bias``, in the layout of ``like``."""
    check_reproducible(x.device)
    values, dense = values.detach(), widened(x.detach())
    if transpose:
        crow_t, col_t, perm = t.transposed
        matrix = _csr(crow_t, wide_index(col_t), values.index_select(0, perm), (t.shape[1], t.shape[0]))
    else:
        matrix = _csr(t.crow, t.col, values, t.shape)
    # added to the bias, and in this layout: the result of torch.sparse.mm is feature-major, to be transposed after
    y = empty_like_layout(like, matrix.shape[0], dense.dtype)
    y = y.zero_() if bias is None else y.copy_(bias.detach()[:, None])
    if 0 not in y.shape and t.nnz:  # CUDA ignored beta where operands are empty
        torch.addmm(y, matrix, dense, out=y)
    return y.to(x.dtype)


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    a, b = widened(a.detach()), widened(b.detach())
    if t.nnz == 0 or a.shape[1] == 0:
        return a.new_zeros(t.nnz)
    pattern = _csr(t.crow, t.col, a.new_zeros(t.nnz), t.shape)
    # a result of its own would have a copy of the structure in int64
    sampled: Tensor = torch.sparse.sampled_addmm(pattern, a, b.t(), beta=0.0, out=pattern)
    return no_view(sampled.values())


def backward(t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    dx = _product(t, values, dy, None, True, x)
    return sddmm(t, dy, x), dx, sum_over_batch(widened(dy)) if bias else None


def check_reproducible(device: torch.device) -> None:
    """What torch does where an operation has no deterministic form, under its own setting. cuSPARSE's product of CSR
    adds in an order that varies (CUSPARSE_SPMM_CSR_ALG2, and torch can select no other), which torch neither fixes
    nor refuses; its sampled product is reproducible.

    Raises:
        RuntimeError: on CUDA under ``torch.use_deterministic_algorithms(True)``; a warning with ``warn_only``.
    """
    if device.type != "cuda" or not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        'The "torch" backend has no deterministic product on CUDA, and torch.use_deterministic_algorithms(True) is '
        "set. Compute with another backend (sparsetrain.ops.use_backend), or set it with warn_only=True."
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise RuntimeError(message)
    warnings.warn(message, UserWarning, stacklevel=2)


def _csr(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


def _spend_the_warning() -> None:
    """torch warns once a process that CSR tensors are new. A filter for each call would not be safe among threads."""
    nothing = torch.zeros(1, dtype=torch.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _csr(nothing, nothing[:0], torch.empty(0), (0, 0))


_spend_the_warning()
