"""How a kernel moves over its input."""

from math import prod
from typing import NamedTuple, Self

from ...structure.topology import Topology


class Geometry(NamedTuple):
    """Kernel, stride, padding and dilation, each with one entry for each of one to three spatial dimensions.

    The weight of a convolution is a matrix here: a row for each output channel, and a column for each input channel of
    a group and each position of the kernel, column = (channel * height + i) * width + j.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # zeros before and after, as "same" may need one more on one side
    dilation: tuple[int, ...]
    groups: int

    @property
    def volume(self) -> int:
        """Positions of the kernel."""
        return prod(self.kernel)

    @property
    def reach(self) -> tuple[int, ...]:
        """How much of the input a kernel spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def padded_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial sizes of an input with its padding."""
        return tuple(size + before + after for size, (before, after) in zip(spatial, self.padding, strict=True))

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial sizes of the output for those of the input.

        Example:
            >>> Geometry((3, 3), (2, 2), ((1, 1), (0, 0)), (1, 1), 1).output_size((8, 8))
            (4, 3)
        """
        return tuple(
            (size - reach) // stride + 1
            for size, reach, stride in zip(self.padded_size(spatial), self.reach, self.stride, strict=True)
        )

    def channels_in(self, t: Topology) -> int:
        """Input channels, which follow from the columns of the matrix."""
        return t.shape[1] // self.volume * self.groups

    def without_padding(self) -> Self:
        """The same over an input that is padded already."""
        return self._replace(padding=((0, 0),) * len(self.kernel))
