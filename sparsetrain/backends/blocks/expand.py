"""Rows of W as a dense block, and a dense block at the stored positions: by kernels on a CPU, by Triton's on CUDA, and
by torch's operations elsewhere."""

from typing import Any

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from ...arrays import Array, array, flat
from ...dtypes import FLOATS
from ...structure.topology import Topology
from ..triton.available import usable


def expand(t: Topology, values: Tensor, first: int, last: int, out: Tensor) -> None:
    """``out[r - first, :]`` = row r of W, zeros and all, for rows first..last; out is contiguous, of any float type."""
    if _by_kernels(out):
        crow, col = array(t.crow), array(t.stored_col)
        kernels.expand(crow, col, flat(values), t.derived(_bitmap), first, last, array(out), torch.get_num_threads())
        return
    if out.device.type == "cuda" and usable(out.device):
        _triton().expand(t.crow, t.col, values.detach().contiguous(), first, last, out)
        return
    edges, places = _places(t, first, last)
    out.zero_().view(-1).index_copy_(0, places, values[edges].to(out.dtype))


def gather(t: Topology, dense: Tensor, first: int, last: int, grad: Tensor) -> None:
    """``grad[e] = dense[row - first, col]`` at the edges of rows first..last; dense is contiguous."""
    if _by_kernels(dense):
        crow, col = array(t.crow), array(t.stored_col)
        kernels.gather(crow, col, t.derived(_bitmap), first, last, array(dense), array(grad), torch.get_num_threads())
        return
    if dense.device.type == "cuda" and usable(dense.device):
        _triton().gather(t.crow, t.col, dense, first, last, grad)
        return
    edges, places = _places(t, first, last)
    grad[edges] = dense.view(-1)[places].to(grad.dtype)


def _triton() -> Any:
    import sparsetrain_triton

    return sparsetrain_triton


def _by_kernels(dense: Tensor) -> bool:
    return COMPILES and dense.device.type == "cpu" and dense.dtype in FLOATS


def _bitmap(t: Topology) -> Array:
    t.check_untouched()
    return kernels.bitmap(array(t.crow), array(t.stored_col), t.shape[1])


def _places(t: Topology, first: int, last: int) -> tuple[slice, Tensor]:
    """The edges of some rows, and their places in a dense block of these rows."""
    crow = t.crow[first : last + 1].long()
    whole = first == 0 and last == t.shape[0]
    start, stop = (0, t.nnz) if whole else (t.derived(_ends)[first], t.derived(_ends)[last])
    rows = torch.arange(last - first, device=crow.device).repeat_interleave(crow.diff(), output_size=stop - start)
    return slice(start, stop), rows * t.shape[1] + t.stored_col[start:stop].long()


def _ends(t: Topology) -> list[int]:
    """The row pointers as numbers: asked of a device once, and not at each product."""
    ends: list[int] = t.crow.tolist()
    return ends
