"""Two processes of a gloo group, or more, for the tests of torch.distributed."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2


Check = Callable[[int, Path], None]


def in_each(check: Check, folder: Path) -> None:
    """Run ``check(rank, folder)`` in each process; what one raises is raised here."""
    in_stages([(RANKS, check)], folder)


def in_stages(stages: list[tuple[int, Check]], folder: Path) -> None:
    """Run checks one after another, each in a group of so many of the same processes; of one, without a group."""
    mp.spawn(_run, args=(stages, str(folder)), nprocs=max(ranks for ranks, _ in stages), join=True)


def _run(rank: int, stages: list[tuple[int, Check]], folder: str) -> None:
    torch.set_num_threads(1)
    for stage, (ranks, check) in enumerate(stages):
        if rank >= ranks:
            continue
        if ranks == 1:
            check(rank, Path(folder))
            continue
        meeting = f"file://{folder}/meeting-{stage}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
        try:
            check(rank, Path(folder))
        except pytest.fail.Exception as failed:  # no Exception, which alone is sent to the process that waits
            raise AssertionError(str(failed)) from failed
        finally:
            gc.collect()  # what waits in cycles must not outlive the group, whose threads abort the process then
            dist.destroy_process_group()


def equal_everywhere(value: Any) -> None:
    """Fails where ranks have different ones."""
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, value)
    assert all(each == said[0] for each in said), said
