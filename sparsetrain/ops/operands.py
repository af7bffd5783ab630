"""What operations accept: dense operands in one place and type, beside the values of a topology."""

import torch
from torch import Tensor

from .. import tracing
from ..dtypes import FLOATS, HALVES, wide
from ..structure.topology import Topology

ACTIVATIONS = (*FLOATS, *HALVES)
PARAMETERS = ("values", "bias")  # among operands


def ready(t: Topology, x: Tensor, values: Tensor, bias: Tensor | None) -> bool:
    """Whether ``operands`` would find nothing to refuse or to convert."""
    if not isinstance(x, Tensor) or x.dtype not in ACTIVATIONS or x.layout is not torch.strided:
        return False
    dtype, device, place = wide(x.dtype), x.device, t.device
    if values.dtype is not dtype or values.layout is not torch.strided or values.device != device:
        return False
    if bias is not None and (bias.dtype is not dtype or bias.layout is not torch.strided or bias.device != device):
        return False
    return (device == place or device.type == "meta") and not torch.is_autocast_enabled(place.type)


def _place(t: Topology, tensors: list[Tensor]) -> torch.device:
    """Where operands must be: with the topology, or all on the meta device, whose results are shapes alone."""
    return tensors[0].device if all(tensor.is_meta for tensor in tensors) else t.device


def in_graph() -> bool:
    """Whether torch.compile or torch.jit.trace is tracing. Under torch.func or forward mode the call leaves a compiled
    graph: torch's operators have no such rules there, and would be silently wrong. With fullgraph=True that is torch's
    usual error."""
    if not tracing.compiling():
        return tracing.recording()
    if tracing.transforming():
        torch._dynamo.graph_break()
        return False
    return True


def check_order(where: str, order: str, t: Topology, **tensors: Tensor) -> None:
    """What a caller gave in the places of a call: a topology and tensors."""
    if not isinstance(t, Topology):
        raise TypeError(
            f"{where}: expected t to be a sparsetrain.Topology, got {type(t).__name__}. Call it as {where}({order})."
        )
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{where}: expected {name} to be a torch.Tensor, got {type(tensor).__name__}. Call it as "
                f"{where}({order}), with torch.as_tensor where {name} is an array or list."
            )


def check_values(where: str, t: Topology, values: Tensor) -> None:
    if values.shape != (t.nnz,):
        raise ValueError(
            f"{where}: expected values of shape ({t.nnz},), one for each edge of {t!r}, got {tuple(values.shape)}."
        )


def check_dense(where: str, named: dict[str, Tensor]) -> None:
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{where}: expected {name} to be a torch.Tensor, got {type(tensor).__name__}. Use torch.as_tensor."
            )
        if tensor.layout is not torch.strided:
            raise TypeError(
                f"{where}: expected {name} to be a dense tensor, got {tensor.layout}. Call .to_dense() on it."
            )


def operands(where: str, t: Topology, named: dict[str, Tensor]) -> list[Tensor]:
    """The tensors on the topology's device, in one floating-point type; matrices may be in half precision, and values
    and bias are float32 then. Under autocast all halves of values and bias become float32."""
    check_dense(where, named)
    device = _place(t, list(named.values()))
    autocast = torch.is_autocast_enabled(t.device.type)
    activations = [name for name in named if name not in PARAMETERS]
    dtype = named[activations[0]].dtype
    for name, tensor in named.items():
        if tensor.device != device:
            raise TypeError(
                f"{where}: expected {name} on {device}, where the topology is, got {tensor.device}. Use .to(device)."
            )
        if name in activations:
            _check_activation(where, name, tensor)
        elif tensor.dtype in HALVES and (autocast or name == "bias"):
            named[name] = tensor.float()
        elif tensor.dtype not in FLOATS:
            raise TypeError(
                f"{where}: expected {name} in float32 or float64, got {tensor.dtype}. Convert with .float(): beside "
                "values in float32, x may be in half precision, and so is the result."
            )
    if any(tensor.dtype is not (dtype if name in activations else wide(dtype)) for name, tensor in named.items()):
        dtypes = ", ".join(f"{key} {value.dtype}" for key, value in named.items())
        raise TypeError(f"{where}: expected one dtype, got {dtypes}. Convert with .to(dtype).")
    return list(named.values())


def _check_activation(where: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in ACTIVATIONS:
        raise TypeError(
            f"{where}: expected {name} in float32, float64, float16 or bfloat16, got {tensor.dtype}. Convert with "
            ".float()."
        )
