"""Which layers of a model are meant, by names, globs, regular expressions or classes."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

Names = dict[nn.Module, list[str]]
Rule = str | re.Pattern[str] | type[nn.Module]  # as users write it


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
        return Pattern(key.__name__, lambda name, module: isinstance(stands_for(module), key))
    raise TypeError(
        f"{where}: expected names in {argument}, globs, regular expressions or classes of modules, got {key!r}."
    )


def stands_for(module: nn.Module) -> nn.Module:
    """The module that users know this one as: while layers are chosen, some stand for others."""
    known: nn.Module = vars(module).get("_stands_for", (module,))[0]
    return known


def names_of(model: nn.Module) -> Names:
    """All names of each module: a layer that is used in two places has two, one inside of a wrapper that without it."""
    names: Names = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for (full, module), name in zip(modules.items(), _unwrapped(modules), strict=True):
        known = names.setdefault(module, [])
        # the wrapper is known by the name that its module has in it, too
        known += [each for each in dict.fromkeys((name, full)) if each not in known]
    return names


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by the names that they have in the model itself, whatever is wrapped around it or around parts of it."""
    modules = dict(model.named_modules())
    return dict(zip(_unwrapped(modules), modules.values(), strict=True))


def by_any_name(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by all of their names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return modules | dict(zip(_unwrapped(modules), modules.values(), strict=True))


def _unwrapped(modules: Mapping[str, nn.Module]) -> list[str]:
    """The names without what wrappers add."""
    names = {"": ""}
    for full in filter(None, modules):
        before, _, last = full.rpartition(".")
        outer = names[before]
        names[full] = outer if is_wrapper(modules[before]) else f"{outer}.{last}" if outer else last
    return list(names.values())


def is_wrapper(module: nn.Module) -> bool:
    """Whether this is a wrapper around one module, of torch.compile (which is slow to import) among others."""
    kinds = (DistributedDataParallel, nn.DataParallel, AveragedModel)
    return isinstance(module, kinds) or type(module).__name__ == "OptimizedModule"


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
