"""How every kernel is compiled: lazily, without the GIL, cached on disk under a digest of the whole package."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit

from .disk_cache import cache_of

_config: Any = numba.config
COMPILES = not _config.DISABLE_JIT  # else kernels are plain Python, far too slow to be used
_OPTIONS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy"}


def _digest() -> bytes:
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        digest.update(str(path.relative_to(here)).encode() + b"\0" + path.read_bytes())
    return digest.digest()


_SOURCES = _digest()


def kernel(
    function: Callable[..., Any] | None = None, *, parallel: bool = False, reorder: bool = False, inline: bool = False
) -> Any:
    """Compile ``function`` at its first call and keep the machine code on disk.

    numba keys its cache by the function's own file alone, and would serve stale code after a change in a file
    that the function calls. The stamp is therefore a digest of all sources of this package.

    With ``inline`` it becomes part of its callers: an array is seven arguments of a call, which for a function of a few
    dozen numbers take as long as its work.

    A worker that both forms of a kernel call is compiled once if both pass the same types: prange counts in uint64, and a
    literal 0 is a type of its own, so that both say np.int64.

    No fast-math flags but two, with ``reorder``: contraction to FMA, and the order of a sum. NaN and infinity propagate.
    """
    if function is None:
        return lambda f: kernel(f, parallel=parallel, reorder=reorder, inline=inline)
    liberties = {"reassoc", "contract"} if reorder else False
    if not COMPILES:
        return function
    dispatcher = njit(parallel=parallel, fastmath=liberties, forceinline=inline, **_OPTIONS)(function)
    dispatcher._cache = cache_of(function, _SOURCES)
    return dispatcher

