"""On a GPU the host goes on without asking what is in a tensor. Here tensors without data stand for those of a device:
whoever asks them for numbers, or how many of something there are, gets an error."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends import dense_products
from sparsetrain.backends.blocks import products
from sparsetrain.backends.dense_products import tf32_is_allowed
from sparsetrain.ops.lookup import gradient_of_lookup, gradient_of_pool
from sparsetrain.optim import checks as optimizer_checks

ROWS, DIM, IDS, BAGS = 50, 8, 20, 5


@pytest.fixture(autouse=True)
def away() -> Iterator[None]:
    with torch.device("meta"):
        yield


def ids(dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.empty(IDS, dtype=dtype)


def test_tensors_without_data_refuse_to_be_read() -> None:
    for asks in (lambda: int(ids()[0]), lambda: ids().tolist(), lambda: bool((ids() > 0).all()), ids().nonzero):
        with pytest.raises((RuntimeError, NotImplementedError)):
            asks()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_whole_matrices(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(products, "without_autocast", lambda _: nullcontext())  # there is none on this device
    t = st.patterns.uniform((30, 40), 0.2, generator=torch.Generator("cpu")).to("meta")
    values, bias = torch.empty(t.nnz), torch.empty(30)
    x, dy = torch.empty(7, 40, dtype=dtype).t(), torch.empty(7, 30, dtype=dtype).t()
    assert products.spmm(t, values, x, bias, False).shape == (30, 7)
    grad, dx, of_bias = products.backward(t, values, x, dy, True)
    assert of_bias is not None
    assert [(each.shape, each.dtype) for each in (grad, dx, of_bias)] == [
        ((t.nnz,), torch.float32), ((40, 7), dtype), ((30,), torch.float32)
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("pool", [None, "sum", "mean", "max"])
def test_ids_and_offsets_are_checked_by_the_device(pool: str | None, dtype: torch.dtype) -> None:
    asserted = []
    table = st.nn.LookupTable(ROWS, DIM, pool=pool)  # type: ignore[arg-type]
    offsets = None if pool is None else torch.empty(BAGS, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "_assert_async", lambda holds, message: asserted.append((holds.shape, message)))
        table._check(ids(dtype), offsets, None)
        if pool is not None:
            table.include_last_offset = True
            table._check(ids(dtype), offsets, None)
    expected = ["expected ids from 0 to 49."]
    if pool is not None:
        expected = 2 * [*expected, "expected offsets that begin at 0 and rise to 20, the number of ids."]
    assert asserted == [((), f"LookupTable: {message}") for message in expected]


@pytest.mark.parametrize(
    ("offsets", "last", "right"),
    [
        ([0, 3, 20], False, True),
        ([0, 3, 20], True, True),
        ([0, 3, 19], True, False),
        ([0, 3, 21], False, False),
        ([1, 3, 20], False, False),
        ([0, 4, 3], False, False),
    ],
)
def test_what_the_device_checks(monkeypatch: pytest.MonkeyPatch, offsets: list[int], last: bool, right: bool) -> None:
    """torch._assert_async raises at once on a CPU."""
    monkeypatch.setattr("sparsetrain.nn.bags.away", lambda _: True)
    with torch.device("cpu"):
        table = st.nn.LookupTable(ROWS, DIM, pool="sum", include_last_offset=last)
        where = torch.tensor(offsets)
        if right:
            assert table(torch.zeros(20, dtype=torch.int64), where).shape == (3 - last, DIM)
        else:
            with pytest.raises(RuntimeError, match="LookupTable: expected offsets that begin at 0 and rise to 20"):
                table(torch.zeros(20, dtype=torch.int64), where)
        for wrong in (-1, ROWS):
            with pytest.raises(RuntimeError, match="LookupTable: expected ids from 0 to 49"):
                table(torch.full((20,), wrong), torch.tensor([0, 20]))


@pytest.mark.parametrize("pool", ["sum", "mean"])
def test_gradients_of_lookups(pool: str) -> None:
    shape = torch.Size((ROWS, DIM))
    assert gradient_of_lookup(ids(), torch.empty(IDS, DIM), shape, None)._nnz() == IDS
    with torch.no_grad():
        gradient = gradient_of_pool(
            ids(), torch.empty(BAGS, DIM), torch.empty(BAGS, dtype=torch.int64), shape, pool, None
        )
    assert gradient._nnz() == IDS  # not the distinct ones, whose number nobody knows


@pytest.mark.parametrize("index", [[[3, 50]], [[-1, 3]]])
def test_rows_of_gradients_are_checked_by_the_device(monkeypatch: pytest.MonkeyPatch, index: list[list[int]]) -> None:
    table = torch.nn.Parameter(torch.empty(ROWS, DIM))
    optimizer = st.optim.Adam([table])
    table.grad = torch.sparse_coo_tensor(ids()[None], torch.empty(IDS, DIM), table.shape, check_invariants=False)
    optimizer_checks.gradient(optimizer, optimizer.param_groups[0], 0, table)
    monkeypatch.setattr("sparsetrain.optim.checks.away", lambda _: True)
    with torch.device("cpu"):
        table = torch.nn.Parameter(torch.zeros(ROWS, DIM))
        optimizer = st.optim.Adam([table])
        table.grad = torch.sparse_coo_tensor(
            torch.tensor(index), torch.ones(2, DIM), table.shape, check_invariants=False
        )
        with pytest.raises(RuntimeError, match="Adam: expected a sparse gradient to name rows from 0 to 49"):
            optimizer.step()


def test_either_setting_of_precision_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: torch refuses the older names once the newer ones were used."""
    code = """
import torch, sparsetrain as st
from sparsetrain.backends import dense_products
from sparsetrain.backends.dense_products import tf32_is_allowed, torch_is_as_fast
dense_products.onednn_is_faster = lambda: True
torch.backends.cuda.matmul.fp32_precision = "tf32"
assert tf32_is_allowed() and not torch_is_as_fast()
torch.backends.cuda.matmul.fp32_precision = "ieee"
torch.backends.mkldnn.matmul.fp32_precision = "bf16"
assert not tf32_is_allowed() and torch_is_as_fast()
st.ops.choice(st.patterns.uniform((40, 40), 1.0), 8, device="cuda")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)
    torch.set_float32_matmul_precision("high")
    assert tf32_is_allowed()
    torch.set_float32_matmul_precision("medium")
    monkeypatch.setattr(dense_products, "onednn_is_faster", lambda: True)
    assert dense_products.torch_is_as_fast()
    torch.set_float32_matmul_precision("highest")
    assert not tf32_is_allowed()
