"""Rows that a step does not use stand still, and have the history of the steps that used them (unused="frozen")."""

import math
from typing import Any

import pytest
import torch
from checkpoints import identical
from hypothesis import given, settings
from hypothesis import strategies as strategy
from tables import FROZEN, KINDS, apart, everything, name_of, ours, parameter, rows_gradient, torchs
from torch import Tensor, nn

from sparsetrain.nn import LookupTable

WITH_STATE: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "nesterov": False, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    ("RMSprop", {"bias_correction": "row"}),
    ("Adagrad", {"weight_decay": 0.1}),
    ("Adagrad", {"weight_decay": 0.1, "rowwise": True}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"weight_decay": 0.1, "amsgrad": True}),
]


@pytest.mark.parametrize(("kind", "options"), WITH_STATE, ids=name_of)
def test_unused_rows_stand_still(kind: str, options: dict[str, Any]) -> None:
    p = parameter(6, 3)
    optimizer = ours(kind, [p], lr=0.01, **options)
    for step in range(3):
        p.grad = rows_gradient(p, [0, 1, 1, 5, step], seed=step)
        optimizer.step()
    idle = [0, 1, 2, 5]

    def rows() -> list[Tensor]:
        tables = (p.detach(), *optimizer.state[p].values())
        return [table[idle].clone() for table in tables if table.ndim]

    before = rows()
    used = p.detach()[[3, 4]].clone()
    assert len(before) == 1 + sum(value.ndim > 0 for value in optimizer.state[p].values()) > 1
    for step in range(1000):
        p.grad = rows_gradient(p, [3, 4, 3], seed=step)
        optimizer.step()
    assert identical(rows(), before)
    assert not (p.detach()[[3, 4]] == used).any()


@pytest.mark.parametrize(("kind", "options"), WITH_STATE, ids=name_of)
def test_a_gradient_of_no_rows_changes_no_row(kind: str, options: dict[str, Any]) -> None:
    p = parameter(4, 3)
    optimizer = ours(kind, [p], **options)
    for step, ids in enumerate(([1, 2], [])):
        p.grad = rows_gradient(p, ids, seed=step)
        if not ids:
            before = everything(optimizer)[0][1][0]
        optimizer.step()
    weight, _, state = everything(optimizer)[0][1][0]
    assert weight.equal(before[0])
    assert identical({**state, "step": 0}, {**before[2], "step": 0})


def own_history(kind: str, options: dict[str, Any], start: Tensor, gradients: list[Tensor]) -> Tensor:
    """Each row stepped by a dense optimizer of torch that saw the steps that used it alone."""
    rows = [nn.Parameter(row.clone()) for row in start]
    optimizers = [torchs(kind, [row], **options) for row in rows]
    for gradient in gradients:
        dense, used = gradient.to_dense(), set(gradient._indices()[0].tolist())
        for k in used:
            rows[k].grad = dense[k].reshape(rows[k].shape)
            optimizers[k].step()
    return torch.stack([row.detach() for row in rows])


ID_SEQUENCES = strategy.lists(strategy.lists(strategy.integers(0, 3), max_size=6), max_size=8)
PER_ROW = [(kind, options) for kind, options in FROZEN if "lr_decay" not in options]  # which counts steps of the table


@pytest.mark.parametrize(("kind", "options"), PER_ROW, ids=name_of)
@settings(max_examples=12, deadline=None)
@given(ids=ID_SEQUENCES, seed=strategy.integers(0, 1000))
def test_a_row_has_the_history_of_the_steps_that_used_it(
    kind: str, options: dict[str, Any], ids: list[list[int]], seed: int
) -> None:
    p = parameter(4, 2, seed=seed)
    start = p.detach().clone()
    gradients = [rows_gradient(p, each, seed=seed + k) for k, each in enumerate(ids)]
    optimizer = ours(kind, [p], **options)
    for gradient in gradients:
        p.grad = gradient
        optimizer.step()
    assert apart([p], [own_history(kind, options, start, gradients)]) < 1e-12


def test_lr_decay_of_adagrad_counts_the_steps_of_the_table() -> None:
    p = nn.Parameter(torch.zeros(2, 1, dtype=torch.float64))
    optimizer = ours("Adagrad", [p], lr=1.0, lr_decay=0.5, eps=0.0)
    for ids in ([0], [0], [1]):
        p.grad = torch.sparse_coo_tensor(
            torch.tensor([ids]), torch.ones(1, 1, dtype=torch.float64), p.shape, check_invariants=True
        )
        optimizer.step()
    assert p[1].item() == -1 / (1 + 2 * 0.5)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("first", [1, 10, 1000, 5000])
def test_the_first_step_of_a_row_is_lr_however_late(kind: str, first: int) -> None:
    p = parameter(3, 2)
    optimizer = ours(kind, [p], lr=0.1, eps=1e-3, weight_decay=0)
    idle = rows_gradient(p, [0, 0])
    for _ in range(first - 1):
        p.grad = idle
        optimizer.step()
    before, p.grad = p.detach().clone(), rows_gradient(p, [2, 2, 2], seed=1)
    g = p.grad.to_dense()[2]
    optimizer.step()
    moved = before[2] - p.detach()[2]
    torch.testing.assert_close(moved, 0.1 * g / (g.abs() + 1e-3), rtol=1e-12, atol=0)
    assert optimizer.state[p]["row_steps"].tolist() == [first - 1, 0, 1]
    assert optimizer.state[p]["step"] == first


@pytest.mark.parametrize(("kind", "decay"), [("Adam", 0.1), ("AdamW", 0.1), ("Adam", 0.0)])
def test_global_bias_correction_counts_the_steps_of_the_table(kind: str, decay: float) -> None:
    p = parameter(4, 2)
    optimizer = ours(kind, [p], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=decay, bias_correction="global")
    w, m, v = p.detach().clone(), torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, 2, dtype=torch.float64)
    for n, ids in enumerate(([0], [0, 1], [2, 2], [0, 2], [1, 3, 3]), start=1):
        p.grad = rows_gradient(p, ids, seed=n)
        g = p.grad.to_dense()
        optimizer.step()
        for row in set(ids):
            grad = g[row] + decay * w[row] if kind == "Adam" else g[row]
            if kind == "AdamW":
                w[row] *= 1 - 0.1 * decay
            m[row] = 0.8 * m[row] + 0.2 * grad
            v[row] = 0.9 * v[row] + 0.1 * grad**2
            w[row] -= 0.1 * (m[row] / (1 - 0.8**n)) / ((v[row] / (1 - 0.9**n)).sqrt() + 1e-3)
    torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)
    assert "row_steps" not in optimizer.state[p]


def test_global_bias_correction_is_sparse_adams() -> None:
    p, q = parameter(4, 2), parameter(4, 2)
    mine, theirs = (
        ours("Adam", [p], lr=0.1, eps=1e-20, bias_correction="global"),
        torchs("SparseAdam", [q], lr=0.1, eps=1e-20),
    )
    for step, ids in enumerate(([0], [0, 1], [2, 2], [3])):
        p.grad, q.grad = rows_gradient(p, ids, seed=step), rows_gradient(q, ids, seed=step)
        mine.step()
        theirs.step()
    assert apart([p], [q]) < 1e-14  # but for eps, which SparseAdam adds before the correction


@pytest.mark.parametrize("sparse", [True, False])
def test_bias_correction_of_rmsprop(sparse: bool) -> None:
    p = parameter(4, 2)
    mine = ours("RMSprop", [p], lr=0.1, alpha=0.9, eps=1e-3, bias_correction="row")
    w, v, n = p.detach().clone(), torch.zeros(4, 2, dtype=torch.float64), [0] * 4
    for step, ids in enumerate(([0], [0, 2, 2], [2, 3], [0]) if sparse else ([0, 0, 1, 2, 3], [0, 2, 3, 1])):
        gradient = rows_gradient(p, ids, seed=step)
        g = gradient.to_dense()
        p.grad = gradient if sparse else g.clone()
        mine.step()
        for row in set(ids):
            n[row] += 1
            v[row] = 0.9 * v[row] + 0.1 * g[row] ** 2
            w[row] -= 0.1 * g[row] / ((v[row] / (1 - 0.9 ** n[row])).sqrt() + 1e-3)
    torch.testing.assert_close(p.detach(), w, rtol=1e-12, atol=1e-12)
    assert mine.state[p]["row_steps"].tolist() == n


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad", "Adam", "AdamW"])
def test_duplicates_are_summed_before_they_are_squared(kind: str) -> None:
    p = parameter(5, 2)
    optimizer = ours(kind, [p], weight_decay=0)
    p.grad = torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 3]]), torch.ones(3, 2, dtype=torch.float64), p.shape, check_invariants=True
    )
    optimizer.step()
    (v,) = (optimizer.state[p][name] for name in ("square_avg", "sum", "exp_avg_sq") if name in optimizer.state[p])
    torch.testing.assert_close(v[1], 4 * v[3], rtol=1e-15, atol=0)
    assert v[3, 0] == {"RMSprop": 1 - 0.99, "Adagrad": 1.0}.get(kind, 1 - 0.999)
    assert v[[0, 2, 4]].count_nonzero() == 0


def test_rowwise_adagrad_keeps_the_mean_square_of_each_row() -> None:
    p, q = parameter(4, 3), parameter(4, 3)
    sparse, dense = (ours("Adagrad", [each], lr=0.1, eps=1e-3, rowwise=True) for each in (p, q))
    w, s = p.detach().clone(), torch.zeros(4, 1, dtype=torch.float64)
    for step, ids in enumerate(([0, 1, 1], [1, 3])):
        p.grad = rows_gradient(p, ids, seed=step)
        q.grad = g = p.grad.to_dense()
        sparse.step()
        dense.step()
        s += g.square().mean(1, keepdim=True)
        w -= torch.where(g != 0, 0.1 * g / (s.sqrt() + 1e-3), 0)
    for each, optimizer in ((p, sparse), (q, dense)):
        torch.testing.assert_close(each.detach(), w, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(optimizer.state[each]["sum"], s, rtol=1e-14, atol=0)


def test_rowwise_adagrad_of_a_gradient_that_is_sparse_in_single_entries() -> None:
    """Its rows are entries there, while a sum is kept for each row of the table: refused, or right."""
    p, q = parameter(4, 3), parameter(4, 3)
    optimizer, twin = (ours("Adagrad", [each], lr=0.1, rowwise=True) for each in (p, q))
    p.grad = parameter(4, 3, seed=1).detach().to_sparse()
    q.grad = p.grad.to_dense()
    before = p.detach().clone()
    twin.step()
    try:
        optimizer.step()
    except ValueError:
        assert p.equal(before)
        return
    torch.testing.assert_close(p, q)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_edges_stand_still(kind: str) -> None:
    """A gradient of a value array that names some edges: rows of one number."""
    p = parameter(7)
    start = p.detach().clone()
    options = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    optimizer = ours(kind, [p], lr=0.1, **options)
    gradients = [rows_gradient(p, ids, seed=k) for k, ids in enumerate(([0, 2, 2], [2, 6], [0]))]
    for gradient in gradients:
        p.grad = gradient
        optimizer.step()
    assert p.detach()[[1, 3, 4, 5]].equal(start[[1, 3, 4, 5]])
    assert apart([p], [own_history(kind, {"lr": 0.1, **options}, start[:, None], gradients).flatten()]) < 1e-12


def test_a_table_keeps_its_history_through_a_layer() -> None:
    """The same through forward and backward passes: pools, paddings and columns."""
    table, bags = LookupTable(5, 2, padding_idx=4, columns=True), LookupTable(5, 2, pool="mean", padding_idx=4)
    start = [each.weight.detach().clone() for each in (table, bags)]
    optimizer = ours("AdamW", [table.weight, bags.weight], lr=0.1)
    for ids in ([[0, 4]], [[2, 4]]):
        optimizer.zero_grad()
        (table(torch.tensor(ids)).sum() + bags(torch.tensor(ids)).sum()).backward()
        optimizer.step()
    for each, before in zip((table, bags), start, strict=True):
        same = (each.weight == before).all(1)
        assert same.tolist() == [False, True, False, True, True]
        assert math.isclose(float(before[0, 0] * (1 - 0.1 * 0.01) - each.weight.detach()[0, 0]), 0.1, rel_tol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_dampening_may_be_switched_on_in_mid_training(nesterov: bool) -> None:
    """A first step is without dampening, whenever it comes: the dense optimizers of single rows are the oracle."""
    p = parameter(4, 3)
    mine = ours("SGD", [p], lr=0.1, momentum=0.9, nesterov=nesterov)
    rows = [nn.Parameter(p.detach()[[k]].clone()) for k in range(4)]
    theirs = [torch.optim.SGD([row], lr=0.1, momentum=0.9, nesterov=nesterov) for row in rows]
    for step, used in enumerate(([0, 1], [1, 2], [0, 2, 3], [3, 1], [2, 3])):
        for optimizer in (mine, *theirs):
            optimizer.param_groups[0].update(dampening=0.5 if step in (2, 3) else 0.0)
        p.grad = rows_gradient(p, used, seed=step)
        dense = p.grad.to_dense()
        mine.step()
        for k in used:
            rows[k].grad = dense[[k]]
            theirs[k].step()
        torch.testing.assert_close(p.detach(), torch.cat([row.detach() for row in rows]), rtol=0, atol=1e-15)
