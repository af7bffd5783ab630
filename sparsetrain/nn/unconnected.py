"""Nodes that no edge uses: seldom meant, and never visible in a result."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

Unused = Literal["warn", "error", "allow"]


def report_unconnected(
    where: str, found: Mapping[str, Sequence[Any]], sizes: Mapping[str, int], unconnected: Unused
) -> None:
    """Warn the caller's caller of nodes without edges, or refuse them.

    Args:
        found: by side, such as inputs, the nodes without edges.
        sizes: by side, how many nodes there are.
    """
    if unconnected not in get_args(Unused):
        raise ValueError(f"{where}: expected unconnected to be one of {list(get_args(Unused))}, got {unconnected!r}.")
    if unconnected == "allow":
        return
    parts = [
        f"{len(nodes)} of {sizes[side]} {side} without edges "
        f"({', '.join(map(repr, nodes[:5]))}{', ...' * (len(nodes) > 5)})"
        for side, nodes in found.items()
        if nodes
    ]
    if not parts:
        return
    message = (
        f"{where}: expected every node to have an edge, got {' and '.join(parts)}. Check the names, leave these nodes "
        'out, or pass unconnected="allow".'
    )
    if unconnected == "error":
        raise ValueError(message)
    warnings.warn(message, UserWarning, stacklevel=3)
