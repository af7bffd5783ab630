"""Which tensors of a state are left in the file until they are copied, as nobody keeps them."""

from typing import Any

from torch import Tensor, nn

from ..edges.stored_edges import KEY
from .matching import edge_layers


def where_copied(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """The state, of which everything is in memory of its own that the model might keep as it is given.

    torch's modules and ours copy. Others may set what they are given, as observers of torch.ao do, or with
    ``assign=True``; what is still in the file changes when the file is written into, or ends the process when it gets
    shorter.
    """
    left, copies = _only_copied(model, state), dict[int, Tensor]()
    kept = dict(state)
    for key, each in state.items():
        if isinstance(each, Tensor) and key not in left:
            if id(each) not in copies:  # what is tied stays one tensor
                copies[id(each)] = each.clone()
            kept[key] = copies[id(each)]
    return kept


def _only_copied(model: nn.Module, state: dict[str, Any]) -> set[str]:
    """The keys of parameters, buffers and edges of modules that copy, and are in none that might not."""
    if not _is_ours_or_torchs(model.load_state_dict):
        return set()
    modules = {f"{name}." if name else "": each for name, each in model.named_modules(remove_duplicate=False)}
    own = {prefix + name for prefix, each in modules.items() for name in (*each._parameters, *each._buffers)}
    own.update(prefix + KEY for prefix in edge_layers(model))
    others = tuple(prefix for prefix, each in modules.items() if not _copies(each))
    return {key for key in state if key in own and not key.startswith(others)}


def _copies(module: nn.Module) -> bool:
    hooks = (getattr(hook, "hook", hook) for hook in module._load_state_dict_pre_hooks.values())
    return _is_ours_or_torchs(module._load_from_state_dict) and all(map(_is_ours, hooks))


def _is_ours_or_torchs(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith(("torch.nn.modules.", "sparsetrain."))


def _is_ours(hook: Any) -> bool:
    return type(hook).__module__.startswith("sparsetrain.")
