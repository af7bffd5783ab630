"""Values that fully_shard has spread over ranks, as DTensors: what must hold of them, and what is refused."""

from typing import Any

from torch import Tensor

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


def no_view(layer: Any, arguments: Any, y: Any) -> Any:
    """What a layer returns, before fully_shard hooks on to it: of a view, a change in place would drop that hook."""
    return y.clone() if isinstance(y, Tensor) else y  # which a subclass may return together with others


def row_sparse_refused(kind: str, advice: str) -> NotImplementedError:
    """Of a layer whose gradients are row-sparse, which the first backward pass would find out."""
    return NotImplementedError(f"{kind}: fully_shard can't reduce gradients that are sparse over rows. {advice}")


def misfit(ours: Any, stored: Any) -> str:
    """What speaks against loading values that may be sharded in place of ours, or nothing."""
    here, there = (values.device_mesh.size() if is_sharded(values) else 1 for values in (ours, stored))
    if here == there or stored is None:
        return ""
    return (
        f"expected values that are sharded over as many ranks as the layer's, {here}, the checkpoint has them over "
        f"{there}. Save and load by torch.distributed.checkpoint, which fits any number of ranks; or gather whole "
        "values by its get_model_state_dict, and set them by set_model_state_dict, with full_state_dict=True."
    )
