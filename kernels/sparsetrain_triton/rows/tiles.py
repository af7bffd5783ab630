"""How a row step is cut into programs: some rows each, of which a program walks along the columns."""

from typing import Any

from torch import Tensor

from ..launch import ceil_divided, launch, power_of_two

NUMBERS = 256  # of a table, at a time in each program


def launch_rows(kernel: Any, rows: int, dim: int, *arguments: Any, most: int = NUMBERS, **options: Any) -> None:
    """A kernel over so many rows of ``dim`` numbers. One program has all of a row, as only one may count its steps."""
    width = power_of_two(dim, 1, most)
    at_a_time = max(1, NUMBERS // width)
    launch(
        kernel, ceil_divided(rows, at_a_time), *arguments, **options, ROWS=at_a_time, WIDTH=width,
        num_warps=2 if width <= NUMBERS else 4,
    )


def threshold(lr: float, l1: float | Tensor) -> tuple[float, Tensor | None]:
    """``lr * l1`` of a proximal step where l1 is a number, or 0 and the tensor."""
    return (0.0, l1) if isinstance(l1, Tensor) else (lr * l1, None)
