"""CHT: Cannistraci-Hebb training, which adds edges where the graph of the other edges makes them likely."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..nn.sparse_convolution import SparseConvolution
from ..ops import edge_choice
from ..ops.likely_vacant import likely_vacant
from ..structure.edit import Edit
from .layers import Layer
from .rule import Rule, drawn
from .schedules import Schedule


class CHT(Rule):
    r"""Cannistraci-Hebb training: removes the smallest values, adds edges by link prediction; needs no gradient.

    The edges that stay are a graph between outputs and inputs. An absent edge between output u and input v gains by
    each path of length three that joins them, u - y - z - v over an input y and an output z, the more the fewer links
    leave the local community of u, v and all such y and z:

    .. math::
        \text{score}(u, v) = \sum_{(y, z)} \frac{1}{\sqrt{(1 + e_y)(1 + e_z)}},

    .. math::
        1 + e_y = d_y - |N_y \cap N_v|, \qquad 1 + e_z = d_z - |N_z \cap N_u|,

    with :math:`e` the links to nodes outside of the community, :math:`d` degrees and :math:`N` neighbours. This is
    CH3-L3, the rule by which CHT was published: external links alone count. CH2-L3 rewards internal links too, which
    in a community between two sides are the paths that are summed already. Scores are rounded to float32, and of
    equal ones the first come, row by row, on any number of threads. Where fewer positions have a path than are
    needed, the rest is drawn at random.

    An edge that would go and come again never went. An output may lose all of its edges, as published; without any it
    has no path, and comes back by a random draw alone. Of CHT this is the change of edges: its initial structures, the
    removal of chains that lead nowhere, the early stop, and the draws of CHTs are not part of it.

    The cost grows as edges x edges of an output x edges of an input, so with the third power of the density. One
    update of a layer from 784 to 1000 takes 0.02 s, 0.13 s and 0.43 s at densities 0.01, 0.05 and 0.1, on two cores of
    an AMD EPYC server (model 17). Memory is that of about a million scores, or of as many as edges come.

    Args:
        start: values that newborn edges start with: ``"zero"``, as published, or ``"draw"`` from the distribution of a
            new layer.

    Raises:
        ValueError: another word; for an Evolver over convolutions.

    Source: Zhang et al. (2024), Epitopological learning and Cannistraci-Hebb network shape intelligence brain-inspired
    theory for ultra-sparse advantage in deep learning, ICLR. Muscoloni et al. (2020), Adaptive network automata
    modelling of complex networks, preprints 202012.0808, for CH3-L3.

    Example:
        >>> from sparsetrain import evolve
        >>> from sparsetrain.nn import SparseLinear
        >>> layer = SparseLinear(100, 50, density=0.1)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> schedule = evolve.Constant(interval=1, prune_fraction=0.3)
        >>> evolver = evolve.Evolver(layer, optimizer, evolve.CHT(), schedule)
        >>> layer(torch.randn(8, 100)).square().mean().backward()
        >>> optimizer.step()
        >>> change = evolver.step()
        >>> layer.topology.nnz, change.pruned > 100
        (500, True)
    """

    revives = True

    def __init__(self, start: Literal["zero", "draw"] = "zero") -> None:
        if start not in ("zero", "draw"):
            raise ValueError(f"CHT: expected start to be 'zero' or 'draw', got {start!r}.")
        self.newborn = start

    def check(self, schedule: Schedule, layers: Sequence[Layer]) -> None:
        """Layers are graphs between inputs and outputs, which positions of a kernel are not."""
        super().check(schedule, layers)
        kinds = {layer.name: type(layer.module) for layer in layers}
        convolutions = [name for name, kind in kinds.items() if issubclass(kind, SparseConvolution)]
        if convolutions:
            name = convolutions[0]
            raise ValueError(
                f"CHT: expected linear layers, {name!r} is a {kinds[name].__name__}, whose columns are no neurons. "
                "Leave it out with layers=, or take another rule."
            )

    def grow(self, layer: Layer, kept: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Where scores are largest, and at random where too few positions have one."""
        likely = likely_vacant(layer.topology, kept, count)
        missing = count - likely[0].numel()
        if not missing:
            return likely
        taken = Edit(layer.topology, kept, likely).topology
        all_of_them = torch.ones(taken.nnz, dtype=torch.bool, device=kept.device)
        others = edge_choice.random_vacant(taken, all_of_them, missing, layer.generator)
        return torch.cat([likely[0], others[0]]), torch.cat([likely[1], others[1]])

    def start(self, layer: Layer, edit: Edit) -> Tensor | None:
        """Zeros or random values."""
        return drawn(layer, edit) if self.newborn == "draw" else None

    def __repr__(self) -> str:
        return f"CHT(start={self.newborn!r})"
