"""Arguments that have two names: ours, and that of the layer of torch that one of ours stands for."""

from torch import Tensor

from ..tracing import is_symbolic


def by_either_name(where: str, input: Tensor | None, other: Tensor | None, name: str) -> Tensor:
    """The one of ``input`` and ``other`` (called ``name``) that is given; TypeError for both or neither."""
    if is_symbolic(input) and is_symbolic(other):
        return input  # type: ignore[return-value]  # torch.fx fills every argument of a root with a placeholder
    if (input is None) == (other is None):
        got = "neither" if input is None else "both"
        raise TypeError(f"{where}: expected one of input and {name}, which are two names of one argument, got {got}.")
    return input if other is None else other  # type: ignore[return-value]
