"""How every kernel is compiled: lazily, without the GIL, cached on disk under a digest of the whole package."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit

from .disk_cache import cache_of
from .parts import PartCompiler, only_in_kernels

_config: Any = numba.config
COMPILES = not _config.DISABLE_JIT  # else kernels are plain Python, far too slow to be used
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "no_cfunc_wrapper": True}


def _digest() -> bytes:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    return digest.digest()


_SOURCES = _digest()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function``, with all parts that it calls, at its first call, and keep the machine code on disk.

    numba keys its cache by the function's own file alone, and would serve stale code after a change in a file
    that the function calls. The stamp is therefore a digest of all sources of this package.
    """
    if not COMPILES:
        return function
    dispatcher = njit(**_OPTIONS)(function)
    dispatcher._cache = cache_of(function, _SOURCES)
    return dispatcher


def part(function: Callable[..., Any] | None = None, *, reorder: bool = False, inline: bool = False) -> Any:
    """A function that kernels call, and Python can't: it is compiled within each kernel that calls it.

    With ``inline`` it becomes part of its callers: an array is seven arguments of a call, which for a function of a few
    dozen numbers take as long as its work.

    A part is compiled for each combination of types that it is called with, and a literal 0 is a type of its own, so
    callers say np.int64.

    No fast-math flags but two, with ``reorder``: contraction to FMA, and the order of a sum. NaN and infinity propagate.
    """
    if function is None:
        return lambda f: part(f, reorder=reorder, inline=inline)
    if not COMPILES:
        return function
    liberties = {"reassoc", "contract"} if reorder else False
    # without numba's counts of references, which threads would take from each other for each part of an array
    options = {"fastmath": liberties, "forceinline": inline, "no_cpython_wrapper": True, "_nrt": False, **_OPTIONS}
    return only_in_kernels(njit(pipeline_class=PartCompiler, **options)(function))
