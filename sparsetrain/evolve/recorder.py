"""What rules look at: the factors of the gradients of the last steps, whole gradients being too large."""

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from ..nn import MaskedLinear
from ..ops.factors import Convolved, Factors, Product
from ..ops.gradient_factors import heard, listen, stop_listening
from ..structure.topology import Topology
from ..tracing import transforming
from .numbers import trained


class Recorder:
    """Notes the factors of one layer's gradients while it is on, in the last few steps.

    Those count that make up the gradient that the optimizer steps by. A backward pass may be for something else, such
    as the gradient of an input (adversarial examples, gradient penalties) or that of a copy of the layer; and what it
    has added may be cleared before the optimizer's backward pass (the discriminator in a generator's step).
    """

    def __init__(self, module: Any, steps: int) -> None:
        self.module = module
        self._steps: deque[list[Factors]] = deque(maxlen=max(1, steps))
        self._now: list[Factors] = []  # of this step's gradients that were added to .grad
        self._handed_out: list[Factors] = []  # of those that torch.autograd.grad returned
        self._pass = -1  # autograd's number of the latest backward pass
        self._node: Any = None  # of autograd's graph, at which the gradient arrives, as it was at first
        self._versions: dict[int, int] = {}  # of the tensors when they were noted
        self._topology: Topology | None = None
        self._handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_node": None}  # nodes can't be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self._topology is not None:  # a copy in the middle of what is noted listens by itself
            self._topology = None
            self.start()

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
            self._node = _node(trained(self.module))
            listen(self._topology, self._came)

    def stop(self) -> None:
        """Note nothing any more, and forget what was noted."""
        if self._topology is not None:
            stop_listening(self._topology, self._came)
        if self._handle is not None:
            self._handle.remove()
        self._topology = self._handle = self._node = None
        self._steps.clear()
        self._now, self._handed_out, self._versions = [], [], {}

    def end_step(self) -> None:
        """What was noted since the last call belongs to one step. Gradients that were handed out count where there are
        no others: somebody has made ``.grad`` of them."""
        if self.on:
            self._steps.append(self._now or self._handed_out)
        self._now, self._handed_out = [], []

    def factors(self, name: str) -> list[list[Factors]]:
        """What was noted, a list for each step.

        Raises:
            RuntimeError: a tensor was changed in place since.
        """
        for step in self._steps:
            for tensor in (part for each in step for part in (each.a, each.b)):
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
        return [[[each.a.clone(), each.b.clone()] for each in step] for step in self._steps]

    def load(self, state: list[list[list[Tensor]]]) -> None:
        """As it was saved."""
        self._steps.clear()
        g = getattr(self.module, "geometry", None)
        self._steps.extend([Product(a, b) if g is None else Convolved(a, b, g) for a, b in step] for step in state)
        self._now, self._handed_out, self._versions = [], [], {}

    def note(self, factors: Factors, arrives: bool = True) -> None:
        """A gradient of this step, which was added to ``.grad`` or handed out."""
        (self._now if arrives else self._handed_out).append(factors)
        parts = (factors.a, factors.b)
        self._versions |= {id(each): each._version for each in parts if not each.is_inference()}

    def _came(self, factors: Factors) -> None:
        if not heard():
            return
        leaf = trained(self.module)
        arrives = _arrives(self._node_now(leaf))
        if arrives is None:
            return
        present = torch._C._current_graph_task_id()
        if arrives and self._now and present != self._pass and _cleared(leaf):
            self._now = []
        self._pass = present
        self.note(factors, arrives)

    def _node_now(self, leaf: Tensor) -> Any:
        """Values that were given another type have another node."""
        try:
            return _node(leaf)
        except AttributeError:  # inside of an operator, as in compiled graphs, autograd can't be asked
            return self._node

    def _came_forward(self, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], y: Tensor) -> None:
        # what comes to the weight through the gradient of an input, as in a gradient penalty, is not seen here
        x = (*inputs, *named.values())[0].detach()
        if y.requires_grad and torch.is_grad_enabled():
            flat = x.reshape(-1, x.shape[-1])
            y.register_hook(lambda dy: self._came(Product(dy.detach().reshape(-1, dy.shape[-1]).t(), flat.t())))  # type: ignore[no-untyped-call]


def _node(leaf: Tensor) -> Any:
    return torch.autograd.graph.get_gradient_edge(leaf).node if leaf.requires_grad else None


def _arrives(node: Any) -> bool | None:
    """Whether the present backward pass adds a gradient at this node; False where it hands that gradient out, and None
    where it is for something else, or for gradients that are differentiated again before they count."""
    if transforming():
        return False
    try:
        return True if node is not None and torch._C._will_engine_execute_node(node) else None
    except RuntimeError:  # torch's word for a leaf whose gradient torch.autograd.grad returns
        return None if torch.is_grad_enabled() else False


def _cleared(leaf: Tensor) -> bool:
    """Whether ``zero_grad`` has taken away what earlier backward passes added."""
    grad = leaf.grad
    return grad is None or not bool((grad._values() if grad.is_sparse else grad).any())
