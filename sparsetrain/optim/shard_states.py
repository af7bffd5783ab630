"""States of parameters of which each rank holds some rows: parts of the whole in a state dict, own rows in memory."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from ..edges.spread_rows import Shard, rows_of
from .loading import OURS
from .state import SINGLE

State = dict[str, Any]


def whole(optimizer: Optimizer, state_dict: State) -> State:
    """The state with what is kept for each row as a part of the whole."""
    return _each(optimizer, state_dict, lambda shard, kept, _: shard.whole(kept))


def own(optimizer: Optimizer, state_dict: State) -> State:
    """The state with the rows that this rank holds, of parts as ``whole`` makes them, or of all rows.

    Raises:
        ValueError: it is of other rows.
    """

    def taken(shard: Shard, kept: Tensor, name: str) -> Tensor:
        try:
            return shard.own(kept, kept.shape[1:])
        except ValueError as error:
            raise ValueError(f"{type(optimizer).__name__}: {name}: {error}") from None

    return _each(optimizer, state_dict, taken)


def _each(optimizer: Optimizer, state_dict: State, change: Callable[[Shard, Tensor, str], Tensor]) -> State:
    groups = zip(state_dict["param_groups"], optimizer.param_groups, strict=False)
    pairs = [pair for saved, group in groups for pair in zip(saved["params"], group["params"], strict=False)]
    shards = {index: shard for index, p in pairs if (shard := rows_of(p)) is not None}
    if not shards:
        return state_dict
    changed = {
        index: {
            name: change(shards[index], kept, name)
            if index in shards and name in OURS - SINGLE and isinstance(kept, Tensor)
            else kept
            for name, kept in state.items()
        }
        for index, state in state_dict["state"].items()
    }
    return {**state_dict, "state": changed}
