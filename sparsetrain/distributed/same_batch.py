"""Whether the ranks that compute a batch together were given the same one."""

import zlib
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import ranks, tracing

SAME = 0.01  # of a batch's norm: ranks that computed it before may round differently


def check_batch(where: str, x: Tensor, group: Any, numbers: bool) -> None:
    """Compare the batch over a group. All of its ranks call it.

    Ranks that exchange arrays of other shapes wait for each other, or are ended by the library that carries them; and
    outputs of other numbers would be put together to a result of no batch.

    Args:
        numbers: whether to compare these too, by three sums over all of them, which tells other samples, and not a few
            that are other among many, or that differ by little of what they are.

    Raises:
        ValueError: on all ranks, naming one whose batch is another than that of the first.
    """
    form = _form(x)
    mark = _mark(x) if numbers and tracing.readable(x) else torch.full((3,), torch.nan, dtype=torch.float64)
    own = torch.cat([torch.tensor([float(zlib.crc32(form.encode()))], dtype=torch.float64), mark]).to(x.device)
    every = [torch.empty_like(own) for _ in range(ranks.count(where, group))]
    with ranks.all_answer(where, group):
        dist.all_gather(every, own, group=group)
    (first, *marks), *others = (each.tolist() for each in every)
    zero = ranks.number_of(group, 0)
    for place, (other, *its_marks) in enumerate(others, start=1):
        rank = ranks.number_of(group, place)
        if other != first:
            forms = ranks.gathered(where, form, group)
            raise ValueError(
                f"{where}: expected the same batch on all ranks, got {forms[0]} on rank {zero} and {forms[place]} on "
                f"rank {rank}."
            )
        most = SAME * max(marks[2], its_marks[2])
        if any(abs(a - b) > most for a, b in zip(marks, its_marks, strict=True)):  # never of NaN
            raise ValueError(
                f"{where}: expected the same batch on all ranks, which compute it together, got other numbers on rank "
                f"{rank} than on rank {zero}. Load the same samples in the same order on each, without a "
                "DistributedSampler."
            )


def _form(x: Tensor) -> str:
    gradient = "a gradient" if torch.is_grad_enabled() and x.requires_grad else "no gradient"
    return f"shape {tuple(x.shape)} in {str(x.dtype).removeprefix('torch.')} with {gradient}"


def _mark(x: Tensor) -> Tensor:
    """Two projections of the numbers in their order, and their norm."""
    numbers = x.detach().reshape(-1).double()
    angles = torch.arange(numbers.numel(), dtype=torch.float64, device=x.device)
    return torch.stack([numbers @ angles.cos(), numbers @ angles.sin(), numbers.norm()]).cpu()
