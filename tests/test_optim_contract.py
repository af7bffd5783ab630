"""Optimizers keep the contract of torch's: over dense parameters, edges and tables."""

import copy
from typing import Any

import pytest
import torch
from checkpoints import identical
from tables import (  # fmt: skip
    DENSE,
    FROZEN,
    KINDS,
    Mixed,
    apart,
    densify,
    every_row,
    name_of,
    ours,
    parameter,
    rows_gradient,
    torchs,
    train,
    twin,
)
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import sparsetrain as st
from sparsetrain.nn import LookupTable

ROUNDING = 1e-12  # of float64, after some steps


# ---- dense parameters: torch's own step --------------------------------------------------------------------------------

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {}, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1}, {"maximize": True}, {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ],
    "RMSprop": [
        {}, {"alpha": 0.8, "eps": 1e-4}, {"momentum": 0.9}, {"centered": True}, {"weight_decay": 0.1}, {"maximize": True},
        {"momentum": 0.9, "centered": True, "weight_decay": 0.1, "maximize": True},
    ],
    "Adagrad": [
        {}, {"lr_decay": 0.1, "eps": 1e-4}, {"initial_accumulator_value": 0.5}, {"weight_decay": 0.1}, {"maximize": True},
    ],
    "Adam": [
        {}, {"betas": (0.7, 0.9), "eps": 1e-4}, {"amsgrad": True}, {"weight_decay": 0.1}, {"maximize": True},
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    ],
    "AdamW": [
        {}, {"betas": (0.7, 0.9), "eps": 1e-4}, {"amsgrad": True}, {"weight_decay": 0.1}, {"maximize": True},
        {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    ],
}  # fmt: skip
HOW = [{}, {"foreach": True}, {"foreach": False}, {"fused": True}]


@pytest.mark.parametrize("how", HOW, ids=name_of)
@pytest.mark.parametrize(("kind", "options"), [(k, o) for k in KINDS for o in OPTIONS[k]], ids=name_of)
def test_dense_parameters_step_as_torchs_to_the_bit(kind: str, options: dict[str, Any], how: dict[str, bool]) -> None:
    if kind == "RMSprop" and "fused" in how:
        pytest.skip("torch has no fused RMSprop")
    one, other = nn.Linear(3, 4), nn.Linear(3, 4)
    other.load_state_dict(one.state_dict())
    mine, theirs = ours(kind, one.parameters(), **options, **how), torchs(kind, other.parameters(), **options, **how)
    for _ in range(4):
        x = torch.randn(5, 3)
        for model, optimizer in ((one, mine), (other, theirs)):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert identical(dict(one.state_dict()), dict(other.state_dict()))
    assert identical(mine.state_dict()["state"], theirs.state_dict()["state"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_gradients(kind: str) -> None:
    p = parameter(3, 2)
    optimizer = ours(kind, [p])
    before = p.detach().clone()
    optimizer.step()
    assert p.equal(before)
    assert not optimizer.state[p]


def test_options_have_the_defaults_and_places_of_torchs() -> None:
    p = parameter(2)
    for kind in KINDS:
        mine, theirs = ours(kind, [p]).defaults, torchs(kind, [p]).defaults
        assert {key: mine[key] for key in theirs} == theirs
        assert isinstance(ours(kind, [p]), getattr(torch.optim, "Adam" if kind == "AdamW" else kind))
    assert st.optim.Adam([p], 0.1, (0.5, 0.6), 1e-3, 0.2, True).defaults["amsgrad"] is True
    assert st.optim.SGD([p], 0.1, 0.5, 0.1, 0.2, False).defaults["dampening"] == 0.1


# ---- everything together -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize(("kind", "options"), FROZEN, ids=name_of)
def test_one_optimizer_over_everything(kind: str, options: dict[str, Any], unused: str) -> None:
    if unused == "dense" and (kind, options) not in DENSE:
        pytest.skip("refused")
    model = Mixed()
    other = copy.deepcopy(model)
    mine = ours(kind, model.parameters(), unused=unused, **options)
    theirs = torchs(kind, other.parameters(), **options)
    losses = train(model, mine, range(6))
    assert losses == pytest.approx(train(other, theirs, range(6), dense=True), abs=ROUNDING)
    assert apart(model, other) < ROUNDING
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in theirs.state[q].items():
            assert torch.allclose(mine.state[p][key].double(), value.double(), rtol=ROUNDING, atol=ROUNDING)


def test_groups_with_options_of_their_own() -> None:
    model = Mixed()
    other = copy.deepcopy(model)

    def groups(m: Mixed) -> list[dict[str, Any]]:
        return [
            {"params": [m.table.weight, m.dense.weight], "lr": 0.1, "momentum": 0.5},
            {"params": [m.columns.weight], "maximize": True, "weight_decay": 0.1},
            {"params": [m.embedding.weight, m.edges.values, m.edges.bias], "nesterov": True},
        ]

    mine, theirs = (
        ours("SGD", groups(model), lr=0.05, momentum=0.9),
        torchs("SGD", groups(other), lr=0.05, momentum=0.9),
    )
    mine.add_param_group({"params": model.bag.parameters(), "dampening": 0.2})
    theirs.add_param_group({"params": other.bag.parameters(), "dampening": 0.2})
    train(model, mine, range(5))
    train(other, theirs, range(5), dense=True)
    assert apart(model, other) < ROUNDING
    assert [group["unused"] for group in mine.param_groups] == ["frozen"] * 4


def test_each_group_has_our_options_of_its_own() -> None:
    frozen, dense = LookupTable(4, 2), LookupTable(4, 2)
    optimizer = ours(
        "AdamW", [{"params": frozen.parameters()}, {"params": dense.parameters(), "unused": "dense"}], lr=0.1
    )
    start = [table.weight.detach().clone() for table in (frozen, dense)]
    for table in (frozen, dense):
        table(torch.tensor([1])).sum().backward()
    optimizer.step()
    optimizer.flush()
    assert frozen.weight[0].equal(start[0][0])
    assert dense.weight[0].equal(start[1][0] * (1 - 0.1 * 0.01))


def test_named_parameters() -> None:
    model = Mixed()
    other = copy.deepcopy(model)
    mine = ours("Adam", model.named_parameters(), lr=0.1)
    assert mine.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
    train(model, mine, range(3))
    train(other, ours("Adam", other.parameters(), lr=0.1), range(3))
    assert identical(dict(model.state_dict()), dict(other.state_dict()))
    assert mine.state_dict()["param_groups"][0]["param_names"][0] == "dense.weight"


@pytest.mark.parametrize("kind", KINDS)
def test_a_closure_runs_once_with_gradients_and_its_loss_comes_back(kind: str) -> None:
    model = Mixed()
    other = copy.deepcopy(model)
    mine, calls = ours(kind, model.parameters()), []

    def closure() -> Any:
        calls.append(torch.is_grad_enabled())
        mine.zero_grad()
        loss: Any = model(every_row(0))
        loss.backward()
        return loss.detach()

    loss = mine.step(closure)
    assert calls == [True]
    assert [float(loss)] == train(other, ours(kind, other.parameters()), range(1))
    assert identical(dict(model.state_dict()), dict(other.state_dict()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_learning_rate_in_a_tensor(kind: str) -> None:
    model = Mixed()
    other, rate = copy.deepcopy(model), torch.tensor(0.1, dtype=torch.float64)
    mine = ours(kind, model.parameters(), lr=rate)
    theirs = torchs(kind, other.parameters(), lr=rate.clone())
    train(model, mine, range(2))
    train(other, theirs, range(2), dense=True)
    rate.fill_(0.01)  # ours follows
    theirs.param_groups[0]["lr"].fill_(0.01)
    train(model, mine, range(2, 4))
    train(other, theirs, range(2, 4), dense=True)
    assert apart(model, other) < ROUNDING


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_run_once_each_step(kind: str) -> None:
    model = Mixed()
    torchs(kind, model.parameters()).step()  # torch patches the step of its class, too
    optimizer = ours(kind, model.parameters())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, range(2))
    assert calls == ["before", "after"] * 2


def test_hooks_of_all_optimizers_run_once_each_step() -> None:
    calls: list[Any] = []
    handle = register_optimizer_step_post_hook(lambda optimizer, *_: calls.append(optimizer))
    try:
        model = Mixed()
        optimizer = ours("AdamW", model.parameters())
        train(model, optimizer, range(1))
    finally:
        handle.remove()
    assert calls == [optimizer]


@pytest.mark.parametrize("kind", KINDS)
def test_two_backward_passes_are_one_of_both(kind: str) -> None:
    one, other = LookupTable(5, 3, dtype=torch.float64), LookupTable(5, 3, dtype=torch.float64)
    other.load_state_dict(one.state_dict())
    batches = torch.tensor([[0, 3, 3], [3, 1, 0]])
    for ids in batches:
        one(ids).square().sum().backward()
    other(batches).square().sum().backward()
    for table in (one, other):
        ours(kind, table.parameters(), lr=0.1).step()
    assert apart(one, other) < 1e-15
    assert not one.weight[4].equal(one.weight[3])


# ---- tables of any kind ---------------------------------------------------------------------------------------------------


def test_tables_may_have_more_dimensions_and_gradients_more_sparse_ones() -> None:
    p = parameter(4, 3, 2)
    q = twin(p)
    mine, theirs = ours("Adam", [p]), torchs("Adam", [q])
    indices = torch.tensor(
        [[r for r in range(4) for _ in range(3)] + [3], [c for _ in range(4) for c in range(3)] + [2]]
    )
    p.grad = torch.sparse_coo_tensor(indices, torch.randn(13, 2, dtype=torch.float64), p.shape, check_invariants=True)
    q.grad = p.grad.to_dense()
    mine.step()
    theirs.step()
    assert apart([p], [q]) < 1e-15
    assert mine.state[p]["row_steps"].tolist() == [1] * 12


@pytest.mark.parametrize("kind", KINDS)
def test_a_coalesced_gradient_of_strided_indices(kind: str) -> None:
    p = parameter(5, 2)
    q = twin(p)
    for each in (p, q):
        indices = torch.tensor([[1, 9], [3, 9]]).t()[:1]
        assert indices.stride(1) == 2
        values = torch.ones(2, 2, dtype=torch.float64)
        each.grad = torch.sparse_coo_tensor(
            indices if each is p else indices.contiguous(),
            values,
            each.shape,
            is_coalesced=True,
            check_invariants=False,
        )
        ours(kind, [each], lr=0.1).step()
    assert p.equal(q)


def test_a_table_that_gets_a_dense_gradient_now_and_then() -> None:
    """In torch.compile its gradients are dense; what the rows have counted goes on."""
    p = parameter(4, 2)
    q = twin(p)
    mine, theirs = ours("Adam", [p], lr=0.1), torchs("Adam", [q], lr=0.1)
    for step in range(6):
        p.grad = rows_gradient(p, [0, 1, 2, 3, 3], seed=step)
        q.grad = p.grad.to_dense()
        if step % 2:
            p.grad = p.grad.to_dense()
        mine.step()
        theirs.step()
    assert apart([p], [q]) < 1e-14
    assert mine.state[p]["row_steps"].tolist() == [6] * 4


def test_densify_is_what_the_twin_sees() -> None:
    model = Mixed()
    model(every_row(0)).backward()
    sparse = model.table.weight.grad
    assert sparse is not None
    assert sparse.is_sparse
    densify(model)
    assert model.table.weight.grad is not None
    assert model.table.weight.grad.equal(sparse.to_dense())


def test_adagrad_shares_its_memory_before_the_first_step() -> None:
    """As torch's, for processes that train one model together."""
    p = parameter(3, 2)
    optimizer = ours("Adagrad", [p])
    optimizer.share_memory()
    assert optimizer.state[p]["sum"].is_shared()
