"""For tools that set each entry of a state dict as a parameter or a buffer of its module, extra state among them."""

from typing import Any
from weakref import ref

from torch import nn

from .stored_edges import KEY


class Buffers(dict[str, Any]):
    """A module's buffers, to which extra state that is set as if it were one is handed on.

    ``load_checkpoint_and_dispatch`` of accelerate does so. It is in here when asked for, and never listed.
    """

    def __init__(self, module: nn.Module, buffers: dict[str, Any]) -> None:
        super().__init__(buffers)
        self._module = ref(module)

    def __contains__(self, name: object) -> bool:
        return name == KEY or super().__contains__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        module = self._module()
        if name != KEY or module is None:
            super().__setitem__(name, value)
        elif value is not None:
            module.set_extra_state(value)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)
