"""Gauss-Newton, Hessian and Fisher matrices of a model's loss on a batch."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .entries import Entries
from .losses import LikelihoodHessian, Mean, OfOneOutput, closed_form
from .operator import CurvatureOperator
from .passes import CurvedPass, GaussNewtonPass, HessianPass, Outer, Parameters

Batch = tuple[Any, Any]


def ggn(model: nn.Module, loss: Callable[..., Tensor], batch: Batch) -> CurvatureOperator:
    r"""The generalized Gauss-Newton matrix :math:`G = J^T H J` of ``loss(model(x), y)`` over trainable entries.

    :math:`J` is the Jacobian of the outputs and :math:`H` the second derivative of the loss with respect to them, so G
    is positive semidefinite where the loss is convex in the outputs. A product costs one product with :math:`J` and one
    with :math:`J^T`, each about a backward pass; the forward pass runs once, when the operator is made.

    Rows of a table that the batch does not use have zero rows and columns in the full matrix. They are no entries here:
    of LookupTable, nn.Embedding and nn.EmbeddingBag there are the used rows, of layers with ``sparse_grad=True`` the
    edges of used columns, of other parameters all. Parameters that the loss does not depend on are no entries.

    Args:
        model: parameters with ``requires_grad`` are differentiated. Dropout stays as it was drawn in the one pass.
        loss: of the output and the target, a scalar. For ``nn.CrossEntropyLoss``, ``nn.BCEWithLogitsLoss``,
            ``nn.BCELoss``, ``nn.MSELoss``, and the functions of torch.nn.functional that they call, H has a closed
            form; any other is differentiated twice.
        batch: ``(x, y)``. A tuple or dict x is passed as positional or named arguments.

    Raises:
        ValueError: the loss is no finite scalar, or does not depend on the parameters. TypeError: the model is no
            module, or the batch no pair. It warns where the second derivative of the loss is zero, as that of nll_loss.

    Source: Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> ggn(layer, torch.nn.MSELoss(), (torch.eye(2), torch.zeros(2, 1))).to_dense()
        tensor([[1., 0.],
                [0., 1.]])
    """
    run = GaussNewtonPass("ggn", *_arguments("ggn", model, loss, batch), partial(_outer, loss, batch))
    return _operator("ggn", run, model)


def hessian(model: nn.Module, loss: Callable[..., Tensor], batch: Batch) -> CurvatureOperator:
    r"""The Hessian :math:`\nabla^2_w` of ``loss(model(x), y)`` over trainable entries, as for :func:`ggn`.

    It may be indefinite. A product differentiates the gradient once more, about two backward passes.

    Source: Pearlmutter (1994), Fast exact multiplication by the Hessian.

    Example:
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> fourth = lambda z, y: ((z - y) ** 4).sum()
        >>> with torch.no_grad(): _ = layer.weight.fill_(2.0)
        >>> hessian(layer, fourth, (torch.ones(1, 1), torch.zeros(1, 1))).to_dense()
        tensor([[48.]])
    """
    run = HessianPass("hessian", *_arguments("hessian", model, loss, batch))
    return _operator("hessian", run, model)


def fisher(
    model: nn.Module,
    loss: Callable[..., Tensor],
    batch: Batch,
    *,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> CurvatureOperator:
    r"""The Fisher matrix :math:`\sum_n w_n J_n^T E_{y}[g_n g_n^T] J_n` of a loss that is a negative log-likelihood.

    :math:`g_n` is the gradient of the loss with respect to output n for a target y that the model itself draws. The
    exact expectation equals the Gauss-Newton matrix, except for binary cross-entropy of probabilities, whose second
    derivative depends on the targets. Here the targets of the batch count for their weights alone.

    Args:
        samples: how many targets are drawn for each output, in place of the exact expectation.
        generator: of these.

    Raises:
        ValueError: the loss is none of those with a closed form in :func:`ggn`, and what ggn refuses.

    Source: Amari (1998), Natural gradient works efficiently in learning; Martens (2020), New insights and perspectives
    on the natural gradient method.

    Example:
        >>> layer = torch.nn.Linear(2, 3)
        >>> batch = torch.eye(2), torch.tensor([0, 2])
        >>> exact = fisher(layer, torch.nn.CrossEntropyLoss(), batch)
        >>> drawn = fisher(layer, torch.nn.CrossEntropyLoss(), batch, samples=8)
        >>> exact.shape == drawn.shape
        True
    """
    if samples is not None and (not isinstance(samples, int) or samples < 1):
        raise ValueError(f"fisher: expected samples to be a positive integer or None, got {samples!r}.")

    def outer(outputs: list[Tensor]) -> Outer:
        likelihood = _likelihood(loss, batch, outputs)
        if likelihood is None:
            raise ValueError(
                "fisher: expected a loss of which the likelihood is known (cross_entropy, binary_cross_entropy, "
                f"binary_cross_entropy_with_logits, mse_loss, or their modules), got {loss!r}. Use ggn or hessian."
            )
        if samples is None:
            return OfOneOutput(likelihood.expected())
        return OfOneOutput(Mean([likelihood.sampled(generator) for _ in range(samples)]))

    run = GaussNewtonPass("fisher", *_arguments("fisher", model, loss, batch), outer)
    return _operator("fisher", run, model)


# ---- what they share -------------------------------------------------------------------------------------------------


def _arguments(
    where: str, model: nn.Module, loss: Callable[..., Tensor], batch: Batch
) -> tuple[Parameters, Callable[[], Any], Callable[[Any], Tensor]]:
    """What a pass is made of."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected an nn.Module, got {type(model).__name__}.")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise TypeError(f"{where}: expected a batch (x, y), got {type(batch).__name__}.")
    parameters = _trainable(model)
    if not parameters:
        raise ValueError(f"{where}: expected a model with trainable parameters, got none with requires_grad.")
    x, y = batch
    return parameters, partial(_called, model, x), lambda z: loss(z, y)


def _trainable(model: nn.Module) -> Parameters:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _called(model: nn.Module, x: Any) -> Any:
    if isinstance(x, Mapping):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


def _likelihood(loss: Callable[..., Tensor], batch: Batch, outputs: list[Tensor]) -> LikelihoodHessian | None:
    return closed_form(loss, outputs[0], batch[1]) if len(outputs) == 1 else None


def _outer(loss: Callable[..., Tensor], batch: Batch, outputs: list[Tensor]) -> Outer | None:
    likelihood = _likelihood(loss, batch, outputs)
    return None if likelihood is None else OfOneOutput(likelihood)


def _operator(where: str, run: CurvedPass, model: nn.Module) -> CurvatureOperator:
    entries = Entries(_trainable(model), run.inputs.whole, run.inputs.reads)
    return CurvatureOperator(run, entries.check(where).check_real(where))
