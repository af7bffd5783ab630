"""The parametrization: from raw numbers to values that keep to the constraints of their edges, and back."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import sigmoid

from ..edges.slots import Plan, SlotMap
from ..edges.weights import changed_since
from ..tracing import compiling, transforming
from .edited import edited, off_bounds


class Constrained(nn.Module):
    """All constraints of one layer. Each is kept for the edges that have it alone, in buffers that are saved along."""

    types: Tensor | None  # (nnz,) which raw number each edge has, where several have one
    signs: Tensor | None  # (nnz,) int8: 1, -1, or 0 where any sign is fine
    bounded: Tensor | None  # (k,) the edges between low and high, each (k,)
    low: Tensor | None
    high: Tensor | None
    frozen: Tensor | None  # (m,) the edges that keep the values held, (m,)
    held: Tensor | None
    former = False  # whether the layer has gone on with other edges

    def __init__(self, edges: int, raws: int, **buffers: Tensor | None) -> None:
        super().__init__()
        self.edges, self.raws = edges, raws
        for name in ("types", "signs", "bounded", "low", "high", "frozen", "held"):
            self.register_buffer(name, buffers.get(name))

    def forward(self, raw: Tensor) -> Tensor:
        """Values (nnz,) of raw numbers (raws,)."""
        w = raw if self.types is None else raw.index_select(0, self.types)
        if self.signs is not None:
            w = torch.where(self.signs == 0, w, torch.where(w < 0, -w, w) * self.signs)
        if self.bounded is not None and self.low is not None and self.high is not None:
            w = w.index_copy(0, self.bounded, _squeezed(w[self.bounded], self.low, self.high))
        if self.frozen is not None and self.held is not None:
            w = w.index_copy(0, self.frozen, self.held)
        if w.requires_grad and not (compiling() or transforming()):
            w.register_hook(self._check_current)  # type: ignore[no-untyped-call]
        return w

    def _check_current(self, gradient: Tensor) -> None:
        """A gradient at former edges would arrive at the raw numbers of others. Those have another version, but a graph
        does not read them."""
        if self.former:
            raise changed_since()

    def right_inverse(self, values: Tensor, where: str = "values", advice: str = "") -> Tensor:
        """Raw numbers of values that keep to the constraints; ValueError names an edge that does not."""
        if values.shape != (self.edges,):
            raise ValueError(f"{where}: expected shape ({self.edges},), got {tuple(values.shape)}.")
        values = values.detach()
        if self.frozen is not None and self.held is not None:
            moved = values[self.frozen].to(self.held) != self.held
            if bool(moved.any()):
                k = int(moved.nonzero()[0])
                edge = int(self.frozen[k])
                raise ValueError(
                    f"{where}: expected edge {edge} to keep {float(self.held[k])}, at which it is frozen, got "
                    f"{float(values[edge])}. Remove the parametrization first."
                )
        low, high = self.interval(values)
        outside = (low.isfinite() | high.isfinite()) & ~((values >= low) & (values <= high))  # true of NaN
        if bool(outside.any()):
            edge = int(outside.nonzero()[0])
            raise ValueError(
                f"{where}: expected edge {edge} from {float(low[edge])} to {float(high[edge])}, got "
                f"{float(values[edge])}."
            )
        raw = self.collected(self.of_each(values))
        self._check_shared(where, advice, raw, values)
        return raw

    def interval(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest value of each edge, (nnz,) each, infinite where there is none."""
        low, high = torch.full_like(like, -math.inf), torch.full_like(like, math.inf)
        if self.signs is not None:
            low[self.signs > 0], high[self.signs < 0] = 0.0, 0.0
        if self.bounded is not None and self.low is not None and self.high is not None:
            low[self.bounded], high[self.bounded] = self.low.to(low), self.high.to(high)
        return low, high

    def free(self) -> Tensor | None:
        """Whether each edge can move, (nnz,) booleans; None where all can."""
        if self.frozen is None:
            return None
        return torch.ones(self.edges, dtype=torch.bool, device=self.frozen.device).index_fill(0, self.frozen, False)

    def of_each(self, values: Tensor) -> Tensor:
        """The raw number behind each value, (nnz,), as if none was shared."""
        raw = values.clone() if self.signs is None else torch.where(self.signs == 0, values, values * self.signs)
        if self.bounded is not None and self.low is not None and self.high is not None:
            raw[self.bounded] = _spread(values[self.bounded], self.low.to(values), self.high.to(values))
        return raw

    def collected(self, raw: Tensor, reduce: str = "amax") -> Tensor:
        """One raw number for each type, from those of its edges that can move, or of all where none can."""
        if self.types is None:
            return raw
        one = raw.new_zeros(self.raws).scatter_reduce(0, self.types, raw, reduce, include_self=False)
        free = self.free()
        return one if free is None else one.scatter_reduce(0, self.types[free], raw[free], reduce, include_self=False)

    def _check_shared(self, where: str, advice: str, raw: Tensor, values: Tensor) -> None:
        if self.types is None or not self.edges:
            return
        found = self(raw)
        sizes = (t.nan_to_num(0, 0, 0).abs().amax() for t in (values, self.low, self.high) if t is not None)
        reach = max(float(size) for size in sizes)
        # bounds are inverted to rounding only
        apart = ~torch.isclose(found, values, 0.0, 64 * torch.finfo(values.dtype).eps * reach, equal_nan=True)
        if bool(apart.any()):
            edge = int(apart.nonzero()[0])
            raise ValueError(
                f"{where}: expected edges of type {int(self.types[edge])} to share one value, got "
                f"{float(values[edge])} at edge {edge}, for which others have {float(found[edge])}.{advice}"
            )

    def plan_edit(self, where: str, constraints: Any, slots: SlotMap, numbers: Tensor) -> Plan:
        """How the constraints go on after a change of edges: those of each edge that stays, and for newborn edges the
        one that all have. ``numbers`` are the new values.

        Raises:
            ValueError: edges are frozen that would go, or the constraints differ from edge to edge and do not say what
                holds for newborn ones.
        """
        new = edited(where, self, slots, numbers)
        raw = constraints.original.detach()
        if self.types is None:
            born = new.of_each(off_bounds(new, numbers, slots.newborn))[slots.newborn]
            moved, of_raw = slots.moved(raw, born), slots
        else:
            moved, of_raw = raw.clone(), SlotMap(torch.arange(raw.numel(), device=raw.device), raw.numel())

        def finish() -> None:
            constraints[0] = new.train(self.training)
            self.former = True

        return Plan(constraints.original, of_raw, moved, finish)

    def extra_repr(self) -> str:
        kinds = {
            "shared by": None if self.types is None else self.raws,
            "signed": None if self.signs is None else int(self.signs.count_nonzero()),
            "bounded": None if self.bounded is None else self.bounded.numel(),
            "frozen": None if self.frozen is None else self.frozen.numel(),
        }
        named = [f"{name} {amount}" for name, amount in kinds.items() if amount is not None]
        return f"{self.edges} edges: {', '.join(named)}"


def _squeezed(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """From all numbers into the interval, with slope 1 at its middle; computed from the nearer end."""
    width = high - low
    t = 4 * raw / width
    return torch.where(raw < 0, low + width * sigmoid(t), high - width * sigmoid(-t))


def _spread(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The inverse, finite where rounding has put a value on its bound."""
    least = torch.finfo(values.dtype).tiny
    width = high - low
    ends = ((end / width).clamp(min=least).log() for end in (values - low, high - values))
    return width / 4 * (next(ends) - next(ends))
