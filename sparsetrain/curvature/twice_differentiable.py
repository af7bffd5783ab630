"""Models compute what has second derivatives."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention is not fused, and compiled models run as they are written.

    A pass and what is compared with it also draw the same random numbers so."""
    with _process.set():
        yield


class _Process:
    """Settings that hold for all threads: the first one in makes them, the last one out takes them back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._made = Lock(), 0, ExitStack()

    @contextmanager
    def set(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._made.enter_context(sdpa_kernel(SDPBackend.MATH))
                if "torch._dynamo" in sys.modules:  # which takes a second to import
                    self._made.enter_context(torch.compiler.set_stance("force_eager"))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._made.close()


_process = _Process()
