"""What loading undoes where something raises, as modules, optimizers and parts may after everything was checked."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from torch import nn
from torch.optim import Optimizer

from ..edges.weights import replace_numbers
from ..nn import EdgeModule
from .parts import Pair


@contextmanager
def of_model(model: nn.Module, optimizer: Optimizer | None) -> Iterator[None]:
    """Edges, numbers, gradients and the optimizer's state as they were. Numbers are kept for it: as many again."""
    layers = [module for module in model.modules() if isinstance(module, EdgeModule)]
    edges = [(layer, layer.topology, layer.awaits_edges) for layer in layers]
    tensors = [(t, t.data, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
    gradients = [(p, p.grad, None if p.grad is None else p.grad.detach().clone()) for p in model.parameters()]
    try:
        with of_optimizer(optimizer):
            yield
    except BaseException:
        for layer, topology, awaits in edges:
            layer.topology, layer.awaits_edges = topology, awaits
        for tensor, data, numbers in tensors:
            data.copy_(numbers)
            if isinstance(tensor, nn.Parameter) and tensor.shape != data.shape:
                replace_numbers(tensor, data)  # autograd remembers sizes
            else:
                tensor.data = data
        for parameter, grad, former in gradients:
            parameter.grad = grad
            if grad is not None and former is not None:
                grad.detach().copy_(former)  # a change of edges moves gradients in their memory
        raise


@contextmanager
def of_optimizer(optimizer: Optimizer | None) -> Iterator[None]:
    """Optimizers put a loaded state in the place of their own, which is as it was."""
    held = None if optimizer is None else (optimizer.state, optimizer.param_groups)
    try:
        yield
    except BaseException:
        if optimizer is not None and held is not None:
            optimizer.state, optimizer.param_groups = held
        raise


@contextmanager
def of_parts(pairs: Iterable[Pair]) -> Iterator[Callable[[], None]]:
    """What loads the state of each part. On an error those that it has come to get back the old one; of the last it may
    have loaded some. It goes around ``of_model``: an Evolver takes a state of the edges that there are."""
    old = [(part, state, copy.deepcopy(part.state_dict())) for part, state in pairs]
    begun: list[Pair] = []

    def load() -> None:
        for part, state, before in old:
            begun.append((part, before))
            part.load_state_dict(state)

    try:
        yield load
    except BaseException:
        for part, before in begun:
            with suppress(Exception):
                part.load_state_dict(before)
        raise
