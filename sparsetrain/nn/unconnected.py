"""Nodes that no edge uses: seldom meant, and never visible in a result."""

import warnings
from typing import Literal, get_args

from ..topology import Topology

Unused = Literal["warn", "error", "allow"]


def report_unconnected(where: str, topology: Topology, unconnected: Unused, stacklevel: int = 3) -> None:
    """Warn of nodes without edges, or refuse them."""
    if unconnected not in get_args(Unused):
        raise ValueError(f"{where}: expected unconnected to be one of {list(get_args(Unused))}, got {unconnected!r}.")
    if unconnected == "allow":
        return
    found = [
        f"{len(nodes)} of {size} {side} without edges ({', '.join(map(repr, nodes[:5]))}{', ...' * (len(nodes) > 5)})"
        for nodes, side, size in zip(topology.unconnected, ("inputs", "outputs"), topology.shape[::-1], strict=True)
        if nodes
    ]
    if not found:
        return
    message = (
        f"{where}: expected every node to have an edge, got {' and '.join(found)}. Check the names, leave these nodes "
        'out, or pass unconnected="allow".'
    )
    if unconnected == "error":
        raise ValueError(message)
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
