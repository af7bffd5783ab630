"""Formulas for torch's FlopCounterMode, registered once its module is imported, and not before: it imports Triton where
that is installed, which takes longer than all of sparsetrain."""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

COUNTER = "torch.utils.flop_counter"
_waiting: list[tuple[Any, Callable[..., int]]] = []


def flop_formula(operator: Any, formula: Callable[..., int]) -> None:
    """A formula for the operations of an operator, of its arguments with shapes in place of tensors."""
    _waiting.append((operator, formula))
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER])


def _register(counter: ModuleType) -> None:
    while _waiting:
        operator, formula = _waiting.pop()
        counter.register_flop_formula(operator)(formula)


class _AfterTheCounter(MetaPathFinder):
    """Finds the counter's module as the other finders do, and has the formulas registered at the end of its import."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = then_register  # type: ignore[method-assign]
        return spec


if COUNTER not in sys.modules:
    sys.meta_path.insert(0, _AfterTheCounter())
