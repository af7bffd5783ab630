"""One pass over a model whose graph is kept: its loss, its gradient, and products with its curvature."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import grad
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..ops.gradient_factors import unheard
from .entries import Entries
from .twice_differentiable import twice_differentiable
from .used_rows import Read, UsedRows

Tensors = Sequence[Tensor | None]
Parameters = Mapping[str, Tensor]
Forward = Callable[[], Any]
Loss = Callable[[Any], Tensor]


class Outer(Protocol):
    """The second derivative of a loss with respect to what it reads."""

    def product(self, of_outputs: Sequence[Tensor], of_inputs: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
        """Times tangents of the outputs of a model, and of the inputs that the loss reads itself."""


class CurvedPass(Protocol):
    """A loss, its gradient and products with its curvature, over entries."""

    loss: Tensor
    inputs: "Inputs"

    def gradient(self, entries: Entries) -> Tensor: ...

    def product(self, entries: Entries, v: Tensor) -> Tensor: ...


class Inputs:
    """What a pass read of the parameters: some whole, and rows of others.

    Args:
        trained: the parameters.
        reads: rows that were read, as leaves.
        gradients: of these and those, None where the loss does not depend on them.
    """

    def __init__(self, trained: Sequence[Tensor], reads: Sequence[Read], gradients: Tensors) -> None:
        self.reads = reads
        self._places = [k for k, g in enumerate(gradients) if g is not None or k >= len(trained)]
        self.whole = [trained[k] for k in self._places if k < len(trained)]
        self.tensors = [*self.whole, *(read.leaf for read in reads)]

    def kept(self, tensors: Tensors) -> list[Tensor | None]:
        """Of something for each parameter and leaf, what belongs to the inputs."""
        return [tensors[k] for k in self._places]

    def spread(self, entries: Entries, v: Tensor) -> list[Tensor]:
        return entries.spread(v, self.whole, self.reads)

    def gather(self, entries: Entries, tensors: Tensors) -> Tensor:
        return entries.gather(tensors, self.whole, self.reads)


class GradientPass:
    """A loss and its gradient."""

    def __init__(self, where: str, parameters: Parameters, forward: Forward, loss: Loss, curved: bool = False) -> None:
        trained = list(parameters.values())
        with _recorded(trained) as reading:
            value = loss(forward())
        self.loss = check_loss(where, value)
        tensors = [*trained, *(read.leaf for read in reading.reads)]
        found = grad(value, tensors, create_graph=curved, allow_unused=True)
        self.inputs = Inputs(trained, reading.reads, found)
        self._first = self.inputs.kept(found)

    def gradient(self, entries: Entries) -> Tensor:
        return self.inputs.gather(entries, [g if g is None else g.detach() for g in self._first])


class HessianPass(GradientPass):
    """A loss whose gradient is differentiated once more at each product."""

    def __init__(self, where: str, parameters: Parameters, forward: Forward, loss: Loss) -> None:
        super().__init__(where, parameters, forward, loss, curved=True)

    @unheard()
    def product(self, entries: Entries, v: Tensor) -> Tensor:
        """The Hessian times v."""
        along = self.inputs.spread(entries, v)
        return self.inputs.gather(entries, differentiated(self._first, self.inputs.tensors, along))


class GaussNewtonPass:
    r"""A loss :math:`L(z, w)` of outputs :math:`z(w)`, taken apart where the two meet.

    Products with the Jacobian :math:`J = \partial z / \partial w` run no forward pass: the backward pass is linear in
    the gradient of the outputs that it starts from, and the derivative of that map is :math:`J` (forward mode by two
    reverse passes).

    Args:
        where: of error messages.
        parameters: by name.
        forward: runs the model and gives its outputs: a tensor, or tuples, lists and dicts of tensors.
        loss: of the outputs, a scalar. It may read parameters, too.
        outer: the second derivative of the loss, known from the outputs; by autograd without.

    Attributes:
        outputs: of the forward pass, those that depend on parameters.
        cut: the same as leaves, of which the loss was computed.
    """

    def __init__(
        self,
        where: str,
        parameters: Parameters,
        forward: Forward,
        loss: Loss,
        outer: Callable[[list[Tensor]], Outer | None] = lambda _: None,
    ) -> None:
        trained = list(parameters.values())
        with _recorded(trained) as reading:
            tensors, form = tree_flatten(forward())
            places = [k for k, z in enumerate(tensors) if isinstance(z, Tensor) and z.requires_grad]
            if not places:
                raise ValueError(
                    f"{where}: expected outputs that depend on trainable parameters, got none that has a graph. Run "
                    "the model inside of the function, not before it, and not under torch.no_grad()."
                )
            self.outputs = [tensors[k] for k in places]
            self.cut = [z.detach().requires_grad_() for z in self.outputs]
            for k, z in zip(places, self.cut, strict=True):
                tensors[k] = z
            value = loss(tree_unflatten(tensors, form))
        self.loss = check_loss(where, value)
        self._connect(trained, reading.reads, value)
        known = outer(self.outputs)
        self._outer = ByAutograd(where, self) if known is None else known

    @unheard()
    def _connect(self, trained: list[Tensor], reads: list[Read], value: Tensor) -> None:
        """Differentiate once, so that products follow the graph of that."""
        tensors, count = [*trained, *(read.leaf for read in reads)], len(self.cut)
        first = grad(value, [*self.cut, *tensors], create_graph=True, allow_unused=True)
        self._seeds = [torch.zeros_like(z, requires_grad=True) for z in self.outputs]
        pulled = grad(self.outputs, tensors, self._seeds, create_graph=True, allow_unused=True)
        reached = [a if b is None else b for a, b in zip(first[count:], pulled, strict=True)]
        self.inputs = Inputs(trained, reads, reached)
        self.of_outputs, self.of_inputs = first[:count], self.inputs.kept(first[count:])
        self._pulled = self.inputs.kept(pulled)

    def gradient(self, entries: Entries) -> Tensor:
        direct = [g if g is None else g.detach() for g in self.of_inputs]
        return self.inputs.gather(entries, _total(self.pulled(self.of_outputs), direct))

    @unheard()
    def product(self, entries: Entries, v: Tensor) -> Tensor:
        """J' H J v, and what the loss has of its own in the parameters."""
        tangents = self.inputs.spread(entries, v)
        of_outputs, of_inputs = self._outer.product(self.pushed(tangents), tangents)
        return self.inputs.gather(entries, _total(self.pulled(of_outputs), of_inputs))

    def pushed(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        """J v, for each output, of tangents of the inputs."""
        found = differentiated(self._pulled, self._seeds, tangents)
        return [torch.zeros_like(z) if v is None else v for z, v in zip(self.outputs, found, strict=True)]

    def pulled(self, cotangents: Tensors) -> list[Tensor | None]:
        """J' u, for each input, of cotangents of the outputs."""
        pairs = [(z, u.detach()) for z, u in zip(self.outputs, cotangents, strict=True) if u is not None]
        if not pairs:
            return [None] * len(self.inputs.tensors)
        outputs, given = zip(*pairs, strict=True)
        return list(grad(outputs, self.inputs.tensors, given, retain_graph=True, allow_unused=True))


class ByAutograd:
    """Of any loss; a term such as weight decay, which reads parameters, has its own second derivative."""

    def __init__(self, where: str, run: GaussNewtonPass) -> None:
        self._first, self._count = [*run.of_outputs, *run.of_inputs], len(run.cut)
        self._read = [*run.cut, *run.inputs.tensors]
        generator = torch.Generator().manual_seed(0)
        probes = [torch.rand(z.shape, generator=generator).to(z) for z in run.cut]
        found, _ = self.product(probes, [torch.zeros_like(x) for x in run.inputs.tensors])
        if any(z.numel() for z in run.cut) and not any(v is not None and bool(v.any()) for v in found):
            warnings.warn(
                f"{where}: the second derivative of the loss with respect to the outputs is zero here, and so is the "
                "Gauss-Newton matrix. Put what is nonlinear into the loss: cross_entropy of logits in place of "
                "nll_loss of log_softmax.",
                stacklevel=5,
            )

    def product(self, of_outputs: Sequence[Tensor], of_inputs: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
        found = differentiated(self._first, self._read, [*of_outputs, *of_inputs])
        return found[: self._count], found[self._count :]


def differentiated(gradients: Tensors, read: Sequence[Tensor], along: Sequence[Tensor]) -> list[Tensor | None]:
    """The derivative of the product of gradients and vectors, with respect to what was read."""
    pairs = [(g, v) for g, v in zip(gradients, along, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return [None] * len(read)
    maps, of_maps = zip(*pairs, strict=True)
    return list(grad(maps, read, of_maps, retain_graph=True, allow_unused=True))


def check_loss(where: str, loss: Any) -> Tensor:
    """The number, of a finite scalar with a graph."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{where}: expected a loss that is a real scalar tensor, got {got}. Take its mean or sum.")
    if loss.is_meta:
        raise ValueError(
            f"{where}: expected tensors with numbers, got a loss on the meta device. Give the model memory."
        )
    if not loss.requires_grad:
        raise ValueError(
            f"{where}: expected a loss with a graph, got one that does not depend on the outputs. Do not call .item() "
            "or .detach() in it."
        )
    value = loss.detach()
    if not bool(value.isfinite()):
        raise ValueError(f"{where}: expected a finite loss, got {value.item()}. Nothing has changed.")
    return value


@contextmanager
def _recorded(trained: Sequence[Tensor]) -> Iterator[UsedRows]:
    with UsedRows(trained) as reading, torch.enable_grad(), twice_differentiable():
        yield reading


def _total(some: Tensors, others: Tensors) -> list[Tensor | None]:
    """Sums, where None is zero."""
    return [b if a is None else a if b is None else a + b for a, b in zip(some, others, strict=True)]
