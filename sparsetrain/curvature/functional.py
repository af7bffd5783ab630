"""A model as a function of its trainable entries, for torch.func."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from .entries import Entries
from .used_rows import Read, UsedRows

Leaves = dict[str, Tensor]


def functional(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Callable[[Mapping[str, Tensor]], Any], Leaves]:
    r"""A function f with ``f(leaves) == model(*args, **kwargs)``, and these leaves: parameters by name, and of tables
    the rows that the inputs use, each once.

    Transforms of torch.func then never make a gradient of a whole table. The model runs once before, which tells the
    rows, and brings them up to date where updates are pending.

    Args:
        model: parameters with ``requires_grad`` are leaves, as far as the output depends on them.
        args, kwargs: what the model is called with.

    Raises:
        TypeError: the model is no module. ValueError: the output depends on no trainable parameter.

    Example:
        >>> from sparsetrain.nn import LookupTable
        >>> table = LookupTable(1000, 2)
        >>> f, leaves = functional(table, torch.tensor([4, 7, 7]))
        >>> {name: tuple(leaf.shape) for name, leaf in leaves.items()}
        {'weight': (2, 2)}
        >>> torch.func.jacrev(f)(leaves)["weight"].shape
        torch.Size([3, 2, 2, 2])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"functional: expected an nn.Module, got {type(model).__name__}.")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    entries = _entries(parameters, lambda: model(*args, **kwargs))
    leaves = {entry.name: entry.numbers().detach().clone() for entry in entries}
    rows = {entry.name: entry.rows for entry in entries}

    def call(leaves: Mapping[str, Tensor]) -> Any:
        if leaves.keys() != rows.keys():
            raise ValueError(f"functional: expected leaves {sorted(rows)}, got {sorted(leaves)}.")
        whole: dict[str, Tensor] = {}
        read: dict[Tensor, Read] = {}
        for name, leaf in leaves.items():
            p, used = parameters[name], rows[name]
            if used is None:
                whole[name] = leaf
            elif p.ndim == 1:  # values of edges, which layers read as a whole where a transform is active
                whole[name] = p.detach().index_copy(0, used, leaf)
            else:
                read[p] = Read(p, used, leaf)
        with UsedRows(list(read), read):
            return functional_call(model, whole, args, kwargs)

    return call, leaves


def _entries(parameters: Mapping[str, Tensor], run: Callable[[], Any]) -> Entries:
    trained = list(parameters.values())
    with UsedRows(trained) as reading, torch.enable_grad():
        outputs = [z for z in tree_leaves(run()) if isinstance(z, Tensor) and z.requires_grad]
    if not outputs:
        raise ValueError("functional: expected outputs that depend on trainable parameters, got none that has a graph.")
    found = grad(outputs, trained, [torch.ones_like(z) for z in outputs], allow_unused=True)
    whole = [p for p, g in zip(trained, found, strict=True) if g is not None]
    return Entries(parameters, whole, reading.reads).check("functional")
