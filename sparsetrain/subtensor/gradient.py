"""grad: of a cost, with respect to the subset that it was computed from."""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from .subset import Subset


@overload
def grad(cost: Tensor, wrt: Tensor, *, create_graph: bool = ...) -> Tensor: ...
@overload
def grad(cost: Tensor, wrt: Sequence[Tensor], *, create_graph: bool = ...) -> list[Tensor]: ...
def grad(cost: Tensor, wrt: Any, *, create_graph: bool = False) -> Tensor | list[Tensor]:
    r"""The gradient of a cost with respect to a subset: :math:`\partial cost / \partial subset`, of the subset's shape.

    A line that the index selects twice has two gradients, each that of its own occurrence; inc_subtensor sums them.
    Nothing of the table's size is made. With respect to a whole shared variable, the gradient is dense, zero where
    the cost does not look.

    Args:
        cost: a scalar.
        wrt: the ``subset = table[index]`` that the cost was computed from, a shared variable, any other tensor that the
            cost depends on, or a list of these.
        create_graph: make the gradient differentiable in turn.

    The graph is kept: grad may be called again on the same cost.

    Raises:
        TypeError: the cost is not a scalar, or wrt not of floating point.
        ValueError: the cost does not depend on wrt. Every ``table[index]`` is a new variable: index once, and use
            that subset both for the cost and here.

    Source: Theano's tensor.grad.

    Example:
        >>> from sparsetrain.subtensor import shared
        >>> table = shared([[0.0, 1.0], [2.0, 3.0]])
        >>> subset = table[[1, 1]]
        >>> cost = (subset * torch.tensor([[1.0], [10.0]])).sum()
        >>> grad(cost, subset).tolist()
        [[1.0, 1.0], [10.0, 10.0]]
        >>> grad(cost, table).tolist()
        [[0.0, 0.0], [11.0, 11.0]]
    """
    if not isinstance(cost, Tensor) or cost.ndim:
        got = f"shape {tuple(cost.shape)}" if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(f"grad: cost must be a scalar, got {got}. Take its sum or mean.")
    wanted = [wrt] if isinstance(wrt, Tensor) else list(wrt)
    for variable in wanted:
        if not isinstance(variable, Tensor) or not (variable.is_floating_point() or variable.is_complex()):
            got = str(variable.dtype) if isinstance(variable, Tensor) else type(variable).__name__
            raise TypeError(f"grad: expected wrt to be tensors of floating point, got {got}.")
        if not variable.requires_grad:
            raise ValueError("grad: wrt was computed under torch.no_grad, or detached, so that nothing is recorded.")
    if not cost.requires_grad:
        raise ValueError("grad: the cost depends on no variable, or was computed under torch.no_grad.")
    found = torch.autograd.grad(cost, wanted, retain_graph=True, create_graph=create_graph, allow_unused=True)
    gradients = [_connected(variable, gradient) for variable, gradient in zip(wanted, found, strict=True)]
    return gradients[0] if isinstance(wrt, Tensor) else gradients


def _connected(variable: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ValueError(
            f"grad: the cost does not depend on this {type(variable).__name__} of shape {tuple(variable.shape)}. "
            + "Every table[index] is a new variable, even with the same index: index once, and use that one subset "
            "both to compute the cost and in grad." * isinstance(variable, Subset)
        )
    return gradient
