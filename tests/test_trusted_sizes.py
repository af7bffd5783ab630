"""Kernels check nothing: whatever they are about to read is compared with what was promised, on every way to them."""

import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st

OPS = torch.ops.sparsetrain


def small(weight: Tensor, way: str) -> tuple[Any, Any]:
    """A table of 5,000,000 rows that is about to read a weight of 100, and the call."""
    table = st.nn.LookupTable(5_000_000, 1)
    if way == "tied":
        table.weight = nn.Parameter(weight)
    elif way == "data":
        table.weight.data = weight
    elif way == "resized":
        table.weight.requires_grad_(False).resize_(100, 1)
    if way == "functional_call":
        return table, lambda ids: torch.func.functional_call(table, {"weight": weight}, (ids,))
    return table, table


@pytest.mark.parametrize("pool", [None, "sum"])
@pytest.mark.parametrize("way", ["tied", "data", "resized", "functional_call"])
def test_ids_are_compared_with_the_weight_that_is_read(way: str, pool: Any) -> None:
    table, call = small(torch.randn(100, 1), way)
    table.pool = pool
    with pytest.raises(IndexError, match="expected ids from 0 to 99, got 4000000"):
        call(torch.tensor([[3, 4_000_000]]))
    assert call(torch.tensor([[3, 99]])).numel() == (2 if pool is None else 1)


def test_a_wider_weight_has_rows_of_its_own_width() -> None:
    table = st.nn.LookupTable(10, 4)
    assert torch.func.functional_call(table, {"weight": torch.randn(10, 6)}, (torch.tensor([1, 2]),)).shape == (2, 6)


def test_a_gradient_whose_rows_are_out_of_range_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(10, 4))
    optimizer = st.optim.SGD([parameter], lr=0.1)
    for bad in (10, 2**40, -1):
        indices = torch.tensor([[1, bad]])
        parameter.grad = torch.sparse_coo_tensor(indices, torch.ones(2, 4), (10, 4), check_invariants=False)
        with pytest.raises(IndexError, match=f"rows from 0 to 9, got {bad}"):
            optimizer.step()
    assert not parameter.any()


def made() -> st.Topology:
    return st.patterns.uniform((6, 5), 0.6, torch.Generator().manual_seed(0))


def compute(t: st.Topology, way: str) -> Any:
    values, x, y = torch.ones(t.nnz, requires_grad=True), torch.ones(16, 5, requires_grad=True), torch.ones(6, 16)
    if way == "forward":
        return st.ops.linear(x, t, values)
    if way == "backward":
        return st.ops.linear(x, t, values).sum().backward()
    if way == "sddmm":
        return st.ops.sddmm(t, y, x.t())
    return st.ops.spmm(t, values, y, transpose=True)


@pytest.mark.parametrize("way", ["forward", "backward", "sddmm", "transposed"])
@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("written", ["crow", "col", "col by a view"])
def test_a_topology_that_was_written_to_is_refused(written: str, used: bool, way: str) -> None:
    t = made()
    if used:
        compute(t, way)
    array = t.crow if written == "crow" else t.col.view(-1)[2:] if "view" in written else t.col
    array[1] = 1_000_000_000
    with pytest.raises(RuntimeError, match="were written to"):
        compute(t, way)


@pytest.mark.parametrize("written", ["crow_t", "col_t", "perm"])
def test_a_transpose_plan_that_was_written_to_is_refused(written: str) -> None:
    t = made()
    compute(t, "backward")
    getattr(t.transposed, written)[1] = 1_000_000_000
    with pytest.raises(RuntimeError, match="were written to"):
        compute(t, "backward")


def test_writing_into_what_a_topology_was_made_of_changes_nothing() -> None:
    crow, col = torch.tensor([0, 1, 3], dtype=torch.int32), torch.tensor([0, 0, 1], dtype=torch.int32)
    t = st.Topology(crow, col, (2, 2))
    crow[1], col[0] = 1_000_000, 1_000_000
    assert st.ops.linear(torch.tensor([1.0, 10.0]), t, torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 32.0]


@pytest.mark.parametrize("reader", ["pickle", "torch.load"])
def test_an_unpickled_topology_is_proven(reader: str) -> None:
    t = made()
    function, (crow, col, *rest) = t.__reduce__()
    wrong = col.clone()
    wrong[-1] = 1_000_000

    class Wrong:
        def __reduce__(self) -> Any:
            return function, (crow, wrong, *rest)

    file = io.BytesIO()
    with pytest.raises(IndexError, match="unpickled"):  # noqa: PT012  # either is one call
        if reader == "pickle":
            pickle.loads(pickle.dumps(Wrong()))
        else:
            torch.save(Wrong(), file)
            file.seek(0)
            torch.load(file, weights_only=False)
    again = pickle.loads(pickle.dumps(t))
    assert again.digest == t.digest
    assert pickle.loads(pickle.dumps(t.to("meta"))).shape == t.shape


def operator(name: str, t: st.Topology, **changed: Any) -> Any:
    call: dict[str, Any] = {"crow": t.crow, "col": t.col, "values": torch.ones(t.nnz), "x": torch.ones(5, 16)}
    if name == "spmm":
        call |= {"bias": None, "columns": 5, "transpose": False}
    elif name == "sddmm":
        call = {"crow": t.crow, "col": t.col, "a": torch.ones(6, 16), "b": torch.ones(5, 16)}
    else:
        call |= {"dy": torch.ones(6, 16), "bias": True}
    return getattr(OPS, name)(**(call | changed), backend="numba")


@pytest.mark.parametrize("name", ["spmm", "sddmm", "backward"])
def test_operators_of_wrong_structures_are_refused(name: str) -> None:
    t = made()
    operator(name, t)
    outside, falling, long = t.col.clone(), t.crow.clone(), t.crow.clone()
    outside[3], falling[2], long[-1] = 1_000_000, -5, 1_000_000
    for changed, error in (
        ({"col": outside}, IndexError),
        ({"crow": falling}, ValueError),
        ({"crow": long}, ValueError),
        ({"col": t.col[:-1]}, ValueError),
        ({"crow": t.crow[:0]}, ValueError),
    ):
        with pytest.raises(error):
            operator(name, t, **changed)
    with pytest.raises(ValueError, match="expected"):  # fewer edges by the same arrays
        operator(name, t, col=t.col[:3])


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("spmm", {"values": torch.ones(3)}),
        ("spmm", {"x": torch.ones(4, 16)}),
        ("spmm", {"x": torch.ones(5, 16, dtype=torch.float64)}),
        ("spmm", {"bias": torch.ones(2)}),
        ("spmm", {"transpose": True}),
        ("sddmm", {"a": torch.ones(5, 16)}),
        ("sddmm", {"a": torch.ones(6, 15)}),
        ("sddmm", {"a": torch.ones(6, 16).double()}),
        ("backward", {"values": torch.ones(99)}),
        ("backward", {"dy": torch.ones(6, 2)}),
        ("backward", {"dy": torch.ones(5, 16)}),
        ("backward", {"dy": torch.ones(6, 16).double()}),
    ],
)
def test_operators_of_wrong_sizes_are_refused(name: str, changed: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"sparsetrain::{name}: expected"):
        operator(name, made(), **changed)


@pytest.mark.parametrize("pool", [None, "sum", "mean", "max"])
@pytest.mark.parametrize("shape", [(), (10,), (5, 2, 3)])
def test_a_weight_that_is_no_table_is_refused(pool: Any, shape: tuple[int, ...]) -> None:
    table = st.nn.LookupTable(10, 6, pool=pool)
    table.weight = nn.Parameter(torch.randn(shape))
    with pytest.raises(ValueError, match=r"^LookupTable: expected a weight of shape \(rows, dim\), got \("):
        table(torch.tensor([[1, 2]]))


@pytest.mark.parametrize("pool", [None, "sum", "max"])
def test_a_weight_without_the_row_of_padding_is_refused(pool: Any) -> None:
    table = st.nn.LookupTable(10, 6, pool=pool, padding_idx=9)
    table.weight = nn.Parameter(torch.randn(5, 6))
    with pytest.raises(ValueError, match=r"^LookupTable: expected a weight of more than 9 rows, as padding_idx is 9"):
        table(torch.tensor([[1, 2]]))
