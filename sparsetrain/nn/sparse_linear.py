"""Linear layers of which only some edges exist."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from .. import init, patterns, tracing
from ..dtypes import accepted, wide, widened
from ..edges.module import EdgeModule
from ..edges.sharded import is_sharded, no_view
from ..edges.slots import Plan
from ..ops.verbs import checked_linear
from ..structure.edit import Edit
from ..structure.topology import Topology
from .arguments import by_either_name
from .from_data import FromData
from .room import check_room


class SparseLinear(FromData):
    r"""A linear layer whose weight exists only at the edges of a topology, :math:`y = x W^T + b`.

    :math:`W_{ij}` is ``values[e]`` at edge e = (i, j) and nothing elsewhere: no dense weight, gradient or optimizer
    state is ever made. ``values`` is a plain 1-D Parameter that any torch optimizer steps.

    Args:
        in_features, out_features: sizes of a sample, before and after.
        bias: learn an additive bias.
        density: make round(density * in * out) edges at random, see patterns.uniform.
        topology: these edges, shape ``(out_features, in_features)``. Exactly one of density and topology is given.
        sparse_grad: for inputs most of whose columns are zero in a batch (one-hot codes, bags of words). Forward and
            backward then read the edges of the other columns alone, and the gradient of the values is sparse over
            them, so that the optimizers of sparsetrain.optim leave the rest as it is, state included. An infinite or
            NaN value at an edge whose input is zero has no effect then. Compiled and traced graphs do the same, but
            do not bring edges up to date: under ``unused="dense"`` call ``optimizer.flush()`` before they run. Under
            torch.func the gradient is dense, over all edges.
        generator: of the random edges and of the initial values.
        device: of the parameters.
        dtype: of the parameters, float32 or float64. In half precision most updates are too small to change a number:
            values stay float32 then, also after ``.to(torch.bfloat16)``, beside inputs and results in half precision.

    Shape:
        ``(..., in_features)`` to ``(..., out_features)``; feature-major input gives feature-major output.

    Attributes:
        values: shape ``(nnz,)``, in the order of the topology. By default U(-k, k) with k = 1 / sqrt(mean fan-in).
        bias: shape ``(out_features,)``, or None.
        topology: which edges exist.

    Raises:
        ValueError: both or neither of density and topology, or a shape that does not fit. TypeError: another dtype.

    Example:
        >>> layer = SparseLinear(784, 1000, density=0.1)
        >>> layer
        SparseLinear(in_features=784, out_features=1000, nnz=78400, density=0.1, bias=True)
        >>> layer(torch.ones(32, 784)).shape
        torch.Size([32, 1000])
    """

    _dense_kind: type[nn.Module] | None = None  # what convert.densify makes of it, if not nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        density: float | None = None,
        topology: Topology | None = None,
        sparse_grad: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        if (density is None) == (topology is None):
            got = "neither" if density is None else "both"
            raise ValueError(f"{where}: expected exactly one of density and topology, got {got}.")
        of_values = wide(accepted(where, dtype))
        check_room(where, (out_features, in_features), density, topology, device, of_values)
        if topology is None:
            with torch.device("cpu"):  # edges are real under torch.device("meta") too
                topology = patterns.uniform((out_features, in_features), density, generator)  # type: ignore[arg-type]
        if not isinstance(topology, Topology):
            raise TypeError(
                f"{where}: expected a Topology, got {type(topology).__name__}. Make one with Topology.from_mask, "
                "from_scipy or from_coo."
            )
        if topology.shape != (out_features, in_features):
            raise ValueError(
                f"{where}: expected a topology of shape (out, in) = ({out_features}, {in_features}), "
                f"got {topology.shape}."
            )
        self.in_features, self.out_features, self.sparse_grad = in_features, out_features, sparse_grad
        self.values = nn.Parameter(torch.empty(topology.nnz, device=device, dtype=of_values))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=of_values)) if bias else None
        self.topology = topology if self.values.is_meta else topology.to(self.values.device)
        self.awaits_edges = density is not None and self.values.is_meta
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw values and bias anew, uniformly within 1 / sqrt(mean fan-in), as nn.Linear does with its fan-in."""
        self.awaits_edges = self.awaits_edges and self.values.is_meta  # numbers are drawn for these edges
        init.reset_(self, generator)

    def forward(self, input: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """``x W(values)^T + bias``: x (..., in) gives (..., out). Its keyword is ``x`` or ``input``."""
        if input is None or x is not None:
            input = by_either_name("SparseLinear", input, x, "x")
        if tracing.is_symbolic(input):
            return tracing.as_leaf(self, input)  # type: ignore[no-any-return]
        if self.sparse_grad and "values" not in self._parameters:
            raise ValueError(
                "SparseLinear: sparse_grad=True needs values that are a Parameter, got values that are computed from "
                "others, which torch has no sparse gradients for. Set layer.sparse_grad = False."
            )
        values = widened(self.values)  # in half precision under fully_shard's param_dtype
        return checked_linear(
            "SparseLinear", input, self.topology, values, self.bias, transpose=False, sparse_grad=self.sparse_grad
        )

    @classmethod
    def from_dense(cls, linear: nn.Linear, mask: Tensor | Topology | None = None) -> Self:
        """A sparse layer with the weights of a dense one at chosen edges.

        Args:
            linear: a layer with ``weight`` (out, in) and ``bias``; it is left as it is.
            mask: a topology, or a matrix of zeros and ones; without it, the weights that are not zero.

        Raises:
            ValueError: the mask's shape does not fit.

        Example:
            >>> dense = nn.Linear(3, 2)
            >>> SparseLinear.from_dense(dense, torch.eye(2, 3)).topology.nnz
            2
        """
        weight, bias = linear.weight.detach(), linear.bias
        if not isinstance(mask, Topology):
            if mask is None and weight.is_meta:
                raise ValueError(
                    "SparseLinear.from_dense: expected a mask, as weights on the meta device have no zeros."
                )
            mask = Topology.from_mask(weight != 0 if mask is None else mask)
        if mask.shape != tuple(weight.shape):
            raise ValueError(
                f"SparseLinear.from_dense: expected a mask of shape {tuple(weight.shape)}, got {mask.shape}."
            )
        t = mask if weight.is_meta else mask.to(weight.device)
        layer = cls(t.shape[1], t.shape[0], bias is not None, topology=t, device="meta", dtype=weight.dtype)
        values = weight.new_empty(t.nnz) if weight.is_meta else weight[t.row.long(), t.col.long()]
        layer.values = nn.Parameter(widened(values), linear.weight.requires_grad)
        layer.topology = t
        if bias is not None:
            layer.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
        return layer.train(linear.training)

    def to_dense(self) -> nn.Linear:
        """The nn.Linear that computes the same, with zeros where there is no edge.

        Example:
            >>> SparseLinear(3, 2, density=0.5).to_dense()
            Linear(in_features=3, out_features=2, bias=True)
        """
        self.bring_up_to_date()
        weight = self.values.new_zeros(self.topology.shape)
        weight[self.topology.row.long(), self.topology.col.long()] = self.values.detach()
        return dense_linear(self, weight, self.values.requires_grad)

    def transposed(self, bias: bool = True) -> "TransposedSparseLinear":
        """A layer that applies the transposed weight and has the same values, such as a tied decoder.

        Example:
            >>> encoder = SparseLinear(784, 100, density=0.1)
            >>> decoder = encoder.transposed()
            >>> decoder.values is encoder.values, decoder(encoder(torch.ones(1, 784))).shape
            (True, torch.Size([1, 784]))
        """
        return TransposedSparseLinear(self, bias)

    def extra_repr(self) -> str:
        t = self.topology
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nnz={t.nnz}, density={t.density:.4g}, "
            f"bias={self.bias is not None}" + (", sparse_grad=True" if self.sparse_grad else "")
        )


class TransposedSparseLinear(EdgeModule):
    r"""The transpose of a sparse layer with the same values, :math:`y = x W + b`, and its own bias.

    ``values`` and ``topology`` are those of the layer it came from: shape ``(in_features, out_features)``. Constraints
    on that layer's values hold here too, whenever they are made. Made by ``SparseLinear.transposed``.
    """

    reads_transposed = True
    _apart = False  # whether the values are no longer those of the layer it came from

    def __init__(self, layer: SparseLinear, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.out_features, layer.in_features
        self._tied = (layer,)  # in a tuple it is no child, whose parameters would be listed here
        self._listed: tuple[nn.Parameter | None] = (None,)  # what _follow has listed last
        self.sparse_grad = False
        self._follow()
        self.bias = nn.Parameter(layer.values.new_empty(self.out_features)) if bias else None
        self.reset_parameters()

    @property
    def origin(self) -> SparseLinear:
        """The layer that the values belong to."""
        return self._tied[0]

    @property
    def topology(self) -> Topology:
        """The current edges of the layer that the values belong to."""
        own: Topology | None = self.__dict__.get("_own_topology")
        return self.origin.topology if own is None else own

    @topology.setter
    def topology(self, topology: Topology) -> None:
        if self._apart:
            self.__dict__["_own_topology"] = topology
        else:
            self.origin.topology = topology

    @property
    def awaits_edges(self) -> bool:
        """Whether the edges are still placeholders."""
        return self.origin.awaits_edges

    @awaits_edges.setter
    def awaits_edges(self, awaits: bool) -> None:
        self.origin.awaits_edges = awaits

    def __getattr__(self, name: str) -> Any:
        if name != "values" or self._apart:
            return super().__getattr__(name)
        self._follow()
        values = self._parameters.get("values")
        return self.origin.values if values is None else values

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "values" and not self._apart:
            self.origin.values = value
            self._follow()  # as who sets parameters reads their names next, fully_shard for one
            if is_sharded(value) and self._agreed is None:  # the other layer has asked all ranks
                self.register_forward_hook(no_view, prepend=True)
                self.__dict__["_agreed"] = self.topology
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._apart = self._apart or name == "values"  # torch's parametrize makes its own of them

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(name, param)
        self._apart = self._apart and name != "values"

    def _follow(self) -> None:
        """List the value array among the parameters here too, for as long as it is one; and leave alone what
        torch.func.functional_call has put in its place."""
        shared, ours = self.origin._parameters.get("values"), self._parameters.get("values")
        if ours is not shared and ours is self._listed[0] and not self._apart:
            self._listed = (shared,)
            rest = {name: p for name, p in self._parameters.items() if name != "values"}
            self._parameters.clear()
            self._parameters.update(({} if shared is None else {"values": shared}) | rest)

    def plan_edit(self, where: str, edit: Edit, start: Tensor | None) -> Plan:
        """That of the layer that the values belong to, in the order of its topology."""
        return super().plan_edit(where, edit, start) if self._apart else self.origin.plan_edit(where, edit, start)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._follow()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **named: Any) -> None:
        self._follow()
        super()._load_from_state_dict(*args, **named)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the bias anew; the values belong to the layer they are tied to."""
        init.reset_bias_(self, generator)

    def forward(self, input: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """``x W(values) + bias``: x (..., out of the other layer) gives (..., in)."""
        if input is None or x is not None:
            input = by_either_name("TransposedSparseLinear", input, x, "x")
        if tracing.is_symbolic(input):
            return tracing.as_leaf(self, input)  # type: ignore[no-any-return]
        self.bring_up_to_date()
        return checked_linear(
            "TransposedSparseLinear", input, self.topology, widened(self.values), self.bias, transpose=True
        )

    extra_repr: Any = SparseLinear.extra_repr


def dense_linear(layer: Any, weight: Tensor, requires_grad: bool) -> nn.Linear:
    """An nn.Linear with this weight, and with bias and mode of the layer that it stands for."""
    linear = nn.Linear(1, 1, layer.bias is not None, device="meta")  # torch warns of sizes that are zero
    linear.in_features, linear.out_features = layer.in_features, layer.out_features
    linear.weight = nn.Parameter(weight, requires_grad)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.detach().clone(), layer.bias.requires_grad)
    return linear.train(layer.training)
