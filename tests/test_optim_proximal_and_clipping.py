"""l1 by proximal steps, which reach exact zeros, and clipping of dense and sparse gradients together."""

import copy
from typing import Any

import pytest
import torch
from tables import KINDS, Mixed, apart, densify, every_row, name_of, ours, parameter, rows_gradient
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import sparsetrain as st


def shrunk(w: Tensor, threshold: Tensor | float) -> Tensor:
    return w.sign() * (w.abs() - threshold).clamp(min=0)


def denominator(kind: str, optimizer: Any, p: Tensor) -> Any:
    """What the docstrings divide lr l1 by, from the state after the step."""
    state, group = optimizer.state[p], optimizer.param_groups[0]
    if kind == "SGD":
        return 1.0
    if kind == "RMSprop":
        v = state["square_avg"] - (state["grad_avg"] ** 2 if group["centered"] else 0)
        return v.sqrt() + group["eps"]
    if kind == "Adagrad":
        return (state["sum"].sqrt() + group["eps"]) * (1 + (float(state["step"]) - 1) * group["lr_decay"])
    v = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    n = state["row_steps"].double()[:, None].clamp(min=1) if "row_steps" in state else float(state["step"])
    return (v / (1 - group["betas"][1] ** n)).sqrt() + group["eps"]


PROXIMAL: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.5}),
    ("RMSprop", {"centered": True, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("Adagrad", {"rowwise": True}),
    ("Adam", {"weight_decay": 0.1}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.1}),
]


@pytest.mark.parametrize("each", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "table"])
@pytest.mark.parametrize(("kind", "options"), PROXIMAL, ids=name_of)
def test_thresholds_are_those_of_the_docstrings(kind: str, options: dict[str, Any], sparse: bool, each: bool) -> None:
    """Step by step: what the optimizer does without l1, then one soft threshold of the rows that were used."""
    p, q = (nn.Parameter(0.02 * parameter(5, 3).detach()) for _ in range(2))
    l1: Any = 2 * parameter(5, 3, seed=9).detach().abs() * (parameter(5, 3, seed=8).detach() > 0) if each else 1.0
    options = {"lr": 0.05, "eps": 1e-2, **options} if kind != "SGD" else {"lr": 0.05, **options}
    mine, plain = ours(kind, [p], l1=l1, **options), ours(kind, [q], **options)
    for step, ids in enumerate(([0, 1, 2, 3, 4], [0, 3, 3], [2, 3], [0, 1, 2, 3, 4])):
        gradient = rows_gradient(p, ids, seed=step)
        p.grad, q.grad = (gradient if sparse else gradient.to_dense() for _ in range(2))
        mine.step()
        plain.step()
        used = sorted(set(ids)) if sparse else list(range(5))
        with torch.no_grad():
            q[used] = shrunk(q, options["lr"] * l1 / denominator(kind, plain, q))[used]
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    zeros = (p == 0).sum()
    assert zeros > 0  # exact ones
    assert p.equal(q) or (p == 0).equal(q == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_l1_of_zero_changes_nothing(kind: str) -> None:
    weights = []
    for l1 in (0.0, torch.zeros(4, 2, dtype=torch.float64)):
        p = parameter(4, 2)
        p.grad = rows_gradient(p, [0, 1, 1])
        ours(kind, [p], l1=l1).step()
        weights.append(p.detach())
    assert weights[0].equal(weights[1])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "table"])
@pytest.mark.parametrize("each", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("SGD", {"lr": 0.5}), ("RMSprop", {"lr": 0.1}), ("Adagrad", {"lr": 0.5}), ("Adam", {"lr": 0.1, "betas": (0.0, 0.9)}), ("AdamW", {"lr": 0.1, "betas": (0.0, 0.9), "weight_decay": 0})],
    ids=name_of,
)  # fmt: skip
def test_lasso_of_an_orthogonal_design(kind: str, options: dict[str, Any], each: bool, sparse: bool) -> None:
    """min 1/2 |A w - y|^2 + l1 |w| with A'A = 1 has the solution sign(A'y) max(|A'y| - l1, 0)."""
    design, y = torch.linalg.qr(parameter(8, 6, seed=1).detach())[0], 2 * parameter(8, 1, seed=2).detach()
    l1: Any = torch.tensor([0.2, 0.9, 0.5, 0.3, 2.0, 0.0], dtype=torch.float64)[:, None] if each else 1.2
    solution = shrunk(design.t() @ y, l1)
    assert 0 < (solution == 0).sum() < 6
    p = nn.Parameter(torch.ones(6, 1, dtype=torch.float64))
    optimizer = ours(kind, [p], l1=l1, **options)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995 if kind in ("RMSprop", "Adam", "AdamW") else 1.0)
    for _ in range(1200):
        g = design.t() @ (design @ p.detach() - y)
        p.grad = torch.sparse_coo_tensor(torch.arange(6)[None], g, (6, 1), check_invariants=True) if sparse else g
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(p.detach(), solution, rtol=0, atol=1e-12 if kind == "SGD" else 1e-3)
    assert (p == 0).equal(solution == 0)


@pytest.mark.parametrize("kind", KINDS)
def test_l1_reaches_edges(kind: str) -> None:
    model = Mixed()
    optimizer = ours(kind, [model.edges.values], lr=0.1, l1=1.0)
    for step in range(200):
        optimizer.zero_grad()
        model(every_row(step)).backward()
        optimizer.step()
    assert (model.edges.values == 0).any()


# ---- clipping ----------------------------------------------------------------------------------------------------------


def gradients() -> tuple[Mixed, Mixed]:
    """The same gradients, once with sparse ones that hold duplicates and once all dense."""
    model = Mixed()
    other = copy.deepcopy(model)
    for each in (model, other):
        each(every_row(0)).backward()
    densify(other)
    return model, other


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.to_dense() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.parametrize("max_norm", [0.01, 1e9])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
def test_norms_are_clipped_as_of_dense_gradients(norm_type: float, max_norm: float, foreach: bool | None) -> None:
    model, other = gradients()
    norm = st.optim.clip_grad_norm_(model.parameters(), max_norm, norm_type, foreach=foreach)
    expected = clip_grad_norm_(other.parameters(), max_norm, norm_type, foreach=foreach)
    torch.testing.assert_close(norm, expected, rtol=1e-14, atol=0)
    for one, twin in zip(grads(model), grads(other), strict=True):
        torch.testing.assert_close(one, twin, rtol=1e-13, atol=1e-16)
    assert model.table.weight.grad is not None
    assert model.table.weight.grad.is_sparse


def test_values_are_clamped_as_of_dense_gradients() -> None:
    model, other = gradients()
    limit = float(torch.cat([g.abs().flatten() for g in grads(other)]).median())
    st.optim.clip_grad_value_(model.parameters(), limit)
    clip_grad_value_(other.parameters(), limit)
    for one, twin in zip(grads(model), grads(other), strict=True):
        torch.testing.assert_close(one, twin, rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_duplicates_are_summed_before(backend: str) -> None:
    p = parameter(5, 2)
    p.grad = torch.sparse_coo_tensor(
        torch.tensor([[3, 1, 3]]), torch.ones(3, 2, dtype=torch.float64), p.shape, check_invariants=True
    )
    with st.ops.use_backend(backend):
        norm = st.optim.clip_grad_norm_(p, 5.0)
        assert norm.item() == 10**0.5
        st.optim.clip_grad_value_(iter([p]), 1.5)
    assert p.grad.is_coalesced()
    assert p.grad.indices().tolist() == [[1, 3]]
    assert p.grad.values().tolist() == [[1, 1], [1.5, 1.5]]


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_leaves_all_unchanged(bad: float, norm_type: float) -> None:
    model, _ = gradients()
    assert model.table.weight.grad is not None
    model.table.weight.grad._values()[0, 0] = bad
    before = [g.clone() for g in grads(model)]
    with pytest.raises(RuntimeError, match="non-finite"):
        st.optim.clip_grad_norm_(model.parameters(), 1e-3, norm_type, error_if_nonfinite=True)
    assert all(
        a.nan_to_num(7.5).allclose(b.nan_to_num(7.5), 1e-15, 0) for a, b in zip(grads(model), before, strict=True)
    )


def test_parameters_without_gradients_are_passed_over() -> None:
    p, q = parameter(3, 2), parameter(3, 2)
    assert st.optim.clip_grad_norm_([p, q], 1.0) == 0
    st.optim.clip_grad_value_([p, q], 1.0)
    p.grad = rows_gradient(p, [])
    assert st.optim.clip_grad_norm_([p, q], 1.0) == 0
    assert q.grad is None


@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("clip", ["norm", "value"])
def test_what_autograd_was_given_is_not_written_into(clip: str, coalesced: bool) -> None:
    p = parameter(4, 2)
    incoming = torch.ones(2, 2, dtype=torch.float64)
    given = torch.sparse_coo_tensor(
        torch.tensor([[1, 3]]), incoming, p.shape, is_coalesced=coalesced, check_invariants=True
    )
    p.grad = given
    if clip == "norm":
        st.optim.clip_grad_norm_([p], 0.1)
    else:
        st.optim.clip_grad_value_([p], 0.1)
    assert incoming.eq(1).all()
    assert given.to_dense().sum() == 4
    assert p.grad.to_dense().max() <= 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_gradients_are_stepped(kind: str) -> None:
    model, other = gradients()
    st.optim.clip_grad_norm_(model.parameters(), 0.1)
    clip_grad_norm_(other.parameters(), 0.1)
    for each in (model, other):
        ours(kind, each.parameters(), lr=0.1, eps=1e-3).step() if kind != "SGD" else ours(
            kind, each.parameters()
        ).step()
    assert apart(model, other) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_clips_what_its_closure_computes(kind: str) -> None:
    """Trainers hand the backward pass to step as a closure."""
    model, other = gradients()
    clip_grad_norm_(other.parameters(), 0.1)
    options: dict[str, Any] = {"lr": 0.1} if kind == "SGD" else {"lr": 0.1, "eps": 1e-3}
    given = [p.grad for p in model.parameters()]
    model.zero_grad()

    def closure() -> float:
        for p, g in zip(model.parameters(), given, strict=True):
            p.grad = g
        return 2.0

    clipping = ours(kind, model.parameters(), **options)
    clipping.clip_norm = 0.1
    assert copy.deepcopy(clipping).clip_norm == 0.1
    assert clipping.step(closure) == 2.0
    ours(kind, other.parameters(), **options).step()
    assert apart(model, other) < 1e-12


def test_a_gradient_that_is_not_finite_is_named_before_it_is_clipped() -> None:
    good, bad = parameter(2), parameter(2)
    good.grad, bad.grad = torch.ones_like(good), torch.full_like(bad, float("nan"))
    optimizer = ours("SGD", [good, bad], check_finite=True)
    optimizer.clip_norm = 0.1
    with pytest.raises(ValueError, match="parameter 1 of group 0 to be finite"):
        optimizer.step()
    assert good.grad.eq(1).all()


def test_gradients_that_a_scaler_leaves_scaled_are_clipped_at_their_size() -> None:
    p, q = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer, other = (st.optim.Adam([w], lr=0.1, eps=1e-1, fused=w is p) for w in (p, q))
    optimizer.clip_norm = other.clip_norm = 0.5
    p.grad, q.grad = torch.full((2,), 8.0 * 1024), torch.full((2,), 8.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    optimizer.step()
    other.step()
    torch.testing.assert_close(p, q)
