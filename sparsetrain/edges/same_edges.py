"""Whether all ranks that share the values of a layer share its edges."""

from typing import Any

from .. import ranks
from ..structure.topology import Topology


def check_same_edges(kind: str, t: Topology, mesh: Any) -> None:
    """RuntimeError on all ranks of a device mesh where one has other edges than the rest. All of them call it."""
    for group in mesh.get_all_groups():
        said = ranks.gathered(kind, (t.shape, t.nnz, t.digest), group)
        for place, other in enumerate(said):
            if other != said[0]:
                raise RuntimeError(
                    f"{kind}: expected the edges of a {kind} to be the same on all ranks that share its values, got "
                    f"shape {other[0]} with {other[1]} edges on rank {ranks.number_of(group, place)} and shape "
                    f"{said[0][0]} with {said[0][1]} on rank {ranks.number_of(group, 0)}, which differ. Call "
                    "sparsetrain.distributed.sync_topology(model) before fully_shard, or draw edges from a generator "
                    "with the same seed on all ranks."
                )


def is_sharded(values: Any) -> bool:
    """Whether these are a DTensor with numbers, as fully_shard makes of parameters."""
    return type(values).__name__ == "DTensor" and not values.is_meta
