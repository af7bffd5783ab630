"""Layers of a model exchanged for others, such that the rest of the model does not notice."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod

from ..layer_names import Rule, names_of, pattern, stands_for, without_layer
from ..nn import MaskedLinear, SparseDeltaLinear, SparseLinear, SparseMultiheadAttention, TransposedSparseLinear
from ..nn.attention_parts import OF_ATTENTION
from ..nn.sparse_convolution import CONVOLUTIONS

Layer = TypeVar("Layer", bound=nn.Module)
Skip = Rule | Iterable[Rule]
OWN: dict[type[nn.Module], set[str]] = {  # what a layer is made of; any other attribute is its user's
    nn.Linear: {"weight", "bias", "_stands_for"},
    nn.MultiheadAttention: {"_qkv_same_embed_dim", "kdim", "vdim", *OF_ATTENTION},
    SparseMultiheadAttention: {"head_dim", "q_proj", "k_proj", "v_proj", "out_proj"},
    SparseLinear: {"values", "bias", "topology", "sparse_grad", "awaits_edges", "_agreed", "_dense_kind"},
    MaskedLinear: {"weight", "bias", "mask", "form"},
    TransposedSparseLinear: {"values", "bias", "_tied", "_listed", "_apart", "_own_topology", "sparse_grad", "_agreed"},
    SparseDeltaLinear: {"linear", "values", "topology", "awaits_edges", "_agreed", "_asked"},
}
OF_DENSE = {"weight", "bias", "transposed", "output_padding", "_reversed_padding_repeated_twice"}
OF_SPARSE = {"values", "bias", "topology", "awaits_edges", "_agreed", "geometry", "_beside"}
for _dense, _sparse in CONVOLUTIONS.items():
    OWN |= {_dense: OF_DENSE, _sparse: OF_SPARSE}


def kind_of(module: nn.Module) -> type:
    """The class that a module had before torch.nn.utils.parametrize gave it another."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def own(kind: type) -> set[str]:
    """What a layer of a class is made of; of a subclass and of transformers' Conv1D, what nn.Linear is."""
    return OWN.get(kind, OWN[nn.Linear] | {"nf", "nx"}) | {"in_features", "out_features"}


def skipped(where: str, model: nn.Module, skip: Skip) -> set[nn.Module]:
    """The modules that these rules fit, and everything in them; and what layers keep frozen inside of them."""
    names = names_of(model)
    rules = [pattern(where, "skip", key) for key in ([skip] if isinstance(skip, (str, re.Pattern, type)) else skip)]
    for rule in without_layer(rules, names):
        known = [name for each in names.values() for name in each]
        raise ValueError(f"{where}: expected names of modules in skip, got {rule.text!r}. There are {some(known)}.")
    frozen = {module.linear for module in names if isinstance(module, SparseDeltaLinear)}
    chosen = [module for module in names if any(rule.fits_any(names[module], module) for rule in rules)]
    return frozen | {inner for module in chosen for inner in module.modules()}


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


def check_not_compiled(where: str, model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """None of these layers is what torch.compile was called with: its code would go on with the layer of before."""
    changed = set(layers)
    for name, module in model.named_modules():
        if type(module).__name__ != "OptimizedModule":
            continue
        inner = module.get_submodule("_orig_mod")
        opened = inner.modules() if isinstance(inner, SparseMultiheadAttention) else [inner]
        if changed.intersection(opened):
            place = repr(name) if name else "the model itself"
            raise ValueError(
                f"{where}: expected layers inside of compiled modules, {place} is a compiled layer, whose code would "
                "go on with the layer of before. Convert it first and compile then."
            )


def check_names_free(where: str, layers: Mapping[str, nn.Module], kind: type[nn.Module]) -> None:
    """No attribute that a user set has a name that the new kind of layer needs for itself."""
    for name, layer in layers.items():
        known = stands_for(layer)
        taken = (vars(known).keys() & own(kind)) - own(type(known))
        if taken:
            raise ValueError(
                f"{where}: expected no attribute {' or '.join(sorted(taken))} on {name!r}, which {kind.__name__} needs "
                f"for itself. Rename it, or leave the layer as it is with skip=[{name!r}]."
            )


def identity(tensor: Tensor) -> tuple[object, int]:
    """The same for two tensors over the same memory, be one of them transposed."""
    empty = is_lazy(tensor) or isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.data_ptr() == 0
    return (None, id(tensor)) if empty else (tensor.device, tensor.data_ptr())


def exchange(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The model with the keys replaced by their values, everywhere; a new root, if that is what is replaced.

    New layers take over hooks, whose handles stay valid, and attributes that users set.
    """
    for old, layer in new.items():
        take_over(old, layer)
        if old in layer.children():  # which would call its hooks a second time
            vars(old).update({name: type(value)() for name, value in vars(old).items() if name.endswith("_hooks")})
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[name] = new[child]
    model = new.get(model, model)
    layers = set(new.values())
    _leave_fast_path(model, layers)
    for wrapper in model.modules():
        if isinstance(wrapper, DistributedDataParallel) and any(inner in layers for inner in wrapper.modules()):
            wrapper.register_forward_pre_hook(_wrap_again)
    return model


def _wrap_again(*_: Any) -> None:
    """Before a forward pass of a wrapper whose layers were exchanged: its ranks would train apart without a word."""
    raise RuntimeError(
        "DistributedDataParallel: expected the layers that the model had when it was wrapped, some were converted "
        "since, and their gradients would not be averaged over ranks. Wrap its module again."
    )


def take_over(old: nn.Module, layer: Layer) -> Layer:
    """The new layer, with hooks of the old one but for those of torch.nn.utils.prune, and attributes that users set."""
    hooks = old._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, BasePruningMethod)]:
        del hooks[key]
    for name, value in vars(old).items():
        if "hook" in name or not (name in vars(layer) or name in own(kind_of(old))):
            vars(layer)[name] = value
    return layer


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
