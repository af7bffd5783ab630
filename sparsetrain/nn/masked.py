"""The dense twin of a sparse layer: a full weight matrix under a mask."""

from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .. import init, patterns
from ..edges.module import check_edit
from ..edges.slots import Plan, SlotMap, started
from ..structure.edit import Edit
from ..structure.topology import Topology
from ..tracing import refuse_script
from .arguments import by_either_name
from .sparse_linear import SparseLinear, dense_linear

Form = Literal["forward", "step"]


class MaskedLinear(nn.Module):
    r"""A dense linear layer whose weight is multiplied by a mask, :math:`y = x (W \odot M)^T + b`.

    What sparse training is simulated with where there are no sparse kernels: everything has the full size, and the
    numbers are those of a SparseLinear over the same edges. The oracle of tests and the baseline of comparisons.

    Args:
        in_features, out_features: sizes of a sample, before and after.
        bias: learn an additive bias.
        density: let round(density * in * out) weights at random count, see patterns.uniform.
        topology: these edges count, shape ``(out_features, in_features)``.
        mask: those count where this matrix of zeros and ones is one. Exactly one of the three is given.
        form: ``"forward"`` multiplies weight and mask in every forward pass, so the gradient is masked as well.
            ``"step"`` is a plain linear layer, whose training loop calls ``apply_mask()`` after each optimizer step;
            optimizers then keep state for, and clip by, gradients that the mask undoes.
        generator: of the random edges and of the initial values.
        device, dtype: of weight, mask and bias.

    Shape:
        ``(..., in_features)`` to ``(..., out_features)``.

    Attributes:
        weight: shape ``(out_features, in_features)``; zero where the mask is zero, at the start.
        mask: zeros and ones in the dtype of the weight, which multiply several times as fast as booleans.
        bias: shape ``(out_features,)``, or None.

    Raises:
        ValueError: not exactly one of density, topology and mask, a shape that does not fit, an unknown form, or a mask
            with other values.

    Example:
        >>> layer = MaskedLinear(2, 2, mask=[[1, 0], [1, 1]])
        >>> layer
        MaskedLinear(in_features=2, out_features=2, nnz=3, density=0.75, bias=True, form=forward)
        >>> layer.weight[0, 1].item()
        0.0
    """

    weight: Tensor
    bias: Tensor | None
    mask: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        density: float | None = None,
        topology: Topology | None = None,
        mask: Any = None,
        form: Form = "forward",
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        shape = (out_features, in_features)
        topology = _edges(shape, density, topology, mask, generator)
        if form not in get_args(Form):
            raise ValueError(f"MaskedLinear: expected form to be one of {list(get_args(Form))}, got {form!r}.")
        self.in_features, self.out_features, self.form = in_features, out_features, form
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.register_buffer("mask", topology.to_mask().to(self.weight))
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weights and bias anew, the same numbers as a SparseLinear over these edges, and zeros elsewhere."""
        with torch.no_grad():
            self.weight.zero_()
        init.reset_(self, generator)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        mask = state_dict.get(f"{prefix}mask")
        if isinstance(mask, Tensor) and not mask.is_meta:  # a mean of masks is one but for rounding
            whole = mask.round()
            if not bool(((whole == 0) | (whole == 1)).all()) or not bool(((mask - whole).abs() < 0.01).all()):
                where = f"MaskedLinear {prefix.rstrip('.') or '(the model itself)'}"
                rest[-1].append(f"{where}: expected a mask of zeros and ones, the checkpoint has other numbers.")
                return
            state_dict[f"{prefix}mask"] = whole
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, input: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """``x (weight * mask)^T + bias``, in a dense product: x (..., in) gives (..., out)."""
        if input is None or x is not None:
            input = by_either_name("MaskedLinear", input, x, "x")
        return linear(input, self.weight * self.mask if self.form == "forward" else self.weight, self.bias)

    __prepare_scriptable__ = refuse_script

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Set the masked weights to zero again: after each optimizer step, in the form ``"step"``."""
        self.weight.mul_(self.mask)

    def plan_edit(self, where: str, edit: Edit, start: Tensor | None) -> Plan:
        """How the layer goes on after a change of edges, for optim.carry: the mask changes, and what belongs to weights
        that go or come starts anew.

        Raises:
            ValueError: it is of other edges than the mask has. TypeError: the weight is computed from others.
        """
        check_edit(where, self, edit.before if self._has(edit.before) else self.topology, edit)
        if not isinstance(self.weight, nn.Parameter):
            raise TypeError(f"{where}: expected a weight that is a Parameter, got one computed from others.")
        new = edit.topology.to(self.weight.device)
        size = self.weight.numel()
        index = torch.int32 if size <= torch.iinfo(torch.int32).max else torch.int64  # it is read for each state
        place = torch.full((size,), -1, dtype=index, device=self.weight.device)
        at = new.row.long() * new.shape[1] + new.col
        stays = edit.source >= 0
        place[at[stays]] = at[stays].to(index)
        slots = SlotMap(place, size)
        numbers = slots.moved(self.weight)
        numbers.view(-1)[at[~stays]] = torch.as_tensor(started(where, edit, start, self.weight)).to(numbers)
        mask = new.to_mask().to(self.mask)

        def finish() -> None:
            self.mask.copy_(mask)

        return Plan(self.weight, slots, numbers, finish)

    def _has(self, t: Topology) -> bool:
        """Whether these are the weights that count: known sooner than all of them are found."""
        if t.shape != self.mask.shape or self.mask.is_meta or t.device != self.mask.device:
            return False
        return int(self.mask.count_nonzero()) == t.nnz and bool(self.mask[t.row.long(), t.col.long()].all())

    @classmethod
    def from_sparse(cls, layer: SparseLinear, form: Form = "forward") -> Self:
        """The masked twin of a sparse layer: the same values at the edges, the same bias.

        Example:
            >>> sparse = SparseLinear(3, 2, density=0.5)
            >>> x = torch.ones(1, 3)
            >>> torch.allclose(MaskedLinear.from_sparse(sparse)(x), sparse(x))
            True
        """
        dense = layer.to_dense()
        twin = cls(
            layer.in_features, layer.out_features, layer.bias is not None, topology=layer.topology, form=form,
            device="meta", dtype=layer.values.dtype,
        )  # fmt: skip
        twin.weight, twin.bias = dense.weight, dense.bias
        twin.mask = layer.topology.to_mask().to(dense.weight)
        return twin.train(layer.training)

    def to_dense(self) -> nn.Linear:
        """The nn.Linear that computes the same, with zeros where the mask is zero.

        Example:
            >>> MaskedLinear(3, 2, density=0.5).to_dense()
            Linear(in_features=3, out_features=2, bias=True)
        """
        return dense_linear(self, self.weight.detach().where(self.mask != 0, 0.0), self.weight.requires_grad)

    @property
    def topology(self) -> Topology:
        """The positions where the mask is 1, computed from the mask at each call."""
        return Topology.from_mask(self.mask)

    def extra_repr(self) -> str:
        nnz = 0 if self.mask.is_meta else int(self.mask.count_nonzero())
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nnz={nnz}, "
            f"density={nnz / max(1, self.mask.numel()):.4g}, bias={self.bias is not None}, form={self.form}"
        )


def _edges(
    shape: tuple[int, int],
    density: float | None,
    topology: Topology | None,
    mask: Any,
    generator: torch.Generator | None,
) -> Topology:
    given = {"density": density, "topology": topology, "mask": mask}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ValueError(
            f"MaskedLinear: expected exactly one of {', '.join(given)}, got {' and '.join(names) or 'none'}."
        )
    if density is not None:
        with torch.device("cpu"):  # edges are real under torch.device("meta") too
            return patterns.uniform(shape, density, generator)
    if topology is None:
        topology = Topology.from_mask(mask)
    if topology.shape != shape:
        raise ValueError(f"MaskedLinear: expected {names[0]} of shape (out, in) = {shape}, got {topology.shape}.")
    return topology
