"""What the operators of convolutions get, as what it stands for, and checked: anybody can call an operator with
anything, and kernels check nothing."""

from collections.abc import Sequence

from torch import Tensor

from ..backends.convolution.geometry import Geometry
from ..dtypes import wide
from ..structure.topology import Topology


def geometry_of(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Geometry:
    """The geometry of lists of numbers; padding has two for each dimension."""
    pairs = zip(padding[::2], padding[1::2], strict=True)
    return Geometry(tuple(kernel), tuple(stride), tuple(pairs), tuple(dilation), groups)


def check(t: Topology, g: Geometry, size: tuple[int, ...], **operands: Tensor | None) -> None:
    """Values, x, y and bias of shapes that fit for an input of this size, in one dtype; x and y may be in half
    precision beside float32 values."""
    where = "sparsetrain::convolution"
    lengths = {len(each) for each in (g.kernel, g.stride, g.padding, g.dilation, size)}
    if len(lengths) != 1 or min(g.groups, *g.kernel, *g.stride, *g.dilation) < 1 or min(map(min, g.padding)) < 0:
        raise ValueError(f"{where}: expected a geometry of {len(size)} dimensions for size {size}, got {g}.")
    if t.shape[1] % g.volume or t.shape[0] % g.groups:
        raise ValueError(f"{where}: expected groups and a kernel that divide {t!r}, got {g}.")
    of_y = g.output_size(size)
    if min(of_y) < 1:
        raise ValueError(f"{where}: expected an input that is as large as the kernel, got size {size} and {g}.")
    shapes = {"values": (t.nnz,), "bias": t.shape[:1], "x": (g.channels_in(t), *size), "y": (t.shape[0], *of_y)}
    dtypes: dict[bool, set[str]] = {True: set(), False: set()}
    for name, operand in operands.items():
        if operand is None:
            continue
        images = name in ("x", "y")
        if tuple(operand.shape[images:]) != shapes[name]:
            expected = (*(("batch",) if images else ()), *shapes[name])
            raise ValueError(f"{where}: expected {name} of shape {expected}, got {tuple(operand.shape)}.")
        dtypes[images].add(str(operand.dtype))
        dtypes[False].add(str(wide(operand.dtype) if images else operand.dtype))
    if len(dtypes[True]) != 1 or len(dtypes[False]) != 1:
        raise TypeError(
            f"{where}: expected operands in one dtype, or x and y in half precision beside float32 values, got "
            f"{sorted(dtypes[True] | dtypes[False])}."
        )
