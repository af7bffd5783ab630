"""Compiled kernels on disk: numba's cache, which whatever happens to its files can neither fail nor serve wrong code.

A cache may be shared by processes and machines, and be damaged, full or deleted at any time. What can't be read is compiled
anew, what can't be written is kept in memory, and a word about it is said once.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache

log = logging.getLogger("sparsetrain")


class _Said:
    """Whether the word was said."""

    once = False


def _say(reason: object) -> None:
    if not _Said.once:
        _Said.once = True
        log.warning(
            "sparsetrain: compiled kernels can't be kept on disk, and are compiled anew by each process: %s. Set "
            "NUMBA_CACHE_DIR to a directory that can be written to.",
            reason,
        )


class _NoCache(NullCache):
    """In memory alone."""

    def __init__(self, reason: object) -> None:
        self.reason = reason

    def load_overload(self, sig: Any, target_context: Any) -> None:
        _say(self.reason)


class _Files(IndexDataCacheFile):
    """An index and its data, with a digest: damaged machine code would run. The key is kept with the data, as numbers of
    files are given twice when two processes write an index at a time."""

    def _load_index(self) -> Any:
        try:
            return super()._load_index()
        except Exception:  # damaged, in any of the ways that a pickle can be: written anew
            return {}

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[2] if found is not None and found[:2] == (self._source_stamp, key) else None

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(hashlib.sha256(content).digest() + content)

    def _load_data(self, name: str) -> Any:
        path = Path(self._data_path(name))
        whole = path.read_bytes()
        if hashlib.sha256(whole[32:]).digest() != whole[:32]:
            raise OSError(f"{path} is damaged")  # numba compiles what it can't read
        return pickle.loads(whole[32:])


class _Cache(FunctionCache):
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            _say(error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _say(error)


def cache_of(function: Callable[..., Any], stamp: bytes) -> Any:
    """Where a function's machine code is kept, as long as the stamp is the same."""
    try:
        cache = _Cache(function)
    except (RuntimeError, OSError) as error:  # no directory can be written to
        return _NoCache(error)
    cache._cache_file = _Files(
        cache_path=cache.cache_path, filename_base=cache._impl.filename_base, source_stamp=stamp
    )
    return cache
