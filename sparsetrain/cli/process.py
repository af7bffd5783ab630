"""An object in a process of its own: made there, driven from here one call at a time, ended from here."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import Any, Self

# read once, when the libraries are imported: they must be in the environment that a process starts with
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class ProcessError(Exception):
    """A call in another process raised an error, or the process died; the message says which and of what."""


class Remote:
    """``make(*args)`` in a process of its own with ``threads`` threads.

    The process starts at once and works through what it is sent; ``call`` waits for the result. It computes only
    during a call, so several of them can be driven in turn without disturbing each other.
    """

    def __init__(self, name: str, threads: int, make: Callable[..., Any], *args: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args), name=name, daemon=True)
        with _environment(dict.fromkeys(THREAD_VARIABLES, str(threads))), _no_interrupt():
            self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until the object is made."""
        self._receive()

    def call(self, method: str, *args: Any) -> Any:
        """``object.method(*args)``.

        Raises:
            ProcessError: the method raised, or the process has died.
        """
        with suppress(BrokenPipeError):  # what it died of is still to be read
            self._pipe.send((method, args))
        return self._receive()

    def _receive(self) -> Any:
        try:
            result, error = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise ProcessError(f"{self.name}: its process died, {_cause(self._process.exitcode)}.") from None
        if error is not None:
            raise ProcessError(f"{self.name}: {error}")
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, make: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """The life of the process: make the object, then call what it is told to, until the other end closes."""
    try:
        target = make(*args)
        pipe.send((None, None))
        while True:
            method, args = pipe.recv()
            pipe.send((getattr(target, method)(*args), None))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        pipe.send((None, f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"))


def _cause(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"killed by {name}" + (", mostly for want of memory" if name == "SIGKILL" else "")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process started in here ignores Ctrl-C from its first instruction on: ending it is left to its parent."""
    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
