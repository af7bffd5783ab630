"""The column ``constraint`` of a frame of edges: what may become of each edge's value."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..constrain.words import WORDS
from ..structure.edge_list import EdgeList, edge_weights
from ..structure.names import is_missing


def constraint_words(where: str, edges: EdgeList) -> list[str | None] | None:
    """The word of each edge, in the order of the list: None for a free one; None alone where there is no such column.

    Raises:
        ValueError: a word is unknown, or the sign of an edge's weight is against its word; the message names the edge.
    """
    if edges.constraints is None:
        return None
    words = [None if is_missing(word) or word == "" else word for word in edges.constraints]
    weights = edge_weights(where, edges)
    for k, word in enumerate(words):
        if word is None:
            continue
        if not isinstance(word, str) or word not in WORDS:
            raise ValueError(
                f"{where}: expected the constraint of every edge to be one of {list(WORDS)} or missing, got {word!r} "
                f"for edge {edges.name(k)}."
            )
        low, high = WORDS[word]
        if weights is not None and not low <= weights[k] <= high:
            raise ValueError(
                f"{where}: expected a {word} weight for edge {edges.name(k)}, which has the constraint {word!r}, got "
                f"{weights[k]:g}. Change one of the two."
            )
    return words


def with_signs(values: Tensor, words: Sequence[str | None]) -> Tensor:
    """Values that were drawn without regard to the words of their edges, with the signs that these ask for."""
    signs = {"positive": 1, "negative": -1}
    wanted = torch.tensor([signs.get(word or "", 0) for word in words], device=values.device)
    return torch.where(wanted == 0, values, values.abs() * wanted)
