"""Packages that only some users need, imported when they are needed."""

from importlib import import_module
from typing import Any


def needed(where: str, package: str) -> Any:
    """The package, or a ModuleNotFoundError that says how to install it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        raise ModuleNotFoundError(f"{where}: expected the package {name}, got: {error}. {installed_by(name)}") from None


def installed_by(*names: str) -> str:
    """What to run for modules, which pip knows by the same names; our own extras have names that no index knows."""
    return f"Run: pip install {' '.join(name.replace('_', '-') for name in names)}"
