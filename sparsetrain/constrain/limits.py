"""The constraints of a layer as they are collected and checked against each other, before the layer is changed."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..edges.weights import replace_numbers
from ..structure.topology import Topology
from .constrained import Constrained

ADVICE = " Initialize the layer before, or pass project=True to take the nearest values that do."


class Limits(NamedTuple):
    """What is asked of each edge."""

    where: str
    layer: Any
    values: Tensor  # (nnz,) the present ones
    low: Tensor  # (nnz,) lowest and highest, infinite where there is none
    high: Tensor
    held: Tensor | None  # (nnz,) booleans: which are frozen
    before: tuple[Tensor, Tensor]  # low and high as the layer has them now
    types: Tensor | None = None
    raws: int = 0

    @classmethod
    def of(cls, where: str, layer: Any) -> Self:
        """Those that a layer has by now."""
        now = _present(where, layer)
        values = layer.values.detach().clone()
        if now is None:
            ends = torch.full_like(values, -math.inf), torch.full_like(values, math.inf)
            return cls(where, layer, values, *ends, held=None, before=ends, raws=values.numel())
        free, ends = now.free(), now.interval(values)
        held = None if free is None else ~free
        return cls(where, layer, values, *ends, held=held, before=ends, types=now.types, raws=now.raws)

    def edge(self, k: int) -> str:
        """An edge's name in a message."""
        t = self.layer.topology
        row = int(torch.searchsorted(t.crow, torch.tensor(k, device=t.device, dtype=t.crow.dtype), right=True)) - 1
        return f"edge {k} (row {row}, column {int(t.col[k])})"

    def tightened(self, place: Tensor | None, low: Tensor | float, high: Tensor | float) -> Self:
        """These edges, or all, have to lie between low and high, too."""
        at = slice(None) if place is None else place
        new_low, new_high = self.low.clone(), self.high.clone()
        new_low[at] = new_low[at].maximum(torch.as_tensor(low).to(new_low))
        new_high[at] = new_high[at].minimum(torch.as_tensor(high).to(new_high))
        empty = new_low >= new_high
        if bool(empty.any()):
            k = int(empty.nonzero()[0])
            raise ValueError(
                f"{self.where}: expected constraints that leave room, got {self.edge(k)} from {float(self.low[k])} to "
                f"{float(self.high[k])} so far, which leaves {float(new_low[k])} to {float(new_high[k])}."
            )
        new = self._replace(low=new_low, high=new_high)
        if self.held is not None:
            wrong = self.held & ~((self.values >= new_low) & (self.values <= new_high))
            if bool(wrong.any()):
                k = int(wrong.nonzero()[0])
                raise ValueError(
                    f"{self.where}: expected {self.edge(k)} from {float(new_low[k])} to {float(new_high[k])}, it is "
                    f"frozen at {float(self.values[k])}."
                )
        return new

    def freezing(self, place: Tensor | None) -> Self:
        """These edges, or all, keep their present values."""
        held = torch.zeros_like(self.values, dtype=torch.bool)
        held[slice(None) if place is None else place] = True
        if self.held is not None:
            twice = held & self.held
            if bool(twice.any()):
                k = int(twice.nonzero()[0])
                raise ValueError(f"{self.where}: expected edges that are not frozen yet, got {self.edge(k)}.")
            held |= self.held
        nowhere = held & self.values.isnan()
        if bool(nowhere.any()):
            raise ValueError(
                f"{self.where}: expected numbers to keep, got nan at {self.edge(int(nowhere.nonzero()[0]))}. Give it a "
                "value before, or leave it out of edges."
            )
        return self._replace(held=held)

    def install(self, project: bool = False, average: bool = False) -> None:
        """Constrain the layer. Values that do not keep to it are refused, or moved; those of a type may be averaged."""
        values, outside = self.values, self._outside(self.values)
        if project and bool(outside.any()):
            finite = self.low.isfinite() & self.high.isfinite()
            margin = torch.where(finite, (self.high - self.low) / 100, 0.0)  # on the bound itself the slope is 0
            inside = values.maximum(self.low + margin).minimum(self.high - margin)
            values = torch.where(outside, inside, values)
            outside = self._outside(values)
        if bool(outside.any()):
            k = int(outside.nonzero()[0])
            raise ValueError(
                f"{self.where}: expected values from {float(self.low[k])} to {float(self.high[k])}, got "
                f"{float(values[k])} at {self.edge(k)}.{ADVICE}"
            )
        new = self.constrained(values)
        if average:
            self.exchange(new, new.collected(new.of_each(values), "mean"))
        else:
            self.exchange(new, new.right_inverse(values, self.where, ADVICE))

    def _outside(self, values: Tensor) -> Tensor:
        """Which edges have values that they must not have. The ends of an interval are none of its values, unless
        rounding has brought them there in an interval that the edge had before."""
        low, high = self.low.isfinite(), self.high.isfinite()
        new = low & high & ((self.low != self.before[0]) | (self.high != self.before[1]))
        inside = (values >= self.low) & (values <= self.high)
        inside &= ~new | ((values > self.low) & (values < self.high))
        outside = (low | high) & ~inside  # NaN is nobody's business elsewhere
        return outside if self.held is None else outside & ~self.held

    def constrained(self, values: Tensor) -> Constrained:
        """The parametrization that keeps to these limits."""
        low, high = self.low.isfinite(), self.high.isfinite()
        signs = torch.where(low & ~high, 1, torch.where(high & ~low, -1, 0)).to(torch.int8)
        bounded = (low & high).nonzero().flatten()
        frozen = None if self.held is None else self.held.nonzero().flatten()
        some = bounded if bounded.numel() else None
        return Constrained(
            values.numel(), self.raws, types=self.types, signs=signs if bool(signs.any()) else None, bounded=some,
            low=None if some is None else self.low[some], high=None if some is None else self.high[some],
            frozen=frozen, held=None if frozen is None else values[frozen],
        )  # fmt: skip

    def exchange(self, new: Constrained, raw: Tensor) -> None:
        """Put a parametrization in place of what the layer has, in the same Parameter object."""
        if all(buffer is None for buffer in new._buffers.values()):
            return  # nothing is asked for
        values = new(raw)
        new.right_inverse(values, self.where)  # raises before anything is changed
        if not parametrize.is_parametrized(self.layer, "values"):
            replace_numbers(self.layer.values, values)
            parametrize.register_parametrization(self.layer, "values", new)
        constraints = self.layer.parametrizations["values"]
        constraints[0] = new.train(self.layer.training)
        replace_numbers(constraints.original, raw)


def _present(where: str, layer: Any) -> Constrained | None:
    """The constraints of a layer so far, if it can have any."""
    values = getattr(layer, "values", None)
    if not (isinstance(layer, nn.Module) and isinstance(values, Tensor)) or not isinstance(
        getattr(layer, "topology", None), Topology
    ):
        raise TypeError(
            f"{where}: expected a layer over edges such as SparseLinear, with values and topology, got "
            f"{type(layer).__name__}."
        )
    if getattr(layer, "reads_transposed", False):
        raise ValueError(f"{where}: expected the layer that the values belong to, got its transpose. Constrain that.")
    if getattr(layer, "sparse_grad", False):
        raise ValueError(
            f"{where}: expected a layer with gradients of all edges, got one with sparse_grad=True, of which unused "
            "edges have none. Set layer.sparse_grad = False first."
        )
    if values.is_meta:
        raise ValueError(f"{where}: expected values to constrain, the layer has none yet (meta device).")
    if not parametrize.is_parametrized(layer, "values"):
        if not isinstance(values, nn.Parameter):
            raise TypeError(f"{where}: expected values to be a Parameter, got a tensor computed from others.")
        bring_up_to_date = getattr(layer, "bring_up_to_date", None)
        if bring_up_to_date is not None:
            bring_up_to_date()
        return None
    registered: Any = layer.parametrizations["values"]  # type: ignore[index]
    if len(registered) != 1 or not isinstance(registered[0], Constrained):
        raise ValueError(
            f"{where}: expected values with no parametrizations but those of sparsetrain.constrain, got "
            f"{', '.join(type(each).__name__ for each in registered)}. Register others afterwards."
        )
    return registered[0]
