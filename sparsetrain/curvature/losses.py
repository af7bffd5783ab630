"""Second derivatives of losses with respect to the output of a model, in closed form.

    softmax cross-entropy      w_n (diag(p) - p p'), p = softmax(z_n)
    binary cross-entropy       w_e s (1 - s), s = sigmoid(z_e); of probabilities z: w_e (y / z^2 + (1 - y) / (1 - z)^2)
    squared error              2 w_e

The weights w hold all that a loss multiplies its terms with: weights of classes, samples and elements, its reduction.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST = 1e-12  # of probabilities that are divided by, as in torch

Generator = torch.Generator | None
Tensors = Sequence[Tensor | None]


class LossHessian(Protocol):
    """The second derivative of a loss with respect to its input z."""

    def product(self, v: Tensor) -> Tensor:
        """Times v, of the shape of z."""


class LikelihoodHessian(LossHessian, Protocol):
    """That of a negative log-likelihood."""

    def expected(self) -> LossHessian:
        """The expectation where the model draws the targets, which is also the covariance of the gradient."""

    def sampled(self, generator: Generator) -> LossHessian:
        """The square of one such gradient."""


class Softmax(NamedTuple):
    """Of cross-entropy, whose classes are in dimension ``dim``."""

    p: Tensor
    weights: Tensor
    dim: int

    def product(self, v: Tensor) -> Tensor:
        pv = self.p * v
        return self.weights * (pv - self.p * pv.sum(self.dim, keepdim=True))

    def expected(self) -> LossHessian:
        return self

    def sampled(self, generator: Generator) -> LossHessian:
        classes = self.p.movedim(self.dim, -1)
        drawn = torch.multinomial(classes.reshape(-1, classes.shape[-1]), 1, generator=generator)
        drawn = drawn.view(*classes.shape[:-1], 1).movedim(-1, self.dim)
        return RankOne(self.p - torch.zeros_like(self.p).scatter_(self.dim, drawn, 1.0), self.weights, self.dim)


class Elements(NamedTuple):
    """Of a sum over elements."""

    second: Tensor  # derivatives
    weights: Tensor
    draw: Callable[[Generator], Tensor]  # first derivatives, as targets are drawn
    second_if_drawn: Tensor | None = None  # in expectation, where it depends on targets

    def product(self, v: Tensor) -> Tensor:
        return self.weights * self.second * v

    def expected(self) -> LossHessian:
        return self if self.second_if_drawn is None else self._replace(second=self.second_if_drawn)

    def sampled(self, generator: Generator) -> LossHessian:
        return RankOne(self.draw(generator), self.weights, None)


class OfOneOutput(NamedTuple):
    """What stands between J and J' in a Gauss-Newton product, for a loss that reads one output."""

    hessian: LossHessian

    def product(self, of_outputs: Sequence[Tensor], of_inputs: Sequence[Tensor]) -> tuple[Tensors, Tensors]:
        return [self.hessian.product(of_outputs[0])], [None] * len(of_inputs)


class Mean(NamedTuple):
    """Of second derivatives."""

    parts: list[LossHessian]

    def product(self, v: Tensor) -> Tensor:
        return torch.stack([part.product(v) for part in self.parts]).mean(0)


class RankOne(NamedTuple):
    """w g g' for each sample: along ``dim``, or for each element."""

    g: Tensor
    weights: Tensor
    dim: int | None

    def product(self, v: Tensor) -> Tensor:
        along = self.g * v
        if self.dim is not None:
            along = along.sum(self.dim, keepdim=True)
        return self.weights * self.g * along


def closed_form(loss: Any, z: Tensor, target: Any) -> LikelihoodHessian | None:
    """Of ``loss(z, target)`` for torch's losses of these kinds, as modules, functions or partial functions; or None."""
    found = _named(loss)
    if found is None or not isinstance(target, Tensor):
        return None
    form, options = found
    hessian: LikelihoodHessian = form(z.detach(), target.detach(), **options)
    return hessian


# ---- the forms, with the arguments that torch's functions have -------------------------------------------------------


def _cross_entropy(
    z: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Softmax:
    dim = 1 if z.ndim > 1 else 0
    classes = z.shape[dim]
    of_class = z.new_ones(classes) if weight is None else weight.to(z)
    if target.is_floating_point():  # probabilities
        smooth = (1 - label_smoothing) * target + label_smoothing / classes
        weights = torch.tensordot(smooth.movedim(dim, -1).to(z), of_class, 1)
        total = z.new_tensor(max(1, weights.numel()))
    else:
        valid = target != ignore_index
        chosen = of_class[torch.where(valid, target, 0)] * valid
        weights = (1 - label_smoothing) * chosen + label_smoothing * of_class.mean() * valid
        total = chosen.sum()
    if reduction == "mean":
        weights = weights / total
    return Softmax(z.softmax(dim), weights.unsqueeze(dim), dim)


def _with_logits(
    z: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Elements:
    s = z.sigmoid()
    weights = _reduced(z, weight, reduction)
    if pos_weight is not None:
        weights = weights * (1 + (pos_weight - 1) * target)
    return Elements(s * (1 - s), weights, lambda generator: s - torch.bernoulli(s, generator=generator))


def _of_probabilities(z: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Elements:
    one, zero = z.clamp(min=LEAST), (1 - z).clamp(min=LEAST)  # the probabilities of both

    def draw(generator: Generator) -> Tensor:
        y = torch.bernoulli(z, generator=generator)
        return (1 - y) / zero - y / one

    second = target / one**2 + (1 - target) / zero**2
    return Elements(second, _reduced(z, weight, reduction), draw, 1 / one + 1 / zero)


def _squared(z: Tensor, target: Tensor, reduction: str = "mean", weight: Tensor | None = None) -> Elements:
    def draw(generator: Generator) -> Tensor:  # targets of variance 1/2, of which this is the likelihood
        return 2**0.5 * torch.empty_like(z).normal_(generator=generator)

    if target.shape != z.shape:
        raise ValueError(
            f"curvature: expected a target of the shape of the output, {tuple(z.shape)}, got {tuple(target.shape)}."
        )
    return Elements(torch.full_like(z, 2.0), _reduced(z, weight, reduction), draw)


def _reduced(z: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    weights = torch.ones_like(z) if weight is None else weight.to(z).expand_as(z)
    return weights / max(1, z.numel()) if reduction == "mean" else weights


FORMS: dict[Any, tuple[Any, tuple[str, ...]]] = {
    nn.CrossEntropyLoss: (_cross_entropy, ("weight", "ignore_index", "reduction", "label_smoothing")),
    nn.BCEWithLogitsLoss: (_with_logits, ("weight", "reduction", "pos_weight")),
    nn.BCELoss: (_of_probabilities, ("weight", "reduction")),
    nn.MSELoss: (_squared, ("reduction",)),
    functional.cross_entropy: (_cross_entropy, ()),
    functional.binary_cross_entropy_with_logits: (_with_logits, ()),
    functional.binary_cross_entropy: (_of_probabilities, ()),
    functional.mse_loss: (_squared, ()),
}


def _named(loss: Any) -> tuple[Any, dict[str, Any]] | None:
    """The form of a loss, and its options."""
    if isinstance(loss, nn.Module):
        form, names = FORMS.get(type(loss), (None, ()))
        return None if form is None else (form, {name: getattr(loss, name) for name in names})
    options: dict[str, Any] = {}
    if isinstance(loss, partial) and not loss.args:
        loss, options = loss.func, loss.keywords
    form = FORMS[loss][0] if callable(loss) and getattr(loss, "__hash__", None) and loss in FORMS else None
    known = {"weight", "ignore_index", "reduction", "label_smoothing", "pos_weight"}
    return None if form is None or options.keys() - known else (form, dict(options))
