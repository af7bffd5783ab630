"""Starting a kernel: on how many threads, and saying so when it must be compiled first."""

import logging
import os
import threading
from typing import Any

import numba

PARALLEL_WORK = 50_000  # vectors of arithmetic, or edges gathered, below which waking a second thread does not pay
PATIENCE = 1.0  # seconds of compiling before a word about it

log = logging.getLogger("sparsetrain")


class _Process:
    """What this process may do: numba's OpenMP layer does not survive a fork, its workqueue no concurrent calls."""

    def __init__(self) -> None:
        self.first = threading.Lock()
        self.ready: set[Any] = set()  # forms and types that have run
        self.started = False  # whether numba's threads run here
        self.serial = False
        self.told = False

    def say_what_it_waits_for(self) -> None:
        if not self.told:
            self.told = True
            log.warning("sparsetrain: compiling kernels for this machine, once; later runs find them on disk.")

    def after_fork(self) -> None:
        self.first = threading.Lock()
        self.serial = self.serial or self.started


_process = _Process()
os.register_at_fork(after_in_child=_process.after_fork)


def prefer_openmp():
    """numba's OpenMP threads share cores with torch's best; the caller's own choice, if any, is left alone."""
    chosen = {"NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY"} & os.environ.keys()
    if not chosen and numba.config.THREADING_LAYER == "default":
        numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def workers(threads):
    """Threads that a parallel form will run on, asked for so many."""
    return min(threads, numba.config.NUMBA_NUM_THREADS)


def launch(serial, parallel, types, work, threads, *args):
    """Run one of a kernel's two forms; which one does not change a bit of the result. Forms are compiled by ``types``."""
    threads = workers(threads)
    together = threads > 1 and work >= PARALLEL_WORK and not _process.serial
    form = parallel if together else serial
    key = (form, types)
    if key in _process.ready:
        return _run(form, threads if together else 0, args)
    with _process.first:  # one at a time: a kernel is compiled once, and numba picks its threading layer once
        word = threading.Timer(PATIENCE, _process.say_what_it_waits_for)
        word.daemon = True
        word.start()
        if together and _process.serial:  # as another thread found out while this one waited
            together, form = False, serial
        try:
            if together and not _process.started:
                prefer_openmp()
            result = _run(form, threads if together else 0, args)
        finally:
            word.cancel()
        if together and not _process.started:
            _process.started = True
            _process.serial = numba.threading_layer() == "workqueue"
            if _process.serial:
                log.warning("sparsetrain: numba found neither OpenMP (libgomp1) nor TBB; kernels run on one thread.")
        _process.ready.add((form, types))
        return result


def _run(form, threads, args):
    if not threads:
        return form(*args)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        return form(*args)
    finally:
        numba.set_num_threads(before)
