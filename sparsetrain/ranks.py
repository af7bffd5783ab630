"""What the ranks of a process group tell each other, and what an error says where one of them does not answer."""

import atexit
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch.distributed as dist

REST = 0.05  # seconds


def count(where: str, group: Any = None) -> int:
    """How many ranks a group has, None for all processes; one where no group was made. ValueError: we are not in it."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    ranks = dist.get_world_size(group)
    if ranks < 0:
        raise ValueError(
            f"{where}: expected a group that rank {dist.get_rank()} is in, got one of other ranks. Call it on "
            "the ranks of the group alone."
        )
    return ranks


def number_of(group: Any, place: int) -> int:
    """Which rank is at a place of a group, as the processes count."""
    return place if group is None else dist.get_global_rank(group, place)


def own_place(group: Any = None) -> int:
    """The place of this rank in a group."""
    return dist.get_rank(group)


def gathered(where: str, item: Any, group: Any = None) -> list[Any]:
    """The items of all ranks, in their order. All of them call it.

    RuntimeError: one does not, until the group's timeout, or has ended.
    """
    if count(where, group) < 2:
        return [item]
    every: list[Any] = [None] * count(where, group)
    with all_answer(where, group):
        dist.all_gather_object(every, item, group=group)
    return every


def sent_by_first(where: str, item: Any, group: Any = None) -> Any:
    """The item of the group's first rank, on all of them. All of them call it. RuntimeError: as ``gathered``."""
    if count(where, group) < 2:
        return item
    sent = [item]
    with all_answer(where, group):
        dist.broadcast_object_list(sent, number_of(group, 0), group)
    return sent[0]


@contextmanager
def all_answer(where: str, group: Any = None) -> Iterator[None]:
    """Around an exchange of all ranks.

    RuntimeError: one does not take part until the group's timeout, or has ended.
    """
    _rest_at_exit()
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"{where}: expected all {count(where, group)} ranks to take part, rank {dist.get_rank()} got no answer "
            "from another. It has ended, waits for something else, or runs other calls: see what it printed last, and "
            f"start all ranks again. ({error})"
        ) from error


@cache
def _rest_at_exit() -> None:
    """Have the process rest before it ends, once.

    A thread of gloo may hold the last exchange a moment longer than we do, and takes the lock of Python to free it. If
    Python is ending by then, the process is aborted (pytorch issue 190489).
    """
    atexit.register(time.sleep, REST)
