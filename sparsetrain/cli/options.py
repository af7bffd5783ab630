"""What the options of the command line accept."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import click

from .. import checks
from . import files


class Density(click.ParamType):
    """A number from 0 to 1."""

    name = "fraction"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return checks.density(param.opts[0] if param else "density", value)
        except (TypeError, ValueError) as error:
            self.fail(str(error).partition(": ")[2], param, ctx)


class Positive(click.ParamType):
    """A finite number above 0."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except ValueError:
            self.fail(f"expected a number, got {value!r}.", param, ctx)
        if not 0 < number < math.inf:
            self.fail(f"expected a finite number above 0, got {value}.", param, ctx)
        return number


class Widths(click.ParamType):
    """Sizes of hidden layers, separated by commas; an empty text is no hidden layer."""

    name = "widths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = value.split(",") if value.strip() else []
        try:
            widths = tuple(int(part) for part in parts)
        except ValueError:
            self.fail(f"expected whole numbers separated by commas, as in 1000,1000, got {value!r}.", param, ctx)
        if any(width < 1 for width in widths):
            self.fail(f"expected widths of at least 1, got {value!r}. An empty text means no hidden layer.", param, ctx)
        return widths


class Output(click.ParamType):
    """A file that can be written, with one of some endings."""

    name = "file"

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if self.endings and path.suffix.lower() not in self.endings:
            self.fail(f"expected a name that ends in {' or '.join(self.endings)}, got {str(path)!r}.", param, ctx)
        try:
            files.check_writable(path)
        except OSError as error:
            self.fail(str(error), param, ctx)
        return path


def need(*packages: str) -> None:
    """End with one line of advice unless these packages of the extra ``demo`` are installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise click.ClickException(f"{' and '.join(missing)} not installed. Run: pip install sparsetrain[demo]")
