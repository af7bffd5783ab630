"""Packages that only some users need, imported when they are needed."""

from importlib import import_module
from typing import Any


def needed(where: str, package: str, extra: str) -> Any:
    """The package, or a ModuleNotFoundError that says which extra installs it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{where}: expected the package {package.split('.')[0]}, got: {error}. "
            f"Run: pip install sparsetrain[{extra}]"
        ) from None
