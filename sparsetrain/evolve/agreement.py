"""Several processes that train one model end with the same edges: they draw alike, see all gradients, and compare."""

from collections.abc import Mapping
from typing import Any

import torch

from .. import ranks
from ..ops.factors import Factors
from ..structure.edit import Edit


class Agreement:
    """What the processes of a group do together; alone, nothing.

    Args:
        group: a process group, or None for all processes, where there are several.
    """

    def __init__(self, group: Any) -> None:
        self.size = ranks.count("Evolver", group)
        self.group = group if self.size > 1 else None

    def generator(self, given: torch.Generator | None) -> torch.Generator:
        """A source of random numbers that is in the same state in all processes: that of the first."""
        source = given
        if source is None:
            source = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        source.set_state(self._gathered(source.get_state())[0])
        return source

    def all_factors(self, factors: list[list[Factors]]) -> list[list[Factors]]:
        """The factors of all processes: the sum of products over them is the gradient of all samples.

        They are a batch of inputs and outputs of each process, and usually much smaller than a whole gradient.
        """
        if self.size < 2:
            return factors
        device = next((each.a.device for step in factors for each in step), torch.device("cpu"))
        every = self._gathered([[each.of(each.a.cpu(), each.b.cpu()) for each in step] for step in factors])
        steps = max(len(each) for each in every)
        return [
            [part.of(part.a.to(device), part.b.to(device)) for each in every if k < len(each) for part in each[k]]
            for k in range(steps)
        ]

    def check(self, edits: Mapping[str, Edit]) -> None:
        """RuntimeError where processes would go on with different edges."""
        if self.size < 2:
            return
        every = self._gathered({name: edit.topology.digest for name, edit in edits.items()})
        for rank, other in enumerate(every):
            for name, digest in every[0].items():
                if other.get(name) != digest:
                    raise RuntimeError(
                        f"Evolver.step: expected all processes to choose the same edges, process {rank} would have "
                        f"others than process 0 in layer {name!r}. Edges are as they were. Their values differ, or a "
                        "rule draws from another source than layer.generator: wrap the model in "
                        "DistributedDataParallel before it trains."
                    )

    def _gathered(self, item: Any) -> list[Any]:
        return ranks.gathered("Evolver", item, self.group) if self.size > 1 else [item]
