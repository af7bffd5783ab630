"""Models compute what has second derivatives."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention is not fused, weight normalization is written out, and compiled models run as they are written.

    A pass and what is compared with it also draw the same random numbers so."""
    with _process.set(), _WeightNormWrittenOut():
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


class _WeightNormWrittenOut(TorchFunctionMode):
    """The second derivative of torch's takes the norms for constants, and is wrong."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written = _weight_norm if func is torch._weight_norm else func
        return written(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))
