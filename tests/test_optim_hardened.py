"""What optimizers and lookup tables survive: memory that changes under them, options that change, states of all kinds."""

import copy
import gc
from typing import Any

import pytest
import torch
from tables import ours
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.nn import LookupTable, SparseLinear

T = torch.tensor
KINDS = ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"]
OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "Adam": {"bias_correction": "global"}}


def stepped(kind: str, unused: str = "frozen", **options: Any) -> tuple[LookupTable, Any]:
    table = LookupTable(10, 4, dtype=torch.float64)
    optimizer = ours(kind, table.parameters(), lr=0.1, unused=unused, **options)
    table(T([1, 2])).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return table, optimizer


# ---- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [300, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_was_resized_is_refused(kind: str, rows: int) -> None:
    _, optimizer = stepped(kind, **OPTIONS.get(kind, {}))
    (p,) = optimizer.param_groups[0]["params"]
    p.data = torch.zeros(rows, 4, dtype=torch.float64)
    p.grad = torch.sparse_coo_tensor(
        T([[rows - 1]]), torch.ones(1, 4, dtype=torch.float64), p.shape, check_invariants=True
    )
    with pytest.raises(ValueError, match="Make a new optimizer if the parameter was resized"):
        optimizer.step()
    assert not p.any()


@pytest.mark.parametrize("kind", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_steps_are_not_owed_to_a_table_of_another_size(kind: str) -> None:
    table, optimizer = stepped(kind, "dense", **({"momentum": 0.9} if kind == "SGD" else {}))
    table.weight.data = torch.zeros(3, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"Call flush.. before a table is resized"):
        optimizer.flush()
    table.weight.grad = torch.sparse_coo_tensor(T([[0]]), torch.ones(1, 4).double(), (3, 4), check_invariants=True)
    with pytest.raises(ValueError, match="Nothing was changed"):
        optimizer.step()


def test_an_l1_for_each_value_is_checked_at_every_step_and_load() -> None:
    table, optimizer = stepped("Adam")
    optimizer.param_groups[0]["l1"] = torch.ones(1)
    table(T([1])).sum().backward()
    before = table.weight.detach().clone()
    with pytest.raises(ValueError, match="expected l1 of the shape"):
        optimizer.step()
    assert table.weight.equal(before)
    _, other = stepped("Adam")
    with pytest.raises(ValueError, match="expected l1 of the shape"):
        other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["l1"] == 0


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (T([0, 2**32 + 2, 2]), "begin at 0 and rise to 4"),
        (T([0, 3, 2]), "begin at 0 and rise to 4"),
        (T([0, -1]), "begin at 0 and rise to 4"),
        (T([1, 2]), "begin at 0 and rise to 4"),
        (T([0, 5]), "begin at 0 and rise to 4"),
    ],
    ids=str,
)
def test_offsets_that_are_none(offsets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LookupTable(6, 3, pool="sum")(torch.arange(4), offsets=offsets)


def test_no_bags_have_no_sums() -> None:
    assert LookupTable(6, 3, pool="sum")(torch.arange(4), offsets=T([], dtype=torch.long)).shape == (0, 3)


@pytest.mark.parametrize("offsets", [T([0.0, 2.5]), T([False, True]), [0, 2], T([[0, 2]])], ids=str)
def test_offsets_of_another_kind(offsets: Any) -> None:
    with pytest.raises(TypeError, match=r"expected offsets to be a tensor .bags,. of int64 or int32"):
        LookupTable(6, 3, pool="sum")(torch.arange(4), offsets=offsets)


def test_places_in_a_matrix_are_checked_one_dimension_at_a_time() -> None:
    p = nn.Parameter(torch.zeros(4, 2))
    optimizer = ours("SGD", [p], lr=1.0)
    p.grad = torch.sparse_coo_tensor(T([[1], [-1]]), torch.ones(1), (4, 2), check_invariants=False)
    with pytest.raises(IndexError, match="from 0 to 1 in dimension 1, got -1"):
        optimizer.step()
    assert not p.any()


# ---- gradients ---------------------------------------------------------------------------------------------------------


def test_a_gradient_may_begin_empty() -> None:
    table = LookupTable(8, 3, pool="sum", padding_idx=0)
    layer = SparseLinear(4, 3, density=1.0, sparse_grad=True)
    plain = LookupTable(8, 3)
    for ids, x, few in (
        (T([[0, 0]]), torch.zeros(2, 4), T([], dtype=torch.long)),
        (T([[1, 2]]), torch.ones(2, 4), T([1])),
    ):
        table(ids).sum().backward()
        layer(x).sum().backward()
        plain(few).sum().backward()
        st.optim.clip_grad_norm_([table.weight, layer.values, plain.weight], 100.0)
    assert table.weight.grad is not None
    assert table.weight.grad.to_dense()[:, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
    assert layer.values.grad is not None
    assert layer.values.grad.to_dense().tolist() == [2.0] * 12
    assert plain.weight.grad is not None
    assert plain.weight.grad.to_dense()[1].tolist() == [1, 1, 1]


def test_the_gradient_of_an_input_reads_every_edge_up_to_date() -> None:
    layer = SparseLinear(2, 1, bias=False, density=1.0, sparse_grad=True, dtype=torch.float64)
    optimizer = ours("SGD", [layer.values], lr=0.1, weight_decay=5.0, unused="dense")
    x = T([[1.0, 0.0]], dtype=torch.float64)
    start = layer.values.detach().clone()
    layer(x).sum().backward()
    optimizer.step()
    x.requires_grad_()
    layer(x).sum().backward()
    expected = T([0.5 * start[0] - 0.1, 0.5 * start[1]])
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], expected.to(x.grad), rtol=1e-6, atol=0)


@pytest.mark.parametrize("pool", [None, "sum"])
def test_rows_may_be_brought_up_to_date_between_two_forwards(pool: Any) -> None:
    layer = SparseLinear(3, 2, density=1.0, sparse_grad=True)
    table = LookupTable(3, 2, pool=pool)
    optimizer = ours("AdamW", [layer.values, table.weight], lr=0.1, unused="dense")

    def loss(k: int) -> Tensor:
        weights = torch.ones(1, 1) if pool else None
        return layer(torch.eye(3)[k : k + 1]).sum() + table(T([[k]]), per_sample_weights=weights).sum()

    for k in (0, 1):
        optimizer.zero_grad()
        loss(k).backward()
        optimizer.step()
    optimizer.zero_grad()
    (loss(1) + loss(0)).backward()  # the second reads rows that were behind, after the first was recorded
    optimizer.step()


def test_negative_views_are_gradients_too() -> None:
    for table in (LookupTable(3, 3, pool="sum"), LookupTable(3, 3)):
        y = table(T([[0, 1]]))
        y.backward(torch._neg_view(torch.ones_like(y)))
        optimizer = ours("SGD", table.parameters(), lr=1.0)
        before = table.weight.detach().clone()
        optimizer.step()
        assert (table.weight - before).round(decimals=5)[:2].eq(1).all()


def test_a_gradient_that_is_not_as_coalesced_as_it_says() -> None:
    results = []
    for backend in ("numba", "torch"):
        p = nn.Parameter(torch.zeros(4, 2))
        optimizer = ours("SGD", [p], lr=1.0)
        p.grad = torch.sparse_coo_tensor(
            T([[1, 1]]), torch.ones(2, 2), p.shape, is_coalesced=True, check_invariants=False
        )
        with st.ops.use_backend(backend):
            optimizer.step()
        results.append(p.detach().clone())
    assert results[0].equal(results[1])
    assert results[0][1].tolist() == [-2, -2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_clipping_of_half_precision(dtype: torch.dtype) -> None:
    table = LookupTable(5, 2, dtype=dtype)
    table(T([1, 1])).sum().backward()
    assert st.optim.clip_grad_norm_(table.parameters(), 1.0).item() == pytest.approx(8**0.5, rel=1e-2)


# ---- options and owners ------------------------------------------------------------------------------------------------


def test_eps_that_changes_while_steps_are_owed() -> None:
    table, twin = LookupTable(6, 2, dtype=torch.float64), nn.Embedding(6, 2, dtype=torch.float64)
    twin.load_state_dict(table.state_dict())
    pairs = [
        (table, ours("Adam", table.parameters(), lr=0.1, unused="dense")),
        (twin, torch.optim.Adam(twin.parameters(), lr=0.1)),
    ]
    for k, row in enumerate([0, 1, 2, 3, 1, 2, 0]):
        for module, optimizer in pairs:
            optimizer.param_groups[0]["eps"] = 1.0 if k > 3 else 1e-8
            optimizer.zero_grad()
            module(T([row])).pow(2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(table.matrix, twin.weight, rtol=0, atol=1e-13)


def test_function_transforms_read_rows_that_are_up_to_date() -> None:
    table, _ = stepped("AdamW", "dense")
    table(T([3])).sum().backward()
    behind = table.weight.detach().clone()
    mapped = torch.vmap(table)(T([1, 2]))
    assert mapped.equal(table.matrix[1:3])
    assert behind.shape == table.weight.shape


def test_options_that_are_changed_later_are_checked_at_the_step() -> None:
    for name, value, message in (
        ("unused", "dense", "what it was when the optimizer was made"),
        ("unused", "banana", "expected unused to be"),
        ("differentiable", True, "not supported"),
    ):
        table, optimizer = stepped("Adam")
        optimizer.param_groups[0][name] = value
        table(T([1])).sum().backward()
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        state = stepped("Adam")[1].state_dict()
        state["param_groups"][0][name] = value
        if value != "dense":
            with pytest.raises(ValueError, match=message):
                stepped("Adam")[1].load_state_dict(state)


def test_a_refused_optimizer_leaves_its_tables_free() -> None:
    free, taken = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(3, 2))
    owner = ours("SGD", [taken], lr=0.1, unused="dense")
    with pytest.raises(ValueError, match="l1") as kept:
        ours("SGD", [{"params": [free]}, {"params": [taken], "l1": 1.0}], lr=0.1, unused="dense")
    ours("SGD", [free], lr=0.1, unused="dense")  # though the exception still holds the other
    assert kept is not None
    assert owner is not None


def test_a_shallow_copy_does_not_take_the_tables() -> None:
    table, optimizer = stepped("AdamW", "dense")
    with pytest.raises(ValueError, match="no other optimizer"):
        copy.copy(optimizer)
    table(T([5])).sum().backward()
    optimizer.step()
    gc.collect()


# ---- states ------------------------------------------------------------------------------------------------------------


def test_a_subclass_loads_states() -> None:
    class Mine(st.optim.AdamW):
        pass

    p = nn.Parameter(torch.zeros(2))
    one, other = Mine([p], lr=0.1), Mine([p], lr=0.2)
    other.load_state_dict(one.state_dict())
    assert other.param_groups[0]["lr"] == 0.1


def test_momentum_of_torch_over_a_sparse_table_goes_on() -> None:
    """torch keeps it as a sparse tensor."""
    embedding = nn.Embedding(5, 2, sparse=True)
    theirs = torch.optim.SGD(embedding.parameters(), lr=0.1, momentum=0.9)
    embedding(T([1, 1, 3])).sum().backward()
    theirs.step()
    mine = ours("SGD", embedding.parameters(), lr=0.1, momentum=0.9)
    mine.load_state_dict(theirs.state_dict())
    assert mine.state[embedding.weight]["momentum_buffer"].tolist() == [[0, 0], [2, 2], [0, 0], [1, 1], [0, 0]]
    mine.step()


def test_states_of_earlier_versions_of_torch() -> None:
    p = nn.Parameter(torch.zeros(2))
    state = torch.optim.AdamW([p]).state_dict()
    del state["param_groups"][0]["decoupled_weight_decay"]
    ours("AdamW", [p], lr=0.1).load_state_dict(state)


def test_a_state_that_lacks_a_tensor() -> None:
    _, optimizer = stepped("RMSprop")
    state = optimizer.state_dict()
    del state["state"][0]["square_avg"]
    with pytest.raises(ValueError, match=r"expected .'square_avg'. in the state of parameter 0"):
        optimizer.load_state_dict(state)


def test_what_torch_refuses_leaves_tables_alone() -> None:
    table, dense = LookupTable(4, 2), nn.Parameter(torch.ones(2))
    optimizer = ours("Adam", [table.weight, dense], lr=0.1, foreach=True)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    dense.grad = torch.ones(2)
    table(T([1])).sum().backward()
    before = table.weight.detach().clone()
    with pytest.raises(RuntimeError, match="lr as a Tensor"):
        optimizer.step()
    assert table.weight.equal(before)
