"""Slots: how what has one entry for each edge moves when edges change; and how a module goes on with other edges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import sparsetrain_kernels as kernels
import torch
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor, nn

from ..arrays import array, lends_memory
from ..structure.edit import Edit
from .weights import are_real


class SlotMap(NamedTuple):
    """For each new entry the place of the old one, or -1."""

    source: Tensor  # (new entries,) integers
    before: int  # old entries

    @property
    def keeps_size(self) -> bool:
        """Whether there are as many entries as before, so that they can stay in their memory."""
        return self.source.numel() == self.before

    @property
    def newborn(self) -> Tensor:
        """Which new entries have no old one."""
        return self.source < 0

    def moves_in_place(self, old: Tensor, fill: Tensor | float) -> bool:
        """Whether ``move_in_place`` takes them: nothing can fail in it, as memory does that is asked for on the way."""
        if not self.keeps_size or isinstance(fill, Tensor) or not old.is_contiguous():
            return False
        short = old.dtype is torch.bfloat16
        return _compiles(old.detach().view(torch.int16) if short else old.detach()) and not (short and fill)

    def move_in_place(self, old: Tensor, fill: float, room: Tensor) -> None:
        """``old.copy_(moved(old, fill))`` through ``room``, bytes that are as many or more."""
        numbers = old.detach().view(-1)
        numbers = numbers.view(torch.int16) if numbers.dtype is torch.bfloat16 else numbers
        new = room[: numbers.nbytes].view(numbers.dtype)
        kernels.carry(array(self.source), array(numbers), array(new), fill, torch.get_num_threads())
        old.view(-1).copy_(new.view(old.dtype))

    def moved(self, old: Tensor, fill: Tensor | float = 0.0) -> Tensor:
        """One entry for each new slot: the old one bit for bit, or ``fill``, one for all or one for each newborn."""
        flat, source = old.detach().reshape(-1), self.source
        each = isinstance(fill, Tensor) and fill.ndim > 0
        start = 0.0 if each else float(fill)
        if _compiles(flat):
            new = torch.empty(source.numel(), dtype=flat.dtype)
            kernels.carry(array(source), array(flat), array(new), start, torch.get_num_threads())
        elif flat.dtype is torch.bfloat16 and not start and _compiles(flat.view(torch.int16)):  # a zero has no bits
            new = SlotMap(source, self.before).moved(flat.view(torch.int16)).view(torch.bfloat16)
        elif flat.numel():
            new = flat[source.clamp(min=0).long()].masked_fill(self.newborn, start)
        else:
            new = flat.new_full((source.numel(),), start)
        if each:
            new[self.newborn] = torch.as_tensor(fill).to(new)
        return new.view(old.shape) if self.keeps_size else new


def _compiles(numbers: Tensor) -> bool:
    """Whether the kernel takes them."""
    known = numbers.dtype in (torch.float32, torch.float64, torch.int32, torch.int16)
    return COMPILES and known and numbers.device.type == "cpu" and lends_memory(numbers)


@dataclass
class Plan:
    """How a module goes on with other edges: everything is ready, and nothing is changed yet."""

    parameter: nn.Parameter  # what an optimizer has
    slots: SlotMap  # of its entries
    numbers: Tensor  # its new data
    finish: Callable[[], None]  # what else the module changes, which can't fail


class Editable(Protocol):
    """A module whose edges can change."""

    def plan_edit(self, where: str, edit: Edit, start: Tensor | None) -> Plan:
        """What a change of edges means for it, all checked. ``start`` has the values of newborn edges, else zeros."""


def started(where: str, edit: Edit, start: Any, like: Tensor) -> Tensor | float:
    """What newborn edges start with: a finite number for each, or zeros."""
    if start is None:
        return 0.0
    count = edit.grown.numel()
    if not are_real(start) or start.shape != (count,):
        got = f"shape {tuple(start.shape)}, {start.dtype}" if isinstance(start, Tensor) else type(start).__name__
        raise ValueError(f"{where}: expected values with a real number for each of {count} grown edges, got {got}.")
    numbers = start.detach().to(like)
    if not bool(numbers.isfinite().all()):
        raise ValueError(
            f"{where}: expected values that are finite in {like.dtype}, got {start[~numbers.isfinite()][0]}."
        )
    return numbers
