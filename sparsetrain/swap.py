"""Layers of a model exchanged for others, such that the rest of the model does not notice."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

OWN = {"weight", "bias", "values", "topology", "mask", "form"}  # what a linear layer is made of, whichever its kind


def all_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with its dotted names, in order; a module that is used in two places has two."""
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        names[module].append(name)
    return names


def skipped(where: str, model: nn.Module, skip: str | Iterable[str]) -> set[nn.Module]:
    """The modules with these names, and everything in them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [skip] if isinstance(skip, str) else list(skip)
    for name in names:
        if name not in modules:
            raise ValueError(f"{where}: expected names of modules in skip, got {name!r}. There are {_some(modules)}.")
    return {inner for name in names for inner in modules[name].modules()}


def check_untied(where: str, model: nn.Module, tensors: Mapping[str, Tensor], advice: str) -> None:
    """None of these tensors, given by name, is a parameter in another place of the model too."""
    owners = defaultdict(list)
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners[_identity(parameter)].append(f"{prefix}.{name}" if prefix else name)
    for name, tensor in tensors.items():
        others = [other for other in owners[_identity(tensor)] if other != name]
        if others:
            raise ValueError(f"{where}: {name} and {others[0]} share one tensor, which the new layer would not. {advice}")


def _identity(tensor: Tensor) -> tuple[object, int]:
    """The same for two parameters over the same memory, be one of them transposed."""
    return (tensor.device, tensor.data_ptr()) if tensor.data_ptr() else (None, id(tensor))


def exchange(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with the keys replaced by their values, everywhere; a new root, if that is what is replaced.

    New layers take over hooks, whose handles stay valid, and attributes that users set.
    """
    for old, layer in new.items():
        for name, value in vars(old).items():
            if "hook" in name or not (name in vars(layer) or name in OWN):
                vars(layer)[name] = value
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in new:
                parent._modules[name] = new[child]
    model = new.get(model, model)
    _leave_fast_path(model, new.values())
    return model


def _leave_fast_path(model: nn.Module, layers: Collection[nn.Module]) -> None:
    """torch's transformer encoder, in eval mode without gradients, hands the weights of its linear layers to one fused
    kernel. Where they are none any more, it has to call them; these are the conditions that it checks itself."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(child in layers for child in module.children()):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and any(inner in layers for inner in module.modules()):
            module.use_nested_tensor = False


def _some(names: Iterable[str], limit: int = 10) -> str:
    shown = [repr(name) for name in names if name]
    return ", ".join(shown[:limit] + (["..."] if len(shown) > limit else [])) or "none"
