"""For tools that set each entry of a state dict as a parameter or a buffer of its module, extra state among them."""

from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from ..tracing import compiling
from .stored_edges import KEY


class Buffers(dict[str, Any]):
    """A module's buffers, to which extra state that is set as if it were one is handed on.

    ``load_checkpoint_and_dispatch`` of accelerate does so, and ``torch.func.functional_call`` of a whole state dict,
    which reads what it replaces, and reads what it has set before it puts the former back. It is in here when asked
    for, and never listed.
    """

    def __init__(self, module: nn.Module, buffers: dict[str, Any]) -> None:
        super().__init__(buffers)
        self._module = ref(module)
        self._read: Any = lambda: None  # a weak reference to the extra state that somebody is to put back
        self._set: Tensor | None = None  # what is set until then

    def __contains__(self, name: object) -> bool:
        return name == KEY or super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        module = self._module()
        if name != KEY or module is None:
            return super().__getitem__(name)
        if self._set is not None:
            return self._set
        state: Tensor = module.get_extra_state()
        self._read = ref(state)
        return state

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, extra state among them, or the default."""
        return self[name] if name in self else default  # noqa: SIM401 - it is this one that is defined

    def __setitem__(self, name: str, value: Any) -> None:
        module = self._module()
        if name != KEY or module is None:
            super().__setitem__(name, value)
            return
        former = self._read()
        if value is not None and value is not former and _comparable(value):
            module.set_extra_state(value)
        self._set = value if former is not None and value is not former else None

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _comparable(value: Any) -> bool:
    """Whether it has numbers to compare, as tensors of torch.func and of a graph that is compiled have not."""
    return not (compiling() or torch._C._functorch.is_functorch_wrapped_tensor(value))
