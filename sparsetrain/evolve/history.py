"""What is known of the past of a layer's edges: when each was born, and which positions were ever tried."""

from typing import Any

import torch
from torch import Tensor

from ..edges.slots import SlotMap
from ..structure.edit import Edit
from ..structure.index_types import taken
from ..structure.topology import Topology

EXACT = 1 << 20  # positions up to which all are remembered, whatever the number of edges
PER_EDGE = 4  # above, positions that are remembered for each edge: as many bytes as the values take


class History:
    """Births of the edges, and the explored positions of all rows or of a sample of them."""

    def __init__(self, t: Topology, initial: int | None = None) -> None:
        self.topology = t  # as the last update left it
        self.initial = t.nnz if initial is None else initial
        self.born = torch.zeros(t.nnz, dtype=torch.int32, device=t.device)  # those that were there are not newborn
        room = max(EXACT, PER_EDGE * self.initial) // max(1, t.shape[1])
        rows = sample(t.shape[0], max(1, room)).to(t.device)
        self.number = torch.full((t.shape[0],), -1, dtype=torch.int64, device=t.device)  # of a row in the sample
        self.number[rows] = torch.arange(rows.numel(), device=t.device)
        self.tried = torch.zeros(rows.numel(), t.shape[1], dtype=torch.bool, device=t.device)
        self._mark(t.row, t.col)

    def update(self, edit: Edit, step: int) -> None:
        """Edges changed after this step."""
        self.topology = edit.topology
        self.born = SlotMap(edit.source, edit.before.nnz).moved(self.born, step)
        grown = edit.grown
        self._mark(edit.topology.row[grown], taken(edit.topology.stored_col, grown).long())

    def check(self, name: str, t: Topology) -> None:
        """ValueError: a layer has other edges than the last update left, which this is not the past of."""
        if t is self.topology:
            return
        if t.digest != self.topology.digest:
            raise ValueError(
                f"Evolver.step: expected the edges that layer {name!r} had after the last step, {self.topology!r}, got "
                f"{t!r} with others, changed by optim.carry, drop_zeros or a loaded state. Make a new Evolver after "
                "such a change, or load the state of this one along."
            )
        self.topology = t

    def age(self, step: int) -> Tensor:
        """Steps since each edge was born."""
        return step - self.born

    @property
    def explored(self) -> float:
        """Share of the positions that had an edge at any time."""
        return float(self.tried.count_nonzero()) / max(1, self.tried.numel())

    def state(self) -> dict[str, Any]:
        """As it is saved."""
        return {"initial": self.initial, "born": self.born.clone(), "tried": self.tried.clone()}

    def load(self, state: dict[str, Any]) -> None:
        """As it was saved; sizes are checked before."""
        self.initial = int(state["initial"])
        self.born = state["born"].to(self.born.device, torch.int32, copy=True)
        self.tried = state["tried"].to(self.tried.device, torch.bool, copy=True)

    def fits(self, state: dict[str, Any]) -> bool:
        """Whether this is the past of as many edges in a matrix of this shape."""
        shapes = [getattr(state.get(name), "shape", None) for name in ("born", "tried")]
        return shapes == [self.born.shape, self.tried.shape]

    def _mark(self, row: Tensor, col: Tensor) -> None:
        place = self.number[row]
        known = place >= 0
        self.tried.view(-1)[place[known] * self.tried.shape[1] + col[known]] = True


def sample(size: int, count: int) -> Tensor:
    """``count`` numbers below ``size``, ascending, the same ones each time; all of them where there are fewer."""
    if count >= size:
        return torch.arange(size)
    # spread evenly: a golden-ratio sequence has no pattern that a rule's choice of rows could follow
    spread = (torch.arange(2 * count, dtype=torch.float64) * 0.6180339887498949 % 1 * size).long()
    spread = torch.unique(spread)
    chosen: Tensor = torch.unique(spread[torch.linspace(0, spread.numel() - 1, count).long()])
    return chosen
