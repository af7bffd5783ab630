"""Two processes of a gloo group, or more, for the tests of torch.distributed."""

import gc
import os
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

RANKS = 2

Check = Callable[[int, Path], None]
_processes: list[tuple[ProcessPoolExecutor, int]] = []  # with their numbers; they wait for the next test


def in_each(check: Check, folder: Path, ending: int | None = None) -> None:
    """Run ``check(rank, folder)`` in each process; what one raises is raised here. The rank ``ending`` ends its own."""
    in_stages([(RANKS, check)], folder, ending)


def in_stages(stages: list[tuple[int, Check]], folder: Path, ending: int | None = None) -> None:
    """Run checks one after another, each in a group of so many of the same processes; of one, without a group."""
    count = max(ranks for ranks, _ in stages)
    while len(_processes) < count:
        process = ProcessPoolExecutor(1, get_context("spawn"))
        _processes.append((process, process.submit(os.getpid).result()))
    runs = {
        process.submit(_run, rank, stages, str(folder)): rank for rank, (process, _) in enumerate(_processes[:count])
    }
    others = {run for run, rank in runs.items() if rank != ending}
    wait(others, return_when=FIRST_EXCEPTION)
    try:
        for run in sorted(others, key=lambda run: not run.done()):  # one that waits for another may never be
            run.result()
        for run in runs.keys() - others:
            with pytest.raises(BrokenProcessPool):
                run.result()
    finally:
        if any(not run.done() or run.exception() is not None for run in runs):
            while _processes:
                with suppress(ProcessLookupError):  # which has ended
                    os.kill(_processes.pop()[1], signal.SIGKILL)


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
