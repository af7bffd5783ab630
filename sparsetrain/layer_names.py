"""Which layers of a model are meant, by names, globs, regular expressions or classes."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn


class Pattern(NamedTuple):
    """What layers are compared with, and how a message calls it."""

    text: str
    fits: Callable[[str, nn.Module], bool]

    def fits_any(self, names: Sequence[str], module: nn.Module) -> bool:
        """Whether it means the layer under one of its names."""
        return any(self.fits(name, module) for name in names)


def pattern(where: str, argument: str, key: Any) -> Pattern:
    """A name, a glob, a regular expression (compiled, or after ``re:``) for the whole name, or a class of layers.

    Raises:
        TypeError: it is something else. ValueError: it is no regular expression.
    """
    if isinstance(key, str) and key.startswith("re:"):
        try:
            compiled = re.compile(key.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"{where}: expected a regular expression after re:, got {key!r}: {error}.") from None
        return Pattern(key, lambda name, module: compiled.fullmatch(name) is not None)
    if isinstance(key, str):
        return Pattern(key, lambda name, module: fnmatchcase(name, key))
    if isinstance(key, re.Pattern):
        return Pattern(key.pattern, lambda name, module: key.fullmatch(name) is not None)
    if isinstance(key, type) and issubclass(key, nn.Module):
        return Pattern(key.__name__, lambda name, module: isinstance(module, key))
    raise TypeError(
        f"{where}: expected names in {argument}, globs, regular expressions or classes of modules, got {key!r}."
    )


def first_fits(patterns: Sequence[Pattern], layers: Mapping[nn.Module, Sequence[str]]) -> dict[nn.Module, int]:
    """For each layer that patterns fit, under one of its names, the index of the first of them."""
    found = {}
    for module, names in layers.items():
        for k, each in enumerate(patterns):
            if each.fits_any(names, module):
                found[module] = k
                break
    return found


def without_layer(patterns: Sequence[Pattern], layers: Mapping[nn.Module, Sequence[str]]) -> list[Pattern]:
    """The patterns that fit none of the layers."""
    return [each for each in patterns if not any(each.fits_any(names, module) for module, names in layers.items())]
