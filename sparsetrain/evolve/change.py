"""Change: what an update did, for logs and plots."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..layer_names import named_modules
from ..optim import carry
from ..structure.edit import Edit


@dataclass(frozen=True)
class LayerChange:
    """What an update did to one layer.

    Attributes:
        edit: the change itself; ``edit.topology`` has the new edges.
        explored: share of all positions that had an edge at any time so far, R_s of ITOP; of a sample of the rows where
            the matrix is large beside its edges.
        age: steps since each edge was born, (nnz,).
    """

    edit: Edit
    explored: float
    age: Tensor = field(repr=False)

    @property
    def edges(self) -> int:
        """Edges now."""
        return self.edit.topology.nnz

    @property
    def pruned(self) -> int:
        """Edges that went."""
        return self.edit.before.nnz - self.edges + self.grown

    @property
    def grown(self) -> int:
        """Edges that came."""
        return self.edit.grown.numel()

    @property
    def churn(self) -> float:
        """Edges that went / edges before."""
        return self.pruned / max(1, self.edit.before.nnz)

    @property
    def in_degree(self) -> Tensor:
        """Edges that arrive at each output, (out,)."""
        return self.edit.topology.fan_in

    @property
    def out_degree(self) -> Tensor:
        """Edges that leave each input, (in,). In a first layer that is what the network looks at."""
        return self.edit.topology.fan_out

    @property
    def dead_outputs(self) -> int:
        """Outputs at which no edge arrives."""
        return int((self.in_degree == 0).count_nonzero())

    @property
    def dead_inputs(self) -> int:
        """Inputs that no edge leaves."""
        return int((self.out_degree == 0).count_nonzero())


@dataclass(frozen=True)
class Change:
    """What an update did to a model. It holds the edges before and after the update: log what you need, then drop it.

    Attributes:
        step: after which training step.
        layers: by name.

    Example:
        >>> from sparsetrain import evolve
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(100, 50, density=0.1)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> schedule = evolve.Constant(interval=1, prune_fraction=0.3)
        >>> evolver = evolve.Evolver(layer, optimizer, evolve.SET(), schedule)
        >>> layer(torch.randn(8, 100)).square().mean().backward()
        >>> optimizer.step()
        >>> sorted(evolver.step().scalars())[:4]
        ['evolve/age', 'evolve/churn', 'evolve/dead_inputs', 'evolve/dead_outputs']
    """

    step: int
    layers: dict[str, LayerChange]

    def __repr__(self) -> str:
        count = len(self.layers)
        return (
            f"Change(step={self.step}, {count} layer{'' if count == 1 else 's'}, {self.edges:,} edges, "
            f"{self.pruned:,} pruned, {self.grown:,} grown)"
        )

    @property
    def edges(self) -> int:
        """Edges now, of all layers that change."""
        return sum(layer.edges for layer in self.layers.values())

    @property
    def positions(self) -> int:
        """Positions of these layers."""
        return sum(layer.edit.topology.numel for layer in self.layers.values())

    @property
    def density(self) -> float:
        """Edges / positions."""
        return self.edges / max(1, self.positions)

    @property
    def pruned(self) -> int:
        """Edges that went."""
        return sum(layer.pruned for layer in self.layers.values())

    @property
    def grown(self) -> int:
        """Edges that came."""
        return sum(layer.grown for layer in self.layers.values())

    @property
    def churn(self) -> float:
        """Edges that went / edges before."""
        return self.pruned / max(1, sum(layer.edit.before.nnz for layer in self.layers.values()))

    @property
    def explored(self) -> float:
        """Share of all positions that had an edge at any time so far (R_s)."""
        tried = sum(layer.explored * layer.edit.topology.numel for layer in self.layers.values())
        return tried / max(1, self.positions)

    @property
    def age(self) -> float:
        """Steps since an edge was born, on average."""
        return sum(float(layer.age.sum()) for layer in self.layers.values()) / max(1, self.edges)

    @property
    def dead_outputs(self) -> int:
        """Outputs at which no edge arrives."""
        return sum(layer.dead_outputs for layer in self.layers.values())

    @property
    def dead_inputs(self) -> int:
        """Inputs that no edge leaves."""
        return sum(layer.dead_inputs for layer in self.layers.values())

    @property
    def edits(self) -> dict[str, Edit]:
        """The changes themselves, by the names of layers."""
        return {name: layer.edit for name, layer in self.layers.items()}

    def scalars(self, prefix: str = "evolve/") -> dict[str, float]:
        """All of it in numbers, of the model and of each layer, as loggers take them.

        ``wandb.log(change.scalars(), step=change.step)``, or ``writer.add_scalar(name, number, change.step)`` for each.
        """
        numbers = {f"{prefix}{name}": float(getattr(self, name)) for name in _OF_MODEL}
        for layer, change in self.layers.items():
            place = f"{prefix}{layer}/" if layer else f"{prefix}model/"
            numbers |= {f"{place}{name}": float(getattr(change, name)) for name in _OF_LAYER}
            numbers[f"{place}density"] = change.edit.topology.density
            numbers[f"{place}age"] = float(change.age.float().mean()) if change.age.numel() else 0.0
        return numbers

    @torch.no_grad()
    def follow(self, model: nn.Module, optimizer: Any = None) -> None:
        """Change the edges of a copy of the model in the same way, for instance of an average of weights (EMA, SWA).

        Newborn edges start at the copy's zero. Layers are found by their names, in wrappers such as torch's
        AveragedModel too.

        Raises:
            ValueError: a layer is missing, or has other edges than the model had.
        """
        modules = named_modules(model)
        missing = [name for name in self.edits if name not in modules]
        if missing:
            raise ValueError(f"Change.follow: expected layers {missing}, the model has none of these names.")
        carry(optimizer, {modules[name]: edit for name, edit in self.edits.items()})


_OF_MODEL = ("edges", "density", "pruned", "grown", "churn", "explored", "age", "dead_inputs", "dead_outputs")
_OF_LAYER = ("edges", "pruned", "grown", "churn", "explored", "dead_inputs", "dead_outputs")
