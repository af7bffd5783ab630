"""A race: contestants in processes of their own, driven in turn so that one computes at a time."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Generic, Self, TypeVar

from .process import Remote

REST = 0.003  # seconds between turns, in which the last one's threads stop spinning

Name = TypeVar("Name", bound=str)


class Race(Generic[Name]):
    """Contestants by name, with the same number of threads each; a context that ends their processes."""

    def __init__(self, threads: int, order: random.Random) -> None:
        self.threads, self.order = threads, order
        self.contestants: dict[Name, Remote] = {}
        self._stack = ExitStack()

    def enter(self, name: Name, make: Callable[..., Any], *args: Any) -> Remote:
        """Start a contestant, ``make(*args)`` in its process; ``ready`` of what is returned waits until it is made."""
        self.contestants[name] = self._stack.enter_context(Remote(name, self.threads, make, *args))
        return self.contestants[name]

    def round(self, names: Iterable[Name] | None = None) -> Iterator[tuple[Name, Remote]]:
        """The contestants of these names, or all, in a new order: what disturbs the machine regularly must not always
        meet the same one."""
        chosen = list(self.contestants if names is None else names)
        for name in self.order.sample(chosen, len(chosen)):
            time.sleep(REST)
            yield name, self.contestants[name]

    def leave(self, name: Name) -> None:
        """Let a contestant whose process died go."""
        self.contestants.pop(name, None)

    def close(self) -> None:
        """End all processes."""
        self._stack.close()
        self.contestants.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
