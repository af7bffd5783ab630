"""What watches an operation: graphs that are traced, modes that see every operator, transforms of torch.func.

The one place that asks torch. Raw calls into kernels are invisible to all of them; what is watched goes through the
operators of ``library.py``, or through torch's own.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.fx import Proxy

P = ParamSpec("P")
R = TypeVar("R")
_PLAIN = Tensor.__torch_dispatch__  # of tensors that no subclass wraps


def transforming() -> bool:
    """Whether forward-mode differentiation or a transform of torch.func is active."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def outside_of_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """torch.compiler.disable, for the first time as a graph is compiled: at import it would import torch._dynamo, which
    takes longer than the whole package."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            function_outside: Callable[P, R] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return function_outside(*args, **kwargs)
        return function(*args, **kwargs)

    return called


def outside_of_transforms() -> AbstractContextManager[Any]:
    """Transforms of torch.func pause: what happens here is done to tensors as they are, and not a part of a function
    that is transformed."""
    return temporarily_clear_interpreter_stack()


def seen_from_without() -> AbstractContextManager[Any]:
    """For what an autograd function computes in its jvp. torch switches forward mode off there, at every level: what
    outer levels differentiate a second time would be lost. At the function's own level take ``primal``."""
    return forward_ad._set_fwd_grad_enabled(True)


def primal(tensor: Tensor) -> Tensor:
    """The tensor without its tangent at the innermost level."""
    return forward_ad.unpack_dual(tensor).primal  # type: ignore[no-untyped-call,no-any-return]


def unwrap_if_dead(tensor: Tensor) -> Tensor:
    """What was saved under a transform that is over, as the function that vjp returns finds it: the tensor inside."""
    return torch._C._functorch.unwrap_if_dead(tensor)


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor inside of what transforms of torch.func wrap around it, all levels off; of a mapped one, all of it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def compiling() -> bool:
    """Whether torch.compile or torch.export is tracing."""
    return torch.compiler.is_compiling()


def exporting() -> bool:
    """Whether torch.export is tracing."""
    return torch.compiler.is_exporting()


def recording() -> bool:
    """Whether torch.jit.trace or the TorchScript exporter of ONNX is recording operators."""
    return not compiling() and torch._C._get_tracing_state() is not None


def watched(*tensors: Any) -> bool:
    """Whether something must see the operators: a trace, a dispatch mode (make_fx, fake tensors, FlopCounterMode), or
    tensors without data, or of a subclass that handles operators itself."""
    if compiling() or torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None:
        return True
    for tensor in tensors:
        if isinstance(tensor, Tensor) and (tensor.is_meta or type(tensor).__torch_dispatch__ is not _PLAIN):
            return True
    return False


def readable(*tensors: Tensor) -> bool:
    """Whether the numbers in these tensors can be asked for, and an answer is not recorded for good."""
    if compiling() or torch._C._get_tracing_state() is not None:
        return False
    if any(map(_mapped, tensors)):
        return False
    keys = torch._C._TorchDispatchModeKey
    if any(torch._C._get_dispatch_mode(key) is not None for key in (keys.PROXY, keys.FAKE)):
        return False
    return not any(tensor.is_meta or type(tensor).__torch_dispatch__ is not _PLAIN for tensor in tensors)


def _mapped(tensor: Tensor) -> bool:
    """Whether vmap has many tensors in the place of this one."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def has_memory(tensor: Tensor) -> bool:
    """Whether the numbers are in memory of the tensor's own, and not in parts, elsewhere or nowhere."""
    plain = type(tensor).__torch_dispatch__ is _PLAIN and tensor.layout is torch.strided
    return plain and not tensor.is_meta and not mapped_by_autograd(tensor)


def mapped_by_autograd(tensor: Tensor | None) -> bool:
    """Whether autograd maps a backward pass over many gradients (is_grads_batched)."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def beside(tensors: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Constants of a structure as operators take them beside ``like``: fake where that is fake."""
    if compiling() or recording():
        return tensors
    mode = torch._guards.detect_fake_mode([like])
    if mode is None or mode.allow_non_fake_inputs or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY):
        return tensors
    return tuple(mode.from_tensor(tensor) for tensor in tensors)


def is_symbolic(x: Any) -> bool:
    """Whether torch.fx.symbolic_trace passes a placeholder in place of a tensor."""
    return isinstance(x, Proxy)


def as_leaf(module: torch.nn.Module, *args: Any) -> Any:
    """The call of a whole module in a graph of torch.fx, as of torch's own layers: its code asks for shapes."""
    tracer: Any = args[0].tracer
    path = tracer.path_of_module(module)
    if not path:
        raise TypeError(
            f"{type(module).__name__}: torch.fx.symbolic_trace records this layer as a whole, and can't trace it "
            "alone. Trace a model that contains it, such as nn.Sequential(layer)."
        )
    return tracer.create_proxy("call_module", path, args, {})


def refuse_script(module: torch.nn.Module) -> Any:
    """What torch.jit.script calls as ``__prepare_scriptable__`` before it reads a module's code."""
    raise TypeError(
        f"{type(module).__name__}: torch.jit.script can't compile this layer. Use torch.compile, torch.export or "
        "torch.jit.trace."
    )
