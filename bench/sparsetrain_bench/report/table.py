"""A table of the report, free of any format, and the small words in its cells."""

from dataclasses import dataclass

from ..rounds import quartiles

WIN = "faster"  # what a cell says of a rival that beats us


@dataclass(frozen=True)
class Table:
    """Title, a sentence about it, header and rows. ``detail``: for those who look for it."""

    title: str
    remark: str
    header: list[str]
    rows: list[list[str]]
    detail: bool = False


def milliseconds(seconds: list[float]) -> str:
    """The median, with a mark where there was but one round."""
    return _three_digits(1e3 * quartiles(seconds)[1]) + ("*" if len(seconds) == 1 else "")


def spread(numbers: list[float]) -> str:
    """Quartiles and median."""
    return " / ".join(map(_three_digits, quartiles(numbers)))


def times(ratio: float) -> str:
    """A ratio to ours, and a mark where ours is the slower."""
    return f"{ratio:.2f}x" + (f", {WIN}" if ratio < 1 else "")


def _three_digits(number: float) -> str:
    return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3}f}"
