"""Second derivatives of losses in closed form against autograd's, and drawn ones against their expectation."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsetrain as st
from sparsetrain.curvature.losses import closed_form

F64 = torch.float64
N, CLASSES = 6, 4


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


WEIGHT = numbers(CLASSES, seed=5).abs()
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])
PROBABILITIES = numbers(N, CLASSES, seed=6).softmax(1)
HALVES = (numbers(N, CLASSES, seed=7) > 0).double()
SOFT = numbers(N, CLASSES, seed=8).sigmoid()

CASES: dict[str, tuple[Any, Tensor, Tensor]] = {
    "cross-entropy": (nn.CrossEntropyLoss(), numbers(N, CLASSES), LABELS),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), numbers(N, CLASSES), LABELS),
    "weights of classes": (nn.CrossEntropyLoss(weight=WEIGHT), numbers(N, CLASSES), LABELS),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), numbers(N, CLASSES), LABELS),
    "ignored and weighted": (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=3), numbers(N, CLASSES), LABELS),
    "smoothed": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), numbers(N, CLASSES), LABELS),
    "probabilities": (nn.CrossEntropyLoss(), numbers(N, CLASSES), PROBABILITIES),
    "probabilities, all": (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3), numbers(N, CLASSES), PROBABILITIES),
    "pixels": (nn.CrossEntropyLoss(ignore_index=2), numbers(2, CLASSES, 3), LABELS.view(2, 3)),
    "one sample": (nn.CrossEntropyLoss(), numbers(CLASSES), torch.tensor(2)),
    "function": (functional.cross_entropy, numbers(N, CLASSES), LABELS),
    "partial": (partial(functional.cross_entropy, reduction="sum", label_smoothing=0.1), numbers(N, CLASSES), LABELS),
    "logits": (nn.BCEWithLogitsLoss(), numbers(N, CLASSES), HALVES),
    "logits, all": (
        nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=2 * WEIGHT, reduction="sum"),
        numbers(N, CLASSES),
        SOFT,
    ),
    "logits, function": (functional.binary_cross_entropy_with_logits, numbers(N, CLASSES), SOFT),
    "probabilities of two": (nn.BCELoss(weight=WEIGHT), numbers(N, CLASSES).sigmoid(), SOFT),
    "squares": (nn.MSELoss(), numbers(N, CLASSES), numbers(N, CLASSES, seed=9)),
    "sum of squares": (partial(functional.mse_loss, reduction="sum"), numbers(N, CLASSES), numbers(N, CLASSES, seed=9)),
}


def by_autograd(loss: Any, z: Tensor, y: Tensor) -> Tensor:
    matrix: Tensor = torch.func.hessian(lambda z: loss(z, y))(z)
    return matrix.reshape(z.numel(), z.numel())


def dense(hessian: Any, z: Tensor) -> Tensor:
    unit = torch.eye(z.numel(), dtype=F64)
    return torch.stack([hessian.product(v.view(z.shape)).flatten() for v in unit], 1)


@pytest.mark.parametrize("name", CASES)
def test_closed_form_is_autograds(name: str) -> None:
    loss, z, y = CASES[name]
    # the derivatives of binary_cross_entropy have a 1e-12 added to what they divide by
    rtol, atol = (1e-9, 1e-12) if name == "probabilities of two" else (1e-13, 1e-14)
    torch.testing.assert_close(dense(closed_form(loss, z, y), z), by_autograd(loss, z, y), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_drawn_gradients_have_it_as_their_covariance(name: str) -> None:
    loss, z, y = CASES[name]
    form = closed_form(loss, z, y)
    assert form is not None
    expected = dense(form.expected(), z)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        assert torch.linalg.eigvalsh(dense(form.sampled(generator), z)).min() > -1e-14
    signs = torch.randn(2, z.numel(), generator=generator, dtype=F64).sign()
    drawn = [form.sampled(generator) for _ in range(4000)]
    for v in signs:
        mean = torch.stack([draw.product(v.view(z.shape)).flatten() for draw in drawn]).mean(0)
        torch.testing.assert_close(mean, expected @ v, rtol=0, atol=0.12 * float(expected.abs().max()))


def test_other_losses_have_none() -> None:
    z, y = numbers(N, CLASSES), LABELS
    assert closed_form(lambda z, y: functional.cross_entropy(z, y), z, y) is None
    assert closed_form(nn.HuberLoss(), z, z) is None
    assert closed_form(partial(functional.cross_entropy, size_average=True), z, y) is None

    class Mine(nn.CrossEntropyLoss):
        """A subclass may compute anything."""

    assert closed_form(Mine(), z, y) is None


@pytest.mark.parametrize("name", CASES)
def test_fisher_and_gauss_newton_of_a_layer(name: str) -> None:
    loss, _, y = CASES[name]
    if name in ("pixels", "one sample"):
        pytest.skip("is no output of a linear layer")
    torch.manual_seed(0)
    inner = nn.Sigmoid() if name == "probabilities of two" else nn.Identity()
    model, x = nn.Sequential(nn.Linear(3, CLASSES, dtype=F64), inner), numbers(N, 3)
    G = st.curvature.ggn(model, loss, (x, y)).to_dense()
    other = st.curvature.ggn(model, lambda z, y: loss(z, y), (x, y)).to_dense()
    torch.testing.assert_close(G, other, rtol=1e-12, atol=1e-11 if name == "probabilities of two" else 1e-14)
    if name != "probabilities of two":
        assert torch.equal(st.curvature.fisher(model, loss, (x, y)).to_dense(), G)
    generator = torch.Generator().manual_seed(1)
    drawn = st.curvature.fisher(model, loss, (x, y), samples=3, generator=generator)
    again = st.curvature.fisher(model, loss, (x, y), samples=3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn.to_dense(), again.to_dense())
    assert torch.linalg.eigvalsh(drawn.to_dense()).min() > -1e-13


def test_fisher_of_probabilities_is_that_of_logits() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, CLASSES, dtype=F64), numbers(N, 3)
    of_logits = st.curvature.fisher(layer, nn.BCEWithLogitsLoss(WEIGHT), (x, HALVES)).to_dense()
    of_probabilities = st.curvature.fisher(
        nn.Sequential(layer, nn.Sigmoid()), nn.BCELoss(WEIGHT), (x, HALVES)
    ).to_dense()
    torch.testing.assert_close(of_probabilities, of_logits, rtol=1e-13, atol=1e-15)


def test_probabilities_of_zero_and_one_have_finite_derivatives() -> None:
    z, generator = torch.tensor([0.0, 1.0, 0.5]), torch.Generator().manual_seed(0)
    form = closed_form(nn.BCELoss(reduction="sum"), z, torch.tensor([0.0, 1.0, 1.0]))
    assert form is not None
    assert form.product(torch.ones(3)).tolist() == [1, 1, 4]
    assert form.expected().product(torch.ones(3)).isfinite().all()
    assert form.sampled(generator).product(torch.ones(3)).tolist() == [1, 1, 4]


def test_a_penalty_in_the_loss_has_its_own_curvature() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, CLASSES, dtype=F64)
    x = numbers(N, 3)

    def penalized(z: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(z, y) + 0.5 * layer.weight.square().sum()

    expected = st.curvature.ggn(layer, nn.CrossEntropyLoss(), (x, LABELS)).to_dense()
    expected.diagonal()[: layer.weight.numel()] += 1
    for matrix in (st.curvature.ggn, st.curvature.hessian):
        operator = matrix(layer, penalized, (x, LABELS))
        torch.testing.assert_close(operator.to_dense(), expected, rtol=0, atol=1e-13)
        gradient = torch.autograd.grad(penalized(layer(x), LABELS), list(layer.parameters()))
        torch.testing.assert_close(operator.gradient(), torch.cat([g.flatten() for g in gradient]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("loss", [functional.nll_loss, nn.L1Loss()], ids=["nll", "l1"])
def test_losses_that_are_linear_in_the_outputs_are_warned_of(loss: Any) -> None:
    model = nn.Sequential(nn.Linear(3, CLASSES, dtype=F64), nn.LogSoftmax(1))
    y = LABELS if loss is functional.nll_loss else SOFT
    with pytest.warns(UserWarning, match="ggn: the second derivative of the loss .* is zero here"):
        operator = st.curvature.ggn(model, loss, (numbers(N, 3), y))
    assert not operator.to_dense().any()


def test_fisher_needs_a_likelihood() -> None:
    with pytest.raises(ValueError, match="fisher: expected a loss of which the likelihood is known"):
        st.curvature.fisher(nn.Linear(3, 2), nn.HuberLoss(), (torch.ones(1, 3), torch.ones(1, 2)))
    for samples in (0, -1, 1.5):
        with pytest.raises(ValueError, match="fisher: expected samples to be a positive integer or None"):
            st.curvature.fisher(nn.Linear(3, 2), nn.MSELoss(), (torch.ones(1, 3), torch.ones(1, 2)), samples=samples)  # type: ignore[arg-type]
