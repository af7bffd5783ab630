"""Top-KAST: a forward pass reads fewer edges than train."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from .. import checks
from ..ops.edge_choice import smallest
from ..structure.edit import Edit
from .layers import Layer
from .numbers import put_values, values_of
from .rule import Rule, drawn
from .schedules import Schedule


class TopKAST(Rule):
    r"""Top-KAST: forward passes use only the largest values, and all edges train.

    Of the stored edges B the part A of the largest :math:`|w|` counts in a forward pass; the others count as zero, and
    get gradients all the same. What an optimizer does to them is kept aside until a change of edges, when A is chosen
    anew from all of B. In a change the smallest of B go, and random edges come that start at random values: in the
    published method the weights outside of B have theirs from the beginning; here they need no memory until then. An
    output may lose all of its edges, as published, and one that has some may have none of them in A.

    The values of a layer are those that a forward pass reads: zero outside of A. After training,
    convert.drop_zeros takes those edges out.

    Args:
        forward: the part of the edges that a forward pass reads, above 0 and up to 1.
        decay: by which values outside of A shrink at each step, times 1 / forward: exploration costs more than use.
        start: values that newborn edges start with: ``"draw"`` from the distribution of a new layer, or ``"zero"``.

    Raises:
        ValueError: a number out of range, or another word; for an Evolver over layers with constraints, and for a
            second Evolver.

    Source: Jayakumar et al. (2020), Top-KAST: top-k always sparse training, NeurIPS. There all weights exist, at their
    initial values outside of B.

    Example:
        >>> import torch
        >>> from sparsetrain import evolve
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(100, 50, density=0.2)
        >>> optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        >>> schedule = evolve.Constant(interval=10, prune_fraction=0.1)
        >>> evolver = evolve.Evolver(layer, optimizer, evolve.TopKAST(forward=0.5), schedule)
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     layer(torch.randn(8, 100)).square().mean().backward()
        ...     optimizer.step()
        ...     _ = evolver.step()
        >>> layer.topology.nnz, int((layer.values != 0).sum())
        (1000, 500)
    """

    def __init__(self, forward: float = 0.5, decay: float = 0.0, start: Literal["draw", "zero"] = "draw") -> None:
        self.forward = checks.fraction("TopKAST", "forward", forward)
        if not self.forward:
            raise ValueError("TopKAST: expected forward above 0, got 0: a forward pass would read nothing.")
        self.decay = checks.fraction("TopKAST", "decay", decay)
        if start not in ("draw", "zero"):
            raise ValueError(f"TopKAST: expected start to be 'draw' or 'zero', got {start!r}.")
        self.newborn = start
        self._aside: dict[str, tuple[Tensor, Tensor]] = {}  # places of values outside of A, and the values

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """Values can be zero outside of A, and no other training has its values aside here."""
        super().check(schedule, layers)
        for layer in layers:
            if is_parametrized(layer.module, "values"):
                raise ValueError(
                    f"TopKAST: expected values without constraints in layer {layer.name!r}, which can be zero outside "
                    "of the part that a forward pass reads. Remove them, or leave the layer out with layers=."
                )
        if self._aside:
            raise ValueError(
                "TopKAST: expected a rule that no other Evolver has, as it keeps values of the layers. Pass a new "
                "TopKAST(...) to each."
            )

    def begin(self, modules: Mapping[str, Any]) -> None:
        """Choose A, and put the others aside."""
        for name, module in modules.items():
            self._choose(name, module, values_of(module, module.topology))

    def after_step(self, modules: Mapping[str, Any]) -> None:
        """What an optimizer did to values outside of A is put to those that are aside."""
        for name, (places, aside) in self._aside.items():
            module = modules[name]
            aside += values_of(module, module.topology)[places]
            if self.decay:
                aside *= 1 - min(1.0, self.decay / self.forward)
            put_values(module, places, torch.zeros_like(aside))

    def keep(self, layer: Layer, count: int) -> Tensor:
        """The largest of all, those that are aside among them."""
        return layer.largest(self._whole(layer.name, layer.values).abs(), count)

    def start(self, layer: Layer, edit: Edit) -> Tensor | None:
        """Random values or zeros."""
        return drawn(layer, edit) if self.newborn == "draw" else None

    def after_change(self, modules: Mapping[str, Any], edits: Mapping[str, Edit]) -> None:
        """Choose A anew."""
        for name, edit in edits.items():
            places, aside = self._aside[name]
            held = aside.new_zeros(edit.before.nnz).index_copy_(0, places, aside)
            new = edit.topology
            stays = edit.source >= 0
            numbers = values_of(modules[name], new).clone()
            numbers[stays] += held[edit.source[stays].long()]
            self._choose(name, modules[name], numbers)

    def state_dict(self) -> dict[str, Any]:
        """The values that are aside."""
        return {"aside": {name: [places.clone(), aside.clone()] for name, (places, aside) in self._aside.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As it was saved.

        Raises:
            ValueError: it is of other layers, or of other numbers of edges. Nothing is changed then.
        """
        sizes = {name: [place.shape for place in each] for name, each in self._aside.items()}
        saved = {name: [place.shape for place in each] for name, each in state.get("aside", {}).items()}
        if saved != sizes:
            raise ValueError(f"TopKAST: expected values that are aside for {sizes}, the state has those for {saved}.")
        self._aside = {name: (places.clone(), aside.clone()) for name, (places, aside) in state["aside"].items()}

    def __repr__(self) -> str:
        return f"TopKAST(forward={self.forward}, decay={self.decay}, start={self.newborn!r})"

    def _whole(self, name: str, values: Tensor) -> Tensor:
        places, aside = self._aside[name]
        return values.index_copy(0, places, aside.to(values))

    def _choose(self, name: str, module: Any, numbers: Tensor) -> None:
        count = numbers.numel()
        outside = smallest(numbers.abs(), count - min(count, max(1, round(self.forward * count))))
        places = outside.nonzero().flatten()
        self._aside[name] = (places, numbers[places].clone())
        put_values(module, torch.arange(numbers.numel(), device=numbers.device), numbers.masked_fill(outside, 0.0))
