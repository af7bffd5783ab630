"""Curvature and Hessian-free steps of models that are out of the ordinary."""

import copy
import pickle
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import sparsetrain as st
from sparsetrain.curvature.twice_differentiable import twice_differentiable
from sparsetrain.nn import LookupTable, SparseLinear

F64 = torch.float64
IDS = torch.tensor([[1, 3, 3], [1, 0, 4], [7, 7, 7], [8, 0, 2]])
LABELS = torch.tensor([0, 2, 1, 1])
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
LOSS = nn.CrossEntropyLoss()


class OfWords(nn.Module):
    """A table, and what is made of its rows."""

    def __init__(self, inner: Callable[[Tensor], Tensor], dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.table, self.inner, self.out = LookupTable(10, 3, dtype=dtype), inner, nn.Linear(4, 3, dtype=F64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.inner(self.table(ids).double()))


class Last(nn.Module):
    """What a recurrent layer gives at the end."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


class Checkpointed(nn.Module):
    """Layers whose pass runs again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(SparseLinear(3, 4, density=0.5, dtype=F64), nn.GELU())

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.inner, x.mean(1), use_reentrant=False)


def normed(dim: int | None) -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(3, 4, dtype=F64), dim=dim), nn.Tanh(), nn.Linear(4, 3, dtype=F64))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "LSTM": (lambda: OfWords(Last(nn.LSTM(3, 4, batch_first=True, dtype=F64))), IDS),
    "GRU": (lambda: OfWords(Last(nn.GRU(3, 4, batch_first=True, dtype=F64))), IDS),
    "checkpoint": (lambda: OfWords(Checkpointed()), IDS),
    "rows of float32": (lambda: OfWords(Checkpointed(), torch.float32), IDS),
    "batch normalization": (
        lambda: nn.Sequential(nn.Linear(3, 4, dtype=F64), nn.BatchNorm1d(4, dtype=F64), nn.Tanh(), nn.Linear(4, 3, dtype=F64)), X,
    ),
    "weight_norm": (lambda: normed(0), X),
    "weight_norm, columns": (lambda: normed(1), X),
    "weight_norm, all": (lambda: normed(None), X),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_hessian_is_the_difference_of_gradients(name: str) -> None:
    torch.manual_seed(0)
    make, x = MODELS[name]
    model, h = make(), 1e-3 if name == "rows of float32" else 1e-5
    operator = st.curvature.hessian(model, LOSS, (x, LABELS))
    standing = operator.entries.numbers()
    directions = torch.randn(3, len(standing), dtype=F64)
    products = [operator.matvec(v) for v in directions]
    for v, found in zip(directions, products, strict=True):
        ends = []
        for way in (h, -h):
            operator.entries.put(standing + way * v)
            ends.append(st.curvature.hessian(model, LOSS, (x, LABELS)).gradient())
        difference = (ends[0] - ends[1]) / (2 * h)
        tolerance = 1e-4 if name == "rows of float32" else 1e-7
        torch.testing.assert_close(found, difference, rtol=0, atol=tolerance * float(difference.abs().max()))


# ---- types of numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [st.curvature.ggn, st.curvature.hessian])
@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("second", [torch.bfloat16, torch.float32, F64])
def test_vectors_hold_the_numbers_of_all_entries(matrix: Any, first: torch.dtype, second: torch.dtype) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4, dtype=first), nn.Linear(4, 3, dtype=second)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x.to(first)).tanh().to(second))

    operator = matrix(Model(), LOSS, (X, LABELS))
    assert operator.dtype is (F64 if F64 in (first, second) else torch.float32)
    v = torch.ones(operator.shape[1], dtype=operator.dtype)
    assert operator.gradient().dtype is operator.dtype
    assert operator.matvec(v).dtype is operator.dtype
    assert torch.as_tensor(operator.to_scipy() @ v.numpy()).dtype is operator.dtype


def test_leaves_have_the_types_of_their_parameters() -> None:
    model = OfWords(nn.Sequential(nn.Flatten(), nn.Linear(9, 4, dtype=F64)), torch.float32)
    f, leaves = st.curvature.functional(model, IDS)
    assert [leaf.dtype for leaf in leaves.values()] == [torch.float32, F64, F64, F64, F64]
    assert torch.equal(f(leaves), model(IDS))


def test_complex_parameters_are_refused() -> None:
    layer = nn.Linear(3, 3, dtype=torch.complex64)
    before, x = layer.weight.detach().clone(), X.to(torch.complex64)

    def loss(z: Tensor, y: Tensor | None = None) -> Tensor:
        return z.abs().square().sum()

    message = re.escape("expected real parameters, got weight of torch.complex64. Train its real and imaginary parts")
    for matrix in (st.curvature.ggn, st.curvature.hessian):
        with pytest.raises(ValueError, match=message):
            matrix(layer, loss, (x, None))
    with pytest.raises(ValueError, match="HessianFree: expected real parameters, got parameter 0 of group 0"):
        st.optim.HessianFree(layer.parameters()).step(lambda: layer(x), loss)
    assert torch.equal(layer.weight, before)


# ---- losses, and operators that are kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", [st.curvature.ggn, st.curvature.hessian])
@pytest.mark.filterwarnings("ignore:.*the second derivative of the loss")
def test_what_is_linear_has_a_matrix_of_zeros(matrix: Any) -> None:
    operator = matrix(nn.Linear(3, 2, dtype=F64), lambda z, y: z.sum(), (X, None))
    assert not operator.to_dense().any()
    assert operator.gradient().any()


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
@pytest.mark.filterwarnings("ignore:.*the second derivative of the loss")
def test_a_linear_loss_is_left_downwards(curvature: str) -> None:
    layer = nn.Linear(3, 2, dtype=F64)
    optimizer = st.optim.HessianFree(layer.parameters(), damping=0.5, curvature=curvature, probes=0)
    gradient = torch.autograd.grad(layer(X).sum(), layer.weight)[0]
    before = layer.weight.detach().clone()
    optimizer.step(lambda: layer(X), lambda z: z.sum())
    torch.testing.assert_close(layer.weight.detach(), before - gradient / 0.5, rtol=1e-14, atol=1e-14)


def test_operators_are_no_copies() -> None:
    operator = st.curvature.ggn(nn.Linear(3, 3, dtype=F64), LOSS, (X, LABELS))
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="it holds the graph of a pass"):
            copied(operator)


def test_a_model_that_differentiates_inside_of_its_forward_pass() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    t = torch.linspace(0, 1, 9)[:, None].requires_grad_()

    @torch.enable_grad()
    def residual() -> Tensor:  # of u' = -u, u(0) = 1
        u = 1 + t * model(t)
        return torch.autograd.grad(u.sum(), t, create_graph=True)[0] + u

    optimizer = st.optim.HessianFree(model.parameters(), damping=0.01)
    losses = [float(optimizer.step(residual, lambda r: r.square().mean())) for _ in range(8)]
    assert losses[-1] < 1e-3 * losses[0]


def test_settings_of_the_process_are_as_before_when_threads_overlap() -> None:
    began, ended = threading.Event(), threading.Event()

    def second() -> None:
        with twice_differentiable():
            began.set()
            ended.wait(10)

    other, fused = threading.Thread(target=second), torch.backends.cuda.flash_sdp_enabled
    before = fused()
    with twice_differentiable():
        other.start()
        began.wait(10)
    assert not fused()  # the second one is still inside
    ended.set()
    other.join()
    assert fused() == before
