"""How wide the vectors of all kernels are: as the processor's registers, or narrower by request.

Sizes of tiles and of column blocks follow from it, and so does the name under which compiled kernels are kept.
"""

import os

import numba
from llvmlite import binding

VARIABLE = "SPARSETRAIN_VECTOR_BYTES"
WIDTHS = (16, 32, 64)


def host_bytes() -> int:
    """Bytes of the widest registers that numba compiles for: this processor's, or those that NUMBA_CPU_FEATURES names."""
    named: str | None = numba.config.CPU_FEATURES
    features = (named if named is not None else binding.get_host_cpu_features().flatten()).split(",")
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


def chosen_bytes(asked: str | None, host: int) -> int:
    """The width that the environment asks for, or the host's.

    Raises:
        ValueError: if it is no width, or one that the host has not.
    """
    if not asked:
        return host
    if asked not in map(str, WIDTHS):
        raise ValueError(f"{VARIABLE}: expected 16, 32 or 64, got {asked!r}.")
    if int(asked) > host:
        raise ValueError(f"{VARIABLE}: this processor has vectors of {host} bytes, got {asked}; set {host} or less.")
    return int(asked)


VECTOR_BYTES = chosen_bytes(os.environ.get(VARIABLE), host_bytes())
REGISTERS = 32 if VECTOR_BYTES == 64 else 16  # that instructions of this width can name
MOST_VECTORS = 8  # of a tile
# of a tile of gradients: its sums, its inputs, four dot products and what is at hand stay in registers
MOST_GRADIENT_VECTORS = REGISTERS // 4
TILE_BYTES = MOST_VECTORS * VECTOR_BYTES  # of a panel's column, at most
