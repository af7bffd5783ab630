"""Convolutions of which only some weights exist."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .. import init, tracing
from ..backends.convolution.layout import in_format_of
from ..dtypes import accepted, wide, widened
from ..edges.module import EdgeModule
from ..ops.convolution import check_input, checked_convolution
from ..structure.topology import Topology
from .arguments import by_either_name
from .convolution_arguments import PaddingMode, Size, channels, check_mode_fits, described, padding_mode_of
from .convolution_edges import edges_of_mask, given_edges


class SparseConvolution(EdgeModule):
    """What SparseConv1d, SparseConv2d and SparseConv3d share."""

    dimensions: ClassVar[int]
    dense_kind: ClassVar[type[nn.Conv1d | nn.Conv2d | nn.Conv3d]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        *,
        density: float | None = None,
        topology: Topology | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.in_channels, self.out_channels, self.groups = channels(where, in_channels, out_channels, groups)
        g, self.padding = described(where, self.dimensions, kernel_size, stride, padding, dilation, self.groups)
        self.kernel_size, self.stride, self.dilation = g.kernel, g.stride, g.dilation
        self.padding_mode = padding_mode_of(where, padding_mode)
        zeros = self.padding_mode == "zeros"
        self.geometry = g if zeros else g.without_padding()  # of what the product reads
        self._beside = () if zeros else g.padding  # what is put beside an input before
        topology = given_edges(where, self.weight_shape, density, topology, generator)
        of_values = wide(accepted(where, dtype))
        self.values = nn.Parameter(torch.empty(topology.nnz, device=device, dtype=of_values))
        self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=of_values)) if bias else None
        self.topology = topology if self.values.is_meta else topology.to(self.values.device)
        self.awaits_edges = density is not None and self.values.is_meta
        self.reset_parameters(generator)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the whole weight, as in torch's convolutions: ``(out, in / groups, *kernel)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw values and bias anew, uniformly within 1 / sqrt(mean fan-in), as torch's do with their fan-in."""
        self.awaits_edges = self.awaits_edges and self.values.is_meta  # numbers are drawn for these edges
        init.reset_(self, generator)

    def forward(self, input: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """The convolution of x, (batch, channels, ...) or (channels, ...). Its keyword is ``x`` or ``input``."""
        where = type(self).__name__
        if input is None or x is not None:
            input = by_either_name(where, input, x, "x")
        if tracing.is_symbolic(input):
            return tracing.as_leaf(self, input)  # type: ignore[no-any-return]
        if self._beside and isinstance(input, Tensor):
            input = self._padded(where, input)
        return checked_convolution(where, input, self.topology, widened(self.values), self.bias, self.geometry)

    def _padded(self, where: str, x: Tensor) -> Tensor:
        """The input with what the padding mode puts beside it."""
        check_input(where, x, self.in_channels, self.dimensions)
        check_mode_fits(where, self.padding_mode, self._beside, tuple(x.shape[-self.dimensions :]))
        sides = [side for pair in reversed(self._beside) for side in pair]
        return in_format_of(x, pad(x, sides, mode=self.padding_mode)) if any(sides) else x

    @classmethod
    def from_dense(cls, convolution: Any, mask: Tensor | Topology | None = None) -> Self:
        """A sparse layer with the weights of a dense one at chosen edges.

        Args:
            convolution: torch's layer of as many dimensions; it is left as it is.
            mask: zeros and ones in the shape of the weight, or as a matrix (out, rest); or a topology of that matrix.
                Without it, the weights that are not zero.

        Raises:
            ValueError: the mask's shape does not fit. TypeError: this is another layer.

        Example:
            >>> from sparsetrain.nn import SparseConv2d
            >>> dense = nn.Conv2d(3, 8, 3, padding=1)
            >>> SparseConv2d.from_dense(dense, dense.weight.abs() > 0.1).weight_shape
            (8, 3, 3, 3)
        """
        where = f"{cls.__name__}.from_dense"
        if not isinstance(convolution, cls.dense_kind):
            raise TypeError(f"{where}: expected an nn.{cls.dense_kind.__name__}, got {type(convolution).__name__}.")
        weight = convolution.weight.detach()
        if mask is None and weight.is_meta:
            raise ValueError(f"{where}: expected a mask, as weights on the meta device have no zeros.")
        t = edges_of_mask(where, tuple(weight.shape), weight != 0 if mask is None else mask)
        return cls.of_weight(convolution, convolution.weight, t)

    @classmethod
    def of_weight(cls, convolution: Any, dense: Tensor, t: Topology) -> Self:
        """A sparse layer like this one of torch, with values of another dense weight at these edges."""
        weight, bias = dense.detach(), convolution.bias
        matrix = weight.reshape(t.shape)
        t = t if weight.is_meta else t.to(weight.device)
        layer = cls(
            convolution.in_channels, convolution.out_channels, convolution.kernel_size, convolution.stride,
            convolution.padding, convolution.dilation, convolution.groups, bias is not None,
            convolution.padding_mode, topology=t, device="meta", dtype=weight.dtype,
        )  # fmt: skip
        values = weight.new_empty(t.nnz) if weight.is_meta else matrix[t.row.long(), t.col.long()]
        layer.values = nn.Parameter(widened(values), dense.requires_grad)
        layer.topology = t
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
        return layer.train(convolution.training)

    def to_dense(self) -> Any:
        """The layer of torch that computes the same, with zeros where there is no edge.

        Example:
            >>> from sparsetrain.nn import SparseConv1d
            >>> SparseConv1d(3, 8, 5, density=0.2).to_dense()
            Conv1d(3, 8, kernel_size=(5,), stride=(1,))
        """
        self.bring_up_to_date()
        weight = self.values.new_zeros(self.topology.shape)
        if not weight.is_meta:
            weight[self.topology.row.long(), self.topology.col.long()] = self.values.detach()
        padding: Any = self.padding
        dense = self.dense_kind(
            self.in_channels, self.out_channels, self.kernel_size, self.stride, padding, self.dilation, self.groups,  # type: ignore[arg-type]
            self.bias is not None, self.padding_mode, device="meta",
        )  # fmt: skip
        dense.weight = nn.Parameter(weight.view(self.weight_shape), self.values.requires_grad)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), self.bias.requires_grad)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        t = self.topology
        options = {
            "padding": (self.padding, (0,) * self.dimensions),
            "dilation": (self.dilation, (1,) * self.dimensions),
            "groups": (self.groups, 1),
            "padding_mode": (self.padding_mode, "zeros"),
        }
        others = "".join(f", {name}={value!r}" for name, (value, usual) in options.items() if value != usual)
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}{others}, "
            f"nnz={t.nnz}, density={t.density:.4g}, bias={self.bias is not None}"
        )


class SparseConv1d(SparseConvolution):
    r"""A convolution over one dimension whose weight exists only at the edges of a topology.

    As SparseConv2d, with one spatial dimension: ``(N, C_in, L)`` to ``(N, C_out, L_out)``.

    Example:
        >>> layer = SparseConv1d(16, 32, 5, padding="same", density=0.1)
        >>> layer(torch.ones(8, 16, 100)).shape
        torch.Size([8, 32, 100])
    """

    dimensions = 1
    dense_kind = nn.Conv1d


class SparseConv2d(SparseConvolution):
    r"""A convolution over two dimensions whose weight exists only at the edges of a topology.

    .. math:: y_{n, o} = b_o + \sum_{c, i, j} W_{o, (c, i, j)} \; x_{n, c}[\,\cdot + i, \cdot + j\,]

    The weight is a matrix with a row for each output channel, and a column for each input channel of a group and each
    position of the kernel: column = (c * height + i) * width + j. :math:`W` is ``values[e]`` at edge e and nothing
    elsewhere: no dense weight, gradient or optimizer state is kept.

    Args:
        in_channels, out_channels: of the images, before and after.
        kernel_size, stride, dilation: one number, or one for each dimension.
        padding: likewise; ``"valid"`` for none, or ``"same"`` for an output of the input's size (with stride 1).
        groups: channels are cut into so many groups, and outputs read the inputs of their own group alone.
        bias: learn an additive bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        density: make round(density * weights) edges at random, see patterns.uniform.
        topology: these edges, shape ``(out_channels, in_channels / groups * height * width)``. Exactly one of density
            and topology is given.
        generator: of the random edges and of the initial values.
        device: of the parameters.
        dtype: of the parameters, float32 or float64. In half precision values stay float32, as in SparseLinear.

    Shape:
        ``(N, C_in, H, W)`` to ``(N, C_out, H_out, W_out)``, or both without N; channels_last input gives channels_last
        output.

    Attributes:
        values: shape ``(nnz,)``, in the order of the topology. By default U(-k, k) with k = 1 / sqrt(mean fan-in).
        bias: shape ``(out_channels,)``, or None.
        topology: which edges exist.

    Raises:
        ValueError: both or neither of density and topology, or a size, a shape or a word that does not fit. TypeError:
            another dtype, or something that is no integer.

    Example:
        >>> layer = SparseConv2d(3, 16, 3, padding=1, density=0.25)
        >>> layer
        SparseConv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), nnz=108, density=0.25, bias=True)
        >>> layer(torch.ones(8, 3, 32, 32)).shape
        torch.Size([8, 16, 32, 32])
    """

    dimensions = 2
    dense_kind = nn.Conv2d


class SparseConv3d(SparseConvolution):
    r"""A convolution over three dimensions whose weight exists only at the edges of a topology.

    As SparseConv2d, with three spatial dimensions: ``(N, C_in, D, H, W)`` to ``(N, C_out, D_out, H_out, W_out)``.

    Example:
        >>> layer = SparseConv3d(2, 4, 3, density=0.1)
        >>> layer(torch.ones(1, 2, 8, 8, 8)).shape
        torch.Size([1, 4, 6, 6, 6])
    """

    dimensions = 3
    dense_kind = nn.Conv3d


CONVOLUTIONS: dict[type[nn.Module], type[SparseConvolution]] = {
    kind.dense_kind: kind for kind in (SparseConv1d, SparseConv2d, SparseConv3d)
}
