"""Parts of kernels that tests call by themselves."""

from typing import Any

from sparsetrain_kernels import panels
from sparsetrain_kernels.jit import kernel


@kernel
def pack(*args: Any) -> None:
    panels.pack(*args)


@kernel
def unpack(*args: Any) -> None:
    panels.unpack(*args)
