"""The CPU backend: tensors as arrays, and the kernels of sparsetrain_kernels, which convert half precision while
they read and write it. Shapes and dtypes were checked by the caller, and kernels trust them."""

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.plan import GRADIENTS, Plan
from torch import Tensor

from ...arrays import array, flat, operand
from ...dtypes import wide
from ...structure.topology import Topology
from ..layout import empty_like_layout
from ..plans_in_use import by_kernels


def spmm(t: Topology, values: Tensor, x: Tensor, bias: Tensor | None, transpose: bool) -> Tensor:
    y = empty_like_layout(x, t.shape[1] if transpose else t.shape[0])
    plan, ordered = t.derived(_forward), values
    if transpose:
        plan, ordered = t.derived(backward_plan), values.detach().index_select(0, t.transposed.perm)
    kernels.spmm(
        plan.of(t), flat(ordered), operand(x), operand(y), None if bias is None else flat(bias), torch.get_num_threads()
    )
    return y


def sddmm(t: Topology, a: Tensor, b: Tensor) -> Tensor:
    out = a.new_empty(t.nnz, dtype=wide(a.dtype))
    kernels.sddmm(t.derived(_forward).of(t), operand(a), operand(b), array(out), torch.get_num_threads())
    return out


def backward(t: Topology, values: Tensor, x: Tensor, dy: Tensor, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    by_kernels(t)
    grad, dx = values.new_empty(t.nnz), empty_like_layout(x, t.shape[1])
    bias_grad = values.new_empty(t.shape[0]) if bias else None
    kernels.backward(
        t.derived(backward_plan).of(t), array(t.transposed.perm), flat(values), operand(x), operand(dy), operand(dx),
        array(grad), None if bias_grad is None else array(bias_grad), torch.get_num_threads(),
    )  # fmt: skip
    return grad, dx, bias_grad


def used(x: Tensor) -> Tensor:
    """Which features of x, (features, batch), are not zero in every sample."""
    return torch.from_numpy(kernels.used(operand(x), torch.get_num_threads()))


class _Kept:
    """A plan that is kept, and with it arrays over tensors. These may be moved to other memory at any time, as those
    are that are sent to a process, so the arrays are used only while the tensors are where they were."""

    __slots__ = ("col", "crow", "places", "plan")

    def __init__(self, plan: Plan, crow: Tensor, col: Tensor) -> None:
        self.plan, self.crow, self.col, self.places = plan, crow, col, (crow.data_ptr(), col.data_ptr())

    @property
    def nbytes(self) -> int:
        return self.plan.nbytes

    def of(self, t: Topology) -> Plan:
        """The plan, for this call."""
        t.check_untouched()
        plan, places = self.plan, (self.crow.data_ptr(), self.col.data_ptr())
        if places != self.places:
            crow, pointers = array(self.crow), plan.pointers
            plan = plan._replace(crow=crow, col=array(self.col), pointers=pointers if plan.blocks > 1 else crow)
            self.plan = plan  # before the places, by which another thread trusts it
            self.places = places
        return plan


def _forward(t: Topology) -> _Kept:
    t.check_untouched()
    return _Kept(kernels.plan(array(t.crow), array(t.stored_col), t.shape[1]), t.crow, t.stored_col)


def backward_plan(t: Topology) -> _Kept:
    crow_t, col_t, _ = t.transposed
    return _Kept(kernels.plan(array(crow_t), array(col_t), t.shape[0], GRADIENTS), crow_t, col_t)
