"""Edges of a state dict taken over by a model that has others: at once, or whenever a state is loaded."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..layer_names import named_modules
from . import matching, undoing
from .arguments import check_of_model, check_parts, check_shapes
from .known_modules import edge_layers
from .matching import changed_edges

ON_LOAD = "io.adopt_on_load"


def adopt(model: nn.Module, state_dict: Mapping[str, Any], optimizer: Optimizer | None = None) -> None:
    """Load a state dict whose layers have other edges than the model's: the model takes over the stored edges.

    For models whose edges are drawn at random, in a process that has drawn others. It is
    ``model.load_state_dict(state_dict)``, and ends in the same state, for a state dict of any origin: torch.save,
    Lightning, safetensors, a mean of several. Layers whose edges agree are loaded as usual. The others get the
    stored topology, with its names, in the same Parameters. Files of io.save are loaded by
    ``io.load(..., topology="adopt")``.

    Args:
        model: layers of the same shapes under the same names as the one that the state is of.
        state_dict: of the whole model, of version 0.1 or later.
        optimizer: of its parameters. What it holds for each value, such as moments, is carried along (optim.carry);
            its own state is loaded afterwards, by ``optimizer.load_state_dict``.

    Raises:
        ValueError: keys or shapes differ, the stored edges are damaged, for instance by arithmetic, values are
            computed by a parametrization, or the model is on the meta device; or the optimizer is of another model, has
            an ``l1`` for each of the old values, or is LBFGS. TypeError: the state is no mapping, or holds something
            else than tensors of real numbers; no module, no optimizer. Nothing is changed then.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> model, other = SparseLinear(20, 10, density=0.1), SparseLinear(20, 10, density=0.1)
        >>> adopt(other, model.state_dict())
        >>> other.topology.digest == model.topology.digest
        True
    """
    where = "io.adopt"
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"{where}: expected a state dict, got {type(state_dict).__name__}.")
    check_parts(where, model, optimizer)
    check_shapes(where, model)
    check_of_model(where, model, optimizer)
    state: OrderedDict[str, Any] = OrderedDict(matching.upgraded(where, model, state_dict))
    state._metadata = getattr(state_dict, "_metadata", {})  # type: ignore[attr-defined]
    adopted = matching.check_model(where, model, state, adopt=True, dtypes=False)
    with undoing.of_model(model, None):
        change = changed_edges(where, optimizer, adopted)
        change.layers()
        model.load_state_dict(state)
    change.optimizer()


def adopt_on_load(model: nn.Module, optimizer: Optimizer | None = None) -> RemovableHandle:
    """From now on the model takes over the edges of each state that is loaded into it, as io.adopt does.

    For trainers that call ``load_state_dict`` themselves: Lightning, accelerate's ``load_state``, transformers'
    Trainer. Parts of a state are loaded as far as they reach, with ``strict=False``. Layers whose edges agree are
    loaded as usual.

    Args:
        model: any module; states may be loaded into it or into a wrapper around it, such as DistributedDataParallel.
        optimizer: of its parameters; what it holds for edges that stay is carried along.

    Returns:
        A handle: ``handle.remove()`` ends it, and so does leaving a ``with`` block of it.

    Raises:
        TypeError, ValueError: as io.adopt, and so does each load, before it has changed anything.

    Example:
        >>> from sparsetrain.nn import SparseLinear
        >>> model, other = SparseLinear(20, 10, density=0.1), SparseLinear(20, 10, density=0.1)
        >>> with adopt_on_load(other):
        ...     _ = other.load_state_dict(model.state_dict())
        >>> other.topology.digest == model.topology.digest
        True
    """
    check_parts(ON_LOAD, model, optimizer)
    check_of_model(ON_LOAD, model, optimizer)
    inner: Any = named_modules(model)[""]  # which is loaded through whatever is wrapped around it, or by itself
    return inner.register_load_state_dict_pre_hook(_Adopting(optimizer))  # type: ignore[no-any-return]


class _Adopting:
    """The hook: an object, as models are pickled with it. A copy of the model is none of the optimizer's."""

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        self.optimizer = optimizer

    def __call__(self, module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        own = {key.removeprefix(prefix): value for key, value in state.items() if str(key).startswith(prefix)}
        own = matching.upgraded(ON_LOAD, module, own)
        layers = {name: layer for name, layer in edge_layers(module).items() if not layer.awaits_edges}
        adopted = matching.with_other_edges(ON_LOAD, layers, own)
        change = changed_edges(ON_LOAD, self.optimizer, list(adopted.values()))
        change.layers()
        change.optimizer()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Adopting, ()
