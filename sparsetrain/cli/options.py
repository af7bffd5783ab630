"""What the options of the command line accept. Each function takes an option's text, and returns what it means."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import click

from .. import checks
from ..extras import installed_by
from . import files
from .environment import cores

DTYPES = ("float32", "float64", "float16", "bfloat16")  # of activations


def fraction(text: str | float) -> float:
    """A number from 0 to 1."""
    try:
        return checks.density("density", text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error).partition(": ")[2]) from None


def portion(text: str | float) -> float:
    """A part of the edges: a number from 0 to 1. What ``fraction`` says of sparsity would not fit here."""
    try:
        return checks.fraction("", "a fraction", text)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error).partition(": ")[2]) from None


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise click.BadParameter(f"expected a finite number above 0, got {text!r}.")
    return number


def widths(text: str) -> tuple[int, ...]:
    """Sizes of layers, separated by commas; an empty text is no layer."""
    try:
        sizes = tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise click.BadParameter(f"expected whole numbers above 0, as in 1000,1000, or '' for none, got {text!r}.")
    return sizes


def threads(text: str) -> int:
    """A number of threads that the machine has."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    most = cores()
    if not 1 <= number <= most:
        raise click.BadParameter(f"expected 1 to {most}, as many as this process may run on, got {text!r}.")
    return number


def shape(text: str) -> tuple[int, int, int]:
    """Inputs, outputs and batch of a layer."""
    try:
        inputs, outputs, batch = (int(part) for part in text.split("x"))
    except ValueError:
        inputs = outputs = batch = 0
    if min(inputs, outputs, batch) < 1:
        raise click.BadParameter(f"expected inputs, outputs and batch, as in 768x3072x896, got {text!r}.")
    return inputs, outputs, batch


def output(*endings: str) -> Callable[[str], Path]:
    """The name of a file that can be written and has one of the endings; any ending where none is given."""

    def file(text: str) -> Path:
        path = Path(text)
        if endings and path.suffix not in endings:
            raise click.BadParameter(f"expected a name that ends in {' or '.join(endings)}, got {text!r}.")
        try:
            files.check_writable(path)
        except OSError as error:
            raise click.BadParameter(str(error)) from None
        return path

    return file


def need(*packages: str) -> None:
    """End with one line of advice unless these packages are installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise click.ClickException(f"This needs {' and '.join(missing)}. {installed_by(*missing)}")
