"""Updates: shared variables get new values, all of them at once."""

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import checks
from .new_table import NewTable
from .shared import Shared

Updates = Iterable[tuple[Shared, Any]] | Mapping[Shared, Any]
Inputs = ParamSpec("Inputs")
Outputs = TypeVar("Outputs")


def apply_updates(updates: Updates) -> None:
    """Give shared variables new values, all computed from the old ones: ``[(a, b), (b, a)]`` swaps.

    A new value that is one inc_subtensor or set_subtensor of its own table is written in place, at the cost of the
    changed places. Any other is copied into the table. Either way the table keeps its memory, and no gradient is
    recorded. If one update is refused, nothing has changed.

    Args:
        updates: pairs (shared variable, new value), or a mapping of these.

    Raises:
        TypeError: a target that is not a shared variable, or a new value of another shape, dtype or device.
        ValueError: two updates of one variable. For two subsets of a table, index once with both
            (``table[torch.cat([a, b])]``), or chain: ``inc_subtensor(inc_subtensor(table[a], x)[b], y)``.

    Source: the ``updates`` of theano.function.

    Example:
        >>> from sparsetrain.subtensor import inc_subtensor, shared
        >>> table = shared([1, 2, 3])
        >>> apply_updates([(table, inc_subtensor(table[[0, 0]], 5))])
        >>> table.get_value().tolist()
        [11, 2, 3]
    """
    where = "apply_updates"
    pairs = _pairs(where, updates)
    memories = _memories(pairs)
    final = [(target, _final(where, target, new, memories)) for target, new in pairs]
    for target, new in final:
        target.settle(new if isinstance(new, NewTable) else None)
    with torch.no_grad():
        for target, new in final:
            if isinstance(new, NewTable):
                new.apply()
            else:
                target.copy_(new)


@overload
def function(
    step: Callable[Inputs, tuple[Outputs, Updates]], *, updates: Updates = ...
) -> Callable[Inputs, Outputs]: ...
@overload
def function(
    step: None = None, *, updates: Updates = ...
) -> Callable[[Callable[Inputs, tuple[Outputs, Updates]]], Callable[Inputs, Outputs]]: ...
def function(step: Any = None, *theano: Any, updates: Updates = (), **options: Any) -> Any:
    """Decorate ``step``, which returns (outputs, updates), into a function that applies the updates.

    The decorated function returns the outputs: values from before the updates, without gradient. Then all updates
    are applied at once, as apply_updates does. If the step or an update fails, nothing has changed.

    Args:
        step: any callable. It runs at each call, not once: this is a decorator, not a compiler.
        updates: more updates, of every call. As they are given once, a new value here is a shared variable or a
            callable without arguments, which are read at each call.

    Raises:
        TypeError: the step returned something else, the arguments are those of theano.function, or as apply_updates.
            ValueError: as apply_updates.

    Source: theano.function.

    Example:
        >>> from sparsetrain.subtensor import grad, inc_subtensor, shared
        >>> table = shared([[1.0, 2.0], [3.0, 4.0]])
        >>> @function
        ... def step(ids, lr):
        ...     subset = table[ids]
        ...     cost = (subset**2).sum()
        ...     return cost, [(table, inc_subtensor(subset, -lr * grad(cost, subset)))]
        >>> step([1], lr=0.5)
        tensor(25., dtype=torch.float64)
        >>> table.get_value().tolist()
        [[1.0, 2.0], [0.0, 0.0]]
    """
    if theano or options or not (step is None or callable(step)):
        raise TypeError(
            "function: expected one callable, the step, got arguments as of theano.function. It is a decorator here: "
            "write @function over a Python function of the inputs that returns (outputs, updates)."
        )
    always = _pairs("function", updates)
    for _, new in always:
        if not isinstance(new, Shared) and not callable(new):
            raise TypeError(
                "function: expected the new values in updates= to be shared variables or callables, which are read at "
                f"each call, got {type(new).__name__}, computed once. Return it from the step, or write a lambda."
            )
    return (lambda decorated: _applying(decorated, always)) if step is None else _applying(step, always)


def _applying(step: Callable[Inputs, tuple[Outputs, Updates]], always: list[tuple[Shared, Any]]) -> Any:
    @wraps(step)
    def applying(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Outputs:
        returned = step(*args, **kwargs)
        if not isinstance(returned, tuple) or len(returned) != 2:
            got = f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
            raise TypeError(f"function: expected the step to return (outputs, updates), got {got}.")
        outputs, updates = returned
        extra = [(target, new if isinstance(new, Shared) else new()) for target, new in always]
        pairs = [*_pairs("function", updates), *extra]
        memories = _memories(pairs)
        outputs = pytree.tree_map_only(Tensor, lambda output: _safe(output, memories), outputs)
        apply_updates(pairs)
        return outputs

    return applying


def _pairs(where: str, updates: Any) -> list[tuple[Shared, Any]]:
    """The updates as pairs with distinct shared variables for targets."""
    pairs = list(updates.items() if isinstance(updates, Mapping) else updates)
    seen: set[int] = set()
    for k, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{where}: expected pairs (shared variable, new value), got {type(pair).__name__} at {k}.")
        target = pair[0]
        if not isinstance(target, Shared):
            raise TypeError(
                f"{where}: an update target must be a shared variable, got {type(target).__name__} at {k}. Make it one "
                "with shared(value); of a subset, the target is its table."
            )
        if id(target) in seen:
            raise ValueError(
                f"{where}: this shared variable already has an update expression: the target of update {k}, "
                f"{target.called}, comes twice. Index its table once with all ids, or chain the updates."
            )
        seen.add(id(target))
    return [(target, new) for target, new in pairs]


def _final(where: str, target: Shared, new: Any, memories: set[int]) -> Tensor:
    """The new value, safe from the other updates; a NewTable if it can be written in place."""
    new = new if isinstance(new, Tensor) else checks.numbers(where, "a new value", new)
    if (new.shape, new.dtype, new.device) != (target.shape, target.dtype, target.device):
        called = "" if target.name is None else f" {target.name}"
        raise TypeError(
            f"{where}: an update must have the same type as the original shared variable{called}: expected shape "
            f"{tuple(target.shape)}, {target.dtype} on {target.device}, got {tuple(new.shape)}, {new.dtype} on "
            f"{new.device}. Convert the new value."
        )
    if isinstance(new, NewTable) and new.unread and new.changes(target):
        new.check_current()
        return new
    return _safe(new, memories)


def _memories(pairs: list[tuple[Shared, Any]]) -> set[int]:
    """Where the memory of the targets begins."""
    return {target.untyped_storage().data_ptr() for target, _ in pairs}


def _safe(value: Tensor, memories: set[int]) -> Tensor:
    """The value without gradient, copied if it lies in memory that the updates write into."""
    value = value.detach()
    lent = value.layout != torch.strided or value.untyped_storage().data_ptr() in memories
    return value.clone() if lent else value
