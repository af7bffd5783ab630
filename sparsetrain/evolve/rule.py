"""Rule: which edges go and which come. What a user subclasses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..structure.edit import Edit
from .layers import Layer
from .numbers import limits
from .schedules import Schedule


class Rule:
    r"""How an update chooses edges: it removes the smallest values and adds random edges, or as a subclass says.

    A rule of one's own overrides the one method in which it differs. Everything else - when updates happen, what is
    carried along, checkpoints, several processes - is the Evolver's.

    Rules choose as published, and may leave an output without edges for a time: SET, RigL, SNFS, CHT and Top-KAST grow
    edges there again or elsewhere, and ``Change.dead_outputs`` counts them. It is otherwise in a layer that the final
    density leaves fewer edges than outputs: an Evolver warns, and from the first update on each output keeps its edge
    of the largest score. ``layer.largest`` sees to that; a rule of one's own that chooses otherwise is helped out with
    the largest values. Inputs have no floor: one that loses all edges is one that the network no longer looks at.

    Attributes:
        steps: the last so many steps before an update whose gradients the rule looks at (``layer.largest_vacant``).
        revives: whether an edge that goes and comes again in one update never went, and keeps its value; else it starts
            anew.
        only_prunes: whether no edges come.
        shares_budget: whether only the edges of all layers together follow the schedule.

    Example: prune what is small for its age, in three lines.
        >>> import torch
        >>> from sparsetrain import evolve
        >>> class Patient(evolve.Rule):
        ...     def keep(self, layer, count):
        ...         return layer.largest(layer.values.abs() + 0.1 / (1 + layer.age), count)
        >>> Patient()
        Patient()
    """

    steps = 0
    revives = False
    only_prunes = False
    shares_budget = False

    def plan(self, layers: Sequence[Layer], totals: Sequence[int], fraction: float) -> list[tuple[int, int]]:
        """For each layer how many edges stay, and how many it has afterwards.

        Args:
            layers: all that change.
            totals: the edges that each has afterwards by the schedule.
            fraction: of these, how many are replaced by the schedule.
        """
        return [
            (min(layer.nnz, max(total - math.floor(fraction * layer.rate * total), layer.floor)), total)
            for layer, total in zip(layers, totals, strict=True)
        ]

    def keep(self, layer: Layer, count: int) -> Tensor:
        """Booleans (nnz,), true at the edges that stay, about ``count`` of them: those of the largest magnitude.

        In a layer that has a ``floor`` an output which would lose all of its edges keeps the largest.
        """
        return layer.largest(layer.values.abs(), count)

    def fewest(self, layer: Layer) -> int:
        """Edges that the layer keeps whatever the schedule says; a final density that leaves fewer is refused."""
        return 0

    def grow(self, layer: Layer, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(rows, columns) of so many positions that have no kept edge: random ones."""
        return layer.random_vacant(kept, count)

    def start(self, layer: Layer, edit: Edit) -> Tensor | None:
        """Values that newborn edges start with, in the order of ``edit.grown``; None for zeros."""
        return None

    def begin(self, modules: Mapping[str, Any]) -> None:
        """Called once, when an Evolver is made, with the layers by name: for rules that keep something for each."""

    def after_step(self, modules: Mapping[str, Any]) -> None:
        """Called after each step of the optimizer, before a change of edges that may be due."""

    def after_change(self, modules: Mapping[str, Any], edits: Mapping[str, Edit]) -> None:
        """Called when edges have changed, and everything was carried along."""

    def state_dict(self) -> dict[str, Any]:
        """What the rule keeps, for checkpoints: tensors, numbers, text, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what was kept."""

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """ValueError where a schedule or a layer makes no sense for this rule."""
        if schedule.prune_fraction and self.only_prunes:
            raise ValueError(
                f"{self!r}: expected a schedule without prune_fraction, as no edges come in place of others, got "
                f"{schedule}. Leave it out, or use a rule that grows."
            )
        if schedule.prune_fraction is None and not self.only_prunes:
            raise ValueError(
                f"{self!r}: expected a schedule with a prune_fraction, got {schedule}. Pass for instance "
                "Cosine(interval=100, stop=10000, prune_fraction=0.3)."
            )

    def edit(self, layer: Layer, stay: int, total: int) -> Edit:
        """The change of one layer."""
        kept: Any = self.keep(layer, stay)
        if not isinstance(kept, Tensor) or kept.dtype is not torch.bool or kept.shape != (layer.nnz,):
            got = f"{kept.dtype}, {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
            raise TypeError(
                f"{type(self).__name__}.keep: expected booleans of shape ({layer.nnz},), true at the edges that stay, "
                f"got {got}. Nothing was changed."
            )
        if layer.floor:
            kept = _with_each_neuron(layer, kept)
        count = max(0, total - int(kept.count_nonzero()))
        if not count:
            return Edit(layer.topology, kept)
        edit = Edit(layer.topology, kept, self.grow(layer, kept, count), revive=self.revives)
        if edit.topology.nnz != total:
            raise ValueError(
                f"{type(self).__name__}.grow: expected {count} positions, (rows, columns), as the schedule has it, got "
                f"{edit.topology.nnz - total + count}. Nothing was changed."
            )
        return edit

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({options})"


def _with_each_neuron(layer: Layer, kept: Tensor) -> Tensor:
    """What stays, and the largest edge of each output that would lose all of its edges, whatever a rule of one's own
    does."""
    row = layer.topology.row.long()
    alive = torch.zeros(layer.shape[0], dtype=torch.bool, device=kept.device)
    alive[row[kept]] = True
    held = layer.held(layer.values.abs())
    return kept if held is None else kept | (held & ~alive[row])


def drawn(layer: Layer, edit: Edit) -> Tensor:
    """Values from the distribution that a new layer starts with: U(-k, k), k = 1 / sqrt(edges of a row on average).

    Constraints leave a part of it, or between bounds that are elsewhere all that is between them.
    """
    t = edit.topology
    k = math.sqrt(t.shape[0] / t.nnz) if t.nnz else 0.0
    low, high = limits(layer.module, layer.values)
    ends = (max(-k, low), min(k, high)) if max(-k, low) <= min(k, high) else (low, high)
    numbers = torch.empty(int(edit.grown.numel()), dtype=layer.values.dtype, device="cpu")
    return numbers.uniform_(*ends, generator=layer.generator)
