"""What rules look at: the factors of the gradients of the last steps, whole gradients being too large."""

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MaskedLinear
from ..ops.gradient_factors import listen, stop_listening
from ..structure.topology import Topology
from .layers import Factors


class Recorder:
    """Notes the factors of one layer's gradients while it is on: of all backward passes in the last few steps."""

    def __init__(self, module: Any, steps: int) -> None:
        self.module = module
        self._steps: deque[list[Factors]] = deque(maxlen=max(1, steps))
        self._now: list[Factors] = []
        self._versions: dict[int, int] = {}  # of the tensors when they were noted
        self._topology: Topology | None = None
        self._handle: Any = None

    @property
    def on(self) -> bool:
        """Whether it notes anything."""
        return self._topology is not None or self._handle is not None

    def start(self) -> None:
        """Note what comes from now on."""
        if self.on:
            return
        if isinstance(self.module, MaskedLinear):
            self._handle = self.module.register_forward_hook(self._came_forward, with_kwargs=True)
        else:
            self._topology = self.module.topology
            listen(self._topology, self._came)

    def stop(self) -> None:
        """Note nothing any more, and forget what was noted."""
        if self._topology is not None:
            stop_listening(self._topology, self._came)
        if self._handle is not None:
            self._handle.remove()
        self._topology = self._handle = None
        self._steps.clear()
        self._now, self._versions = [], {}

    def end_step(self) -> None:
        """What was noted since the last call belongs to one step."""
        if self.on:
            self._steps.append(self._now)
        self._now = []

    def factors(self, name: str) -> list[list[Factors]]:
        """What was noted, a list for each step.

        Raises:
            RuntimeError: a tensor was changed in place since.
        """
        for step in self._steps:
            for tensor in (each for pair in step for each in pair):
                if not tensor.is_inference() and tensor._version != self._versions.get(id(tensor), tensor._version):
                    raise RuntimeError(
                        f"Evolver: an input of layer {name!r}, or the gradient of its output, was changed in place "
                        f"after the backward pass (shape {tuple(tensor.shape)}), so that gradients of absent positions "
                        "can't be found. Call Evolver.step() right after optimizer.step(), and don't fill buffers of "
                        "inputs anew before."
                    )
        return list(self._steps)

    def state(self) -> list[list[list[Tensor]]]:
        """As it is saved."""
        return [[[a.clone(), b.clone()] for a, b in step] for step in self._steps]

    def load(self, state: list[list[list[Tensor]]]) -> None:
        """As it was saved."""
        self._steps.clear()
        self._steps.extend([(a, b) for a, b in step] for step in state)
        self._now, self._versions = [], {}

    def _came(self, a: Tensor, b: Tensor) -> None:
        self._now.append((a, b))
        self._versions |= {id(each): each._version for each in (a, b) if not each.is_inference()}

    def _came_forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], y: Tensor) -> None:
        x = (*inputs, *named.values())[0].detach()
        if y.requires_grad and torch.is_grad_enabled():
            flat = x.reshape(-1, x.shape[-1])
            y.register_hook(lambda dy: self._came(dy.detach().reshape(-1, dy.shape[-1]).t(), flat.t()))  # type: ignore[no-untyped-call]
