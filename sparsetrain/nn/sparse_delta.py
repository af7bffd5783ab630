"""A frozen dense layer of which a few weights move."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from .. import tracing
from ..dtypes import HALVES, keeping_wide, widened
from ..edges.module import EdgeModule
from ..ops.delta import delta_linear
from ..ops.verbs import checked_linear
from ..structure.topology import Topology
from .arguments import by_either_name

SUPPORTED = (torch.float32, torch.float64, *HALVES)


class SparseDeltaLinear(EdgeModule):
    r"""A frozen nn.Linear plus trainable edges, :math:`y = x (W + S)^T + b`.

    :math:`S_{ij}` is ``values[e]`` at edge e = (i, j), and zero elsewhere. A forward pass has one dense and one sparse
    product; the gradient of the values is an SDDMM over the edges. No dense gradient, no copy of the weight, and no
    optimizer state beyond the edges is created.

    Args:
        linear: the layer to start from, which this one keeps as it is and freezes: its weight and its bias don't ask
            for gradients any more. A bias that shall train is asked for with ``layer.linear.bias.requires_grad_()``.
        topology: the edges that train, shape ``(out_features, in_features)``.

    Shape:
        ``(..., in_features)`` to ``(..., out_features)``.

    Attributes:
        linear: the nn.Linear, weight in float32, float64, float16 or bfloat16.
        values: shape ``(nnz,)``, zeros at first; float64 beside a float64 weight, else float32, also after
            ``.to(torch.bfloat16)``: in halves most updates are too small to change a number.
        topology: which edges train.

    Raises:
        TypeError: the layer is no nn.Linear, or its weight is of another dtype. ValueError: the topology has another
            shape, or the layer has no weights yet or is parametrized.

    Source: for large models known as sparse fine-tuning; Bhardwaj et al. (2024), Sparse high rank adapters.

    Example:
        >>> edges = Topology.from_coo([3, 5], [70, 8], shape=(1000, 784))
        >>> layer = SparseDeltaLinear(nn.Linear(784, 1000), edges)
        >>> layer
        SparseDeltaLinear(
          in_features=784, out_features=1000, nnz=2, density=2.551e-06
          (linear): Linear(in_features=784, out_features=1000, bias=True)
        )
        >>> layer(torch.ones(32, 784)).sum().backward()
        >>> layer.values.grad.tolist(), layer.linear.weight.grad is None
        ([32.0, 32.0], True)
    """

    def __init__(self, linear: nn.Linear, topology: Topology) -> None:
        super().__init__()
        check_linear("SparseDeltaLinear", linear)
        if not isinstance(topology, Topology):
            raise TypeError(
                f"SparseDeltaLinear: expected a Topology, got {type(topology).__name__}. Make one with "
                "Topology.from_mask, from_coo or patterns.uniform."
            )
        weight = linear.weight
        if topology.shape != tuple(weight.shape):
            raise ValueError(
                f"SparseDeltaLinear: expected a topology of shape (out, in) = {tuple(weight.shape)}, got "
                f"{topology.shape}."
            )
        self._asked = asking(linear)
        self.linear = linear.requires_grad_(False)
        dtype = torch.float64 if weight.dtype is torch.float64 else torch.float32
        self.values = nn.Parameter(torch.zeros(topology.nnz, device=weight.device, dtype=dtype))
        self.topology = topology if weight.is_meta else topology.to(weight.device)
        self.train(linear.training)

    @property
    def in_features(self) -> int:
        return self.linear.in_features

    @property
    def out_features(self) -> int:
        return self.linear.out_features

    def forward(self, input: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """``x (W + S(values))^T + b``: x (..., in) gives (..., out)."""
        if input is None or x is not None:
            input = by_either_name("SparseDeltaLinear", input, x, "x")
        if tracing.is_symbolic(input):
            return tracing.as_leaf(self, input)  # type: ignore[no-any-return]
        x = input
        linear, where, values = self.linear, type(self).__name__, widened(self.values)
        hooks = (linear._forward_hooks, linear._forward_pre_hooks, linear._backward_hooks, linear._backward_pre_hooks)
        if type(linear) is nn.Linear and not any(hooks):
            return delta_linear(where, x, linear.weight, linear.bias, self.topology, values)
        wide = widened(x) if isinstance(x, Tensor) else x
        delta = checked_linear(where, wide, self.topology, values, None, transpose=False)
        y: Tensor = linear(x)
        return (y + delta).to(y.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for module in self.children():
                module._apply(fn if module is self.linear else keeping_wide(fn))  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse=False)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Add the values to the frozen weight, in place, set them to zero, and return that nn.Linear.

        The layer computes the same before and after, but for the rounding of a half. To exchange the layers of a whole
        model for what is returned, see convert.merge_edges.

        Example:
            >>> layer = SparseDeltaLinear(nn.Linear(3, 2), Topology.from_coo([1], [2], shape=(2, 3)))
            >>> nn.init.constant_(layer.values, 0.5)
            Parameter containing:
            tensor([0.5000], requires_grad=True)
            >>> before = layer(torch.ones(3))
            >>> torch.allclose(layer.merge()(torch.ones(3)), before), layer.values.tolist()
            (True, [0.0])
        """
        values, weight, t = self.values.detach().clone(), self.linear.weight, self.topology
        self.reset()  # before the rest, as constraints may forbid it
        row, col = t.row.long(), t.col.long()
        # added in the wider type and rounded once
        weight[row, col] = (weight[row, col].to(values.dtype) + values.to(weight.device)).to(weight.dtype)
        return self.linear

    @torch.no_grad()
    def reset(self) -> None:
        """Set all values to zero: the layer computes what the frozen one does. Constraints of the values may forbid it,
        with a ValueError."""
        if isinstance(self.values, nn.Parameter):
            self.values.zero_()
        else:
            self.values = torch.zeros_like(self.values)

    def thawed(self) -> nn.Linear:
        """The frozen layer, whose parameters require gradients again if they did before."""
        for name, parameter in self.linear.named_parameters(recurse=False):
            if name in vars(self).get("_asked", ()):  # pickles of version 0.1 do not know
                parameter.requires_grad_()
        return self.linear

    def own_parameters(self) -> list[nn.Parameter]:
        """The parameters behind the values: ``values`` itself, or what a parametrization computes it from."""
        frozen = set(self.linear.parameters())
        return [parameter for parameter in self.parameters() if parameter not in frozen]

    def check_resets(self) -> None:
        """ValueError where constraints hold values away from zero."""
        if not isinstance(self.values, nn.Parameter):
            self.parametrizations["values"].right_inverse(torch.zeros_like(self.values))

    reset_parameters = reset

    def extra_repr(self) -> str:
        t = self.topology
        return f"in_features={self.in_features}, out_features={self.out_features}, nnz={t.nnz}, density={t.density:.4g}"


def asking(linear: nn.Module) -> set[str]:
    """The parameters of a layer that ask for gradients."""
    return {name for name, parameter in linear.named_parameters(recurse=False) if parameter.requires_grad}


def check_linear(where: str, linear: Any) -> None:
    """An nn.Linear with weights to add to."""
    supported = "Supported are nn.Linear layers and subclasses, in float32, float64, float16 and bfloat16."
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"{where}: expected an nn.Linear, got {type(linear).__name__}. {supported}")
    if is_parametrized(linear):
        raise ValueError(
            f"{where}: expected weights that are Parameters, got a layer of which {', '.join(linear.parametrizations)} "  # type: ignore[arg-type]
            "is computed. Call torch.nn.utils.parametrize.remove_parametrizations first."
        )
    if linear._parameters.get("weight") is None:
        raise ValueError(
            f"{where}: expected a weight that is a Parameter, got one that a hook computes, as those of "
            "torch.nn.utils.prune do. Call prune.remove(layer, 'weight') or remove_weight_norm(layer) first."
        )
    if is_lazy(linear.weight):
        raise ValueError(f"{where}: expected weights, the {type(linear).__name__} has none yet. Run it once before.")
    if linear.weight.dtype not in SUPPORTED:
        raise TypeError(f"{where}: expected a floating-point weight, got {linear.weight.dtype}. {supported}")
