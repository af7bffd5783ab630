"""OpenMP's settings of the calling thread, which numba changes where it starts threads, and torch reads: how many threads a
parallel region has, and how deep they nest."""

import ctypes
import importlib
from functools import cache
from types import TracebackType
from typing import Any


@cache
def _openmp() -> Any:
    """The OpenMP library that numba's layer is linked with; None without. Not loaded before it is needed: the first that a
    process loads serves all, and that should be torch's."""
    try:
        omppool: Any = importlib.import_module("numba.np.ufunc.omppool")

        # as the linker binds it: to a library that all of the process sees, as torch's, else to one that it depends on
        libraries = [ctypes.PyDLL(None), ctypes.PyDLL(omppool.__file__)]
    except (ImportError, OSError, TypeError):
        return None
    return next((library for library in libraries if hasattr(library, "omp_get_max_active_levels")), None)


class settings_kept:  # noqa: N801  # reads as a statement: with settings_kept()
    """Restore the settings of this thread at the end."""

    __slots__ = ("levels", "threads")

    def __enter__(self) -> None:
        if (openmp := _openmp()) is not None:
            self.threads, self.levels = openmp.omp_get_max_threads(), openmp.omp_get_max_active_levels()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (openmp := _openmp()) is None:
            return
        if openmp.omp_get_max_threads() != self.threads:
            openmp.omp_set_num_threads(self.threads)
        if openmp.omp_get_max_active_levels() != self.levels:
            openmp.omp_set_max_active_levels(self.levels)
