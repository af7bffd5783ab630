"""What can be measured: a case, and a contestant in it. Cases are small and travel between processes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Self

from torch import Tensor

from sparsetrain.cli.setting import count

TOLERANCE = 1e-5  # of the largest magnitude: float32 sums in any order stay below it, a wrong result does not
OF_HALVES = 2e-2  # where operands are rounded to bfloat16, whose numbers are 1/128 apart
OURS = "sparsetrain"


class WrongResultError(Exception):
    """A contestant computed something else than the float64 oracle; the message says what and by how much."""


class Contestant(ABC):
    """One engine at work on one case."""

    tolerance = TOLERANCE

    @abstractmethod
    def first_pass(self) -> None:
        """Compute once, from the initial numbers, without changing them: this compiles whatever is compiled."""

    @abstractmethod
    def results(self) -> dict[str, Tensor]:
        """What the first pass computed, by name, for the oracle; it is forgotten here."""

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Make one step; the seconds of each of its phases."""

    @abstractmethod
    def kept_bytes(self) -> int:
        """Bytes of weights and whatever says where they are, between steps; gradients and optimizer state apart."""


class Case(ABC):
    """One row of a table: a problem that every contestant gets in the same numbers, drawn from a fixed seed."""

    threads: int
    density: float | None

    @property
    @abstractmethod
    def family(self) -> str:
        """Which table it belongs to, threads apart."""

    @property
    @abstractmethod
    def panel(self) -> str:
        """Which problem it is, density apart: a curve over densities is drawn for each."""

    @abstractmethod
    def contestants(self) -> list[str]:
        """Who could take part, ours first."""

    @abstractmethod
    def module_of(self, name: str) -> str:
        """The module that a contestant computes with."""

    @abstractmethod
    def problem(self) -> Any:
        """The numbers that everybody gets."""

    @abstractmethod
    def expected(self, problem: Any) -> dict[str, Tensor]:
        """What a contestant's results must be, in float64."""

    @abstractmethod
    def contestant(self, name: str, problem: Any) -> Contestant:
        """A contestant, ready for its first pass."""

    @abstractmethod
    def tiny(self) -> Self:
        """A small case that loads the same libraries and kernels."""

    @abstractmethod
    def edges(self, problem: Any) -> int:
        """Trainable edges, which bytes are counted for; 0 where there is a table instead."""

    def needed_bytes(self, name: str) -> int:
        """Memory without which a contestant need not start; 0 where nobody knows."""
        return 0

    @property
    def title(self) -> str:
        """All of it in one line."""
        density = "" if self.density is None else f", density {self.density:g}"
        return f"{self.family}, {self.panel}{density}, {count(self.threads, 'thread')}"


def installed(module: str) -> bool:
    """Whether a module could be imported."""
    return find_spec(module) is not None


def check(results: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = TOLERANCE) -> float:
    """The largest error of any result, in units of its largest expected magnitude.

    Raises:
        WrongResultError: there is none, or one has another shape, or is off by more than the tolerance.
    """
    if not results:
        raise WrongResultError(f"it gave no results, expected {', '.join(expected)}")
    worst = 0.0
    for what, got in results.items():
        oracle = expected[what]
        if got.shape != oracle.shape:
            raise WrongResultError(f"its {what} has shape {tuple(got.shape)}, expected {tuple(oracle.shape)}")
        scale = max(float(oracle.abs().max()), 1e-30)
        error = float((got.detach().double() - oracle).abs().max()) / scale
        if not error <= tolerance:
            raise WrongResultError(f"its {what} is off by {error:.1e} of the largest, more than {tolerance:.0e}")
        worst = max(worst, error)
    return worst
