"""sparsetrain where numba is absent, or too old for its numpy: nothing of it computes on CUDA."""

import sys
from types import ModuleType
from typing import Any

NAMES = ("numba", "numba.core", "numba.core.caching", "numba.core.cgutils", "numba.core.codegen", "numba.core.compiler",
         "numba.core.errors", "numba.extending", "llvmlite",
         "llvmlite.binding", "llvmlite.ir")  # fmt: skip


class StandIn(ModuleType):
    """A module in which every name is there, stands for itself where it is called, and decorates with nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return StandIn(name)

    def __call__(self, *arguments: Any, **_: Any) -> Any:
        return arguments[0] if arguments and callable(arguments[0]) else self

    def __contains__(self, _: object) -> bool:
        return False

    def __getitem__(self, _: object) -> Any:
        return self

    def __mro_entries__(self, _: object) -> tuple[type, ...]:
        return ()


def make_importable() -> str:
    """Import numba, or put stand-ins in its place under which sparsetrain computes without kernels. What came of it."""
    try:
        import numba

        numba.njit(lambda: 0)()
        return f"yes, {numba.__version__}"
    except Exception as error:  # numba raises ImportError where numpy is too new for it, and others besides
        for name in NAMES:
            sys.modules[name] = StandIn(name)
        return f"no: {type(error).__name__}: {error}"[:300]
