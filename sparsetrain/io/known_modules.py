"""What is known of the modules of a model: that they only copy the state they are given, and only pass on the one they
have. torch's modules and ours do. Others may keep what they are given, as observers of torch.ao do, or raise."""

from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..edges.packed_edges import in_pieces
from ..edges.stored_edges import KEY
from ..nn import EdgeModule, MaskedLinear


def edge_layers(model: nn.Module) -> dict[str, EdgeModule]:
    """The layers over edges by the prefix of their keys in a state dict, under each of their names."""
    return {
        f"{name}." if name else "": module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, EdgeModule)
    }


def live_state(model: nn.Module) -> dict[str, Any]:
    """The state dict, of the arrays themselves: what layers share is one tensor. Edges are PackedEdges, which take no
    memory, where nobody looks at the state while it is made."""
    with in_pieces() if _pass_state_on(model) else nullcontext():
        state: dict[str, Any] = model.state_dict(keep_vars=True)
    return state


def _pass_state_on(model: nn.Module) -> bool:
    return all(
        not module._state_dict_hooks
        and not module._state_dict_pre_hooks
        and _is_ours_or_torchs(module.state_dict)
        and _is_ours_or_torchs(module._save_to_state_dict)
        and _is_ours_or_torchs(module.get_extra_state)
        for module in model.modules()
    )


def kept_apart(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """The state, of which everything is in memory of its own that the model might keep as it is given.

    What is still in the file changes when the file is written into, or ends the process when it gets shorter.
    """
    left, copies = _only_copied(model, state), dict[int, Tensor]()
    kept = dict(state)
    for key, each in state.items():
        if isinstance(each, Tensor) and key not in left:
            if id(each) not in copies:  # what is tied stays one tensor
                copies[id(each)] = each.clone()
            kept[key] = copies[id(each)]
    return kept


def only_copy(model: nn.Module, state: dict[str, Any]) -> bool:
    """Whether all of a state is copied by modules of which none raises, once the state was checked. A MaskedLinear
    refuses masks of other numbers than zeros and ones."""
    modules = list(model.modules())
    after = [hook for module in modules for hook in module._load_state_dict_post_hooks.values()]
    hooked = any(module._load_state_dict_pre_hooks for module in modules) or not all(map(_is_ours, after))
    masked = any(isinstance(module, MaskedLinear) for module in modules)
    return not hooked and not masked and len(_only_copied(model, state)) == len(state)


def is_known(optimizer: Optimizer | None) -> bool:
    """Whether an optimizer, if there is one, is torch's or ours, and nobody looks on while it is loaded."""
    if optimizer is None:
        return True
    hooks = (optimizer._optimizer_load_state_dict_pre_hooks, optimizer._optimizer_load_state_dict_post_hooks)
    return not any(hooks) and type(optimizer).__module__.startswith(("torch.optim.", "sparsetrain."))


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
    methods = (module._load_from_state_dict, module.set_extra_state)
    return all(map(_is_ours_or_torchs, methods)) and all(map(_is_ours, hooks))


def _is_ours_or_torchs(method: Any) -> bool:
    return str(getattr(method, "__module__", "")).startswith(("torch.nn.modules.", "sparsetrain."))


def _is_ours(hook: Any) -> bool:
    return _module_of(hook).startswith("sparsetrain.")


def _module_of(hook: Any) -> str:
    """Where a hook, a function or an object, was defined."""
    return str(getattr(hook, "__module__", "") or type(hook).__module__)
