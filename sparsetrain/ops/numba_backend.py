"""The CPU backend: tensors as arrays, and the kernels of sparsetrain_kernels."""

import numpy.typing as npt
import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.plan import GRADIENTS, Plan
from torch import Tensor

from ..topology import Topology
from .layout import empty_like_layout


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    y = empty_like_layout(x, t.shape[1] if transpose else t.shape[0])
    plan, ordered = t.derived(_plan), values
    if transpose:
        plan, ordered = t.derived(_plan_t), values.detach()[t.transposed.perm]
    kernels.spmm(
        plan, _flat(ordered), _array(x), _array(y), None if bias is None else _flat(bias), torch.get_num_threads()
    )
    return y


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    out = a.new_empty(t.nnz)
    kernels.sddmm(t.derived(_plan), _array(a), _array(b), _array(out), torch.get_num_threads())
    return out


def backward(t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    grad, dx = x.new_empty(t.nnz), empty_like_layout(x, t.shape[1])
    bias_grad = x.new_empty(t.shape[0]) if bias else None
    plan_t, perm = t.derived(_plan_t), t.transposed.perm.numpy()
    kernels.backward(
        plan_t, perm, _flat(values), _array(x), _array(dy), _array(dx), _array(grad),
        None if bias_grad is None else _array(bias_grad), torch.get_num_threads(),
    )  # fmt: skip
    return grad, dx, bias_grad


def used(x: Tensor) -> Tensor:
    """Which features of x, (features, batch), are not zero in every sample."""
    return torch.from_numpy(kernels.used(_array(x), torch.get_num_threads()))


def _array(tensor: Tensor) -> npt.NDArray:  # type: ignore[type-arg]
    return tensor.numpy(force=True)


def _flat(vector: Tensor) -> npt.NDArray:  # type: ignore[type-arg]
    return vector.detach().contiguous().numpy()


def _plan(t: Topology) -> Plan:
    return kernels.plan(t.crow.numpy(), t.col.numpy(), t.shape[1])


def _plan_t(t: Topology) -> Plan:
    return kernels.plan(t.transposed.crow_t.numpy(), t.transposed.col_t.numpy(), t.shape[0], GRADIENTS)
