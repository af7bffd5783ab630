"""Whether all ranks that share the values of a layer share its edges."""

from typing import Any

import torch.distributed as dist

from ..structure.topology import Topology


def check_same_edges(kind: str, t: Topology, mesh: Any) -> None:
    """RuntimeError on all ranks of a device mesh where one has other edges than the rest. All of them call it."""
    for group in mesh.get_all_groups():
        said: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(said, (t.shape, t.digest), group)
        if any(each != said[0] for each in said):
            raise RuntimeError(
                f"{kind}: the edges of a {kind} differ between ranks that share its values. Draw edges from a "
                "generator with the same seed on all ranks."
            )


def is_sharded(values: Any) -> bool:
    """Whether these are a DTensor with numbers, as fully_shard makes of parameters."""
    return type(values).__name__ == "DTensor" and not values.is_meta
