"""Whether a new layer fits into memory."""

from typing import Any

import torch

from .. import checks, free_memory
from ..structure.index_types import index_bytes
from ..structure.topology import Topology


def check_room(where: str, shape: Any, density: Any, topology: Any, device: Any, dtype: torch.dtype) -> None:
    """The values of a layer fit into memory, with its edges where these are to be drawn. What else may be wrong with
    the arguments is said by others.

    Raises:
        MemoryError: they do not fit.
    """
    if torch.empty(0, device=device).device.type != "cpu":
        return
    if isinstance(topology, Topology):
        free_memory.check(where, topology.nnz, topology.nnz * dtype.itemsize)
        return
    try:
        size, fraction = checks.shape_of_matrix(where, shape), checks.density(where, density)
    except (TypeError, ValueError):
        return
    edges = round(fraction * size[0] * size[1])
    free_memory.check(where, edges, index_bytes(size, edges, torch.device("cpu")) + edges * dtype.itemsize)
