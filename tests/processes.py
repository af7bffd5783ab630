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


def in_each(check: Callable[..., None], folder: Path, ranks: int = RANKS) -> None:
    """Run ``check(rank, folder)`` in each process; what one raises is raised here."""
    mp.spawn(_run, args=(check, str(folder), ranks), nprocs=ranks, join=True)


def _run(rank: int, check: Callable[..., None], folder: str, ranks: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{ranks}", rank=rank, world_size=ranks)
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
