"""A timer that tells pytest-benchmark the times that were measured elsewhere."""

from collections.abc import Sequence


class Replay:
    """Called at the start and at the end of each round, it lets as much time pass as that round took.

    pytest-benchmark times one contestant after the other, which lets a busy moment hit one alone. So the race times
    them in turn, and pytest-benchmark keeps, compares and draws the same numbers.
    """

    __name__ = "replay"

    def __init__(self) -> None:
        self._pending: list[float] = []

    def load(self, seconds: Sequence[float]) -> None:
        """The seconds of the rounds that come."""
        self._pending = [time for second in reversed(seconds) for time in (second, 0.0)]

    def __call__(self) -> float:
        return self._pending.pop()
