"""Layers of a model exchanged for others, such that the rest of the model does not notice."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..nn import MaskedLinear, SparseDeltaLinear, SparseLinear, TransposedSparseLinear

OWN: dict[type[nn.Module], set[str]] = {  # what a layer is made of; any other attribute is its user's
    nn.Linear: {"weight", "bias"},
    SparseLinear: {"values", "bias", "topology", "sparse_grad", "awaits_edges", "_agreed"},
    MaskedLinear: {"weight", "bias", "mask", "form"},
    TransposedSparseLinear: {"values", "bias", "_tied", "_listed", "_apart", "_own_topology", "sparse_grad", "_agreed"},
    SparseDeltaLinear: {"linear", "values", "topology", "awaits_edges", "_agreed"},
}


def kind_of(module: nn.Module) -> type:
    """The class that a module had before torch.nn.utils.parametrize gave it another."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def skipped(where: str, model: nn.Module, skip: str | Iterable[str]) -> set[nn.Module]:
    """The modules with these names, and everything in them; and what layers keep frozen inside of them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [skip] if isinstance(skip, str) else list(skip)
    for name in names:
        if name not in modules:
            raise ValueError(f"{where}: expected names of modules in skip, got {name!r}. There are {some(modules)}.")
    frozen = {module.linear for module in modules.values() if isinstance(module, SparseDeltaLinear)}
    return frozen | {inner for name in names for inner in modules[name].modules()}


def owners_of(model: nn.Module) -> dict[tuple[object, int], list[str]]:
    """The names that each parameter has in the model, by its identity."""
    owners = defaultdict(list)
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners[identity(parameter)].append(f"{prefix}.{name}".lstrip("."))
    return owners


def check_untied(
    where: str,
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    otherwise: str = "which they would no longer be. Leave the layer as it is with skip=[{!r}], or untie them before.",
) -> None:
    """No parameter of these layers is in another place of the model too; except biases, which stay what they are."""
    owners = owners_of(model)
    for prefix, layer in layers.items():
        for name, parameter in layer._parameters.items():
            tied = [] if parameter is None or name == "bias" else owners[identity(parameter)]
            if len(tied) > 1:
                raise ValueError(f"{where}: {' and '.join(tied)} are one tensor, {otherwise.format(prefix)}")


def check_names_free(where: str, layers: Mapping[str, nn.Module], kind: type[nn.Module]) -> None:
    """No attribute that a user set has a name that the new kind of layer needs for itself."""
    for name, layer in layers.items():
        taken = (vars(layer).keys() & OWN[kind]) - OWN[type(layer)]
        if taken:
            raise ValueError(
                f"{where}: expected no attribute {' or '.join(sorted(taken))} on {name!r}, which {kind.__name__} needs "
                f"for itself. Rename it, or leave the layer as it is with skip=[{name!r}]."
            )


def identity(tensor: Tensor) -> tuple[object, int]:
    """The same for two tensors over the same memory, be one of them transposed."""
    empty = is_lazy(tensor) or isinstance(tensor, FakeTensor) or tensor.data_ptr() == 0
    return (None, id(tensor)) if empty else (tensor.device, tensor.data_ptr())


def exchange(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with the keys replaced by their values, everywhere; a new root, if that is what is replaced.

    New layers take over hooks, whose handles stay valid, and attributes that users set.
    """
    for old, layer in new.items():
        for name, value in vars(old).items():
            if "hook" in name or not (name in vars(layer) or name in OWN[kind_of(old)]):
                vars(layer)[name] = value
        if old in layer.children():  # which would call its hooks a second time
            vars(old).update({name: type(value)() for name, value in vars(old).items() if name.endswith("_hooks")})
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[name] = new[child]
    model = new.get(model, model)
    _leave_fast_path(model, set(new.values()))
    return model


def _leave_fast_path(model: nn.Module, layers: set[nn.Module]) -> None:
    """torch's transformer encoder, in eval mode without gradients, hands the weights of its linear layers to one fused
    kernel. Where they are none any more, it has to call them; these are the conditions that it checks itself."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and any(child in layers for child in module.children()):
            module.activation_relu_or_gelu = 0
        if isinstance(module, nn.TransformerEncoder) and any(inner in layers for inner in module.modules()):
            module.use_nested_tensor = False


def some(names: Iterable[str], limit: int = 10) -> str:
    """The first few names, for a message."""
    shown = [repr(name) for name in names if name]
    return ", ".join(shown[:limit] + (["..."] if len(shown) > limit else [])) or "none"
