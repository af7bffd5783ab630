"""Tables in plain text, and amounts in them."""

from collections.abc import Container, Sequence


def aligned(rows: Sequence[Sequence[str] | None], left: Container[int] = (0,)) -> list[str]:
    """Rows as lines: the columns ``left`` to the left, the others to the right; None is a rule."""
    cells = [row for row in rows if row is not None]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "-" * (sum(widths) + 3 * (len(widths) - 1))
    return [rule if row is None else _line(row, widths, left) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int], left: Container[int]) -> str:
    cells = enumerate(zip(row, widths, strict=True))
    return "   ".join(text.ljust(width) if k in left else text.rjust(width) for k, (text, width) in cells).rstrip()


def size(number: float) -> str:
    """Bytes in a unit that leaves three digits or so: ``1.44 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} B" if unit == "B" else f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f} {unit}"
