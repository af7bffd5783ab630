"""Starting a kernel: on how many threads, and saying so when it must be compiled first."""

import importlib
import logging
import os
import threading
from functools import cache
from typing import Any

import numba

from .openmp import settings_kept

PARALLEL_WORK = 50_000  # vectors of arithmetic, or edges gathered, below which waking a second thread does not pay
PATIENCE = 1.0  # seconds of compiling before a word about it

log = logging.getLogger("sparsetrain")
_numba: Any = numba  # whose types leave out what is asked here
_config: Any = numba.config


class _Process:
    """What this process may do: numba's OpenMP layer does not survive a fork, its workqueue no concurrent calls."""

    def __init__(self) -> None:
        self.first = threading.Lock()
        self.ready: set[Any] = set()  # forms and types that have run
        self.threads: bool | None = None  # whether kernels may run on several; None before it was tried
        self.told = False

    def say_what_it_waits_for(self) -> None:
        if not self.told:
            self.told = True
            log.warning("sparsetrain: compiling kernels for this machine, once; later runs find them on disk.")

    def after_fork(self) -> None:
        self.first = threading.Lock()
        if _layer() is not None:  # threads that ran in the parent, whoever started them
            self.threads = False


def _layer() -> str | None:
    """numba's threading layer, if it has been started: by us, or by anybody else in this process."""
    try:
        return str(_numba.threading_layer())
    except ValueError:
        return None


_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process.after_fork)


def start_threads() -> bool:
    """Start numba's threads, unless somebody has; whether kernels may run on them. A word is said where they may not."""
    before = _layer()
    try:
        if before is None:
            _start()
    except Exception as error:  # as numba found no layer of the kind that was asked for
        log.warning("sparsetrain: kernels run on one thread, as numba can start no others: %s", " ".join(str(error).split()))
        return False
    if _layer() != "workqueue":
        return True
    if _config.THREADING_LAYER == "workqueue" or "NUMBA_THREADING_LAYER_PRIORITY" in os.environ:
        why = "it was asked for, by NUMBA_THREADING_LAYER or numba.config; ask for omp or tbb"
    elif before is not None:
        why = "other code in this process started it"
    else:
        why = "numba found neither OpenMP (libgomp1) nor TBB"
    log.warning(
        "sparsetrain: kernels run on one thread, since numba's workqueue aborts when two threads call at a time, and %s.",
        why,
    )
    return False


def _start() -> None:
    """By OpenMP, whose threads share cores with torch's best; the caller's own choice, if any, is left alone."""
    chosen = {"NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY"} & os.environ.keys()
    priority = _config.THREADING_LAYER_PRIORITY
    with settings_kept():
        try:
            if not chosen and _config.THREADING_LAYER == "default":
                _config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
            numba.get_num_threads()  # which starts them
        finally:
            _config.THREADING_LAYER_PRIORITY = priority


def workers(threads):
    """Threads that a parallel form will run on, asked for so many."""
    return min(threads, numba.config.NUMBA_NUM_THREADS)


def launch(kernel, types, work, threads, *args):
    """kernel(pool, workers, *args), on one thread or on several; the result is the same. Kernels are compiled by ``types``.

    One that has room for so many workers takes their number from ``scratch``."""
    threads = workers(threads)
    together = threads > 1 and work >= PARALLEL_WORK and _process.threads is not False
    if (kernel, types, together) in _process.ready:
        return _run(kernel, threads if together else 0, args)
    with _process.first:  # one at a time: a kernel is compiled once, and numba picks its threading layer once
        if together and _process.threads is None:
            _process.threads = start_threads()
        together = together and bool(_process.threads)
        word = threading.Timer(PATIENCE, _process.say_what_it_waits_for)
        word.daemon = True
        word.start()
        try:
            result = _run(kernel, threads if together else 0, args)
        finally:
            word.cancel()
        _process.ready.add((kernel, types, together))
        return result


def _run(kernel, threads, args):
    if not threads:
        return kernel(0, 1, *args)
    before = numba.get_num_threads()  # which the pool changes, on this thread as on its own
    with settings_kept():
        try:
            return kernel(_pool(), threads, *args)
        finally:
            if before != threads:
                numba.set_num_threads(before)


@cache
def _pool() -> int:
    """The address of parallel_for, of the layer that numba has started (workers.py)."""
    return int(importlib.import_module(f"numba.np.ufunc.{_layer()}pool").parallel_for)
