"""What only a device shows: that nothing waits for it, that each run gives the same bits, and graphs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends.row_gradient import RowGradient
from sparsetrain.backends.triton import products, rows

Run = Callable[[], list[Tensor]]


def of_products(dtype: torch.dtype) -> Run:
    t = st.Topology.from_mask(torch.rand(300, 500) < 0.05).to("cuda")
    values, bias = torch.randn(t.nnz, device="cuda"), torch.randn(300, device="cuda")
    x, dy = torch.randn(1000, 500, device="cuda").to(dtype).t(), torch.randn(300, 1000, device="cuda").to(dtype)
    assert t.transposed.perm.is_cuda
    return lambda: [
        products.spmm(t, values, x, bias, False),
        *(tensor for tensor in products.backward(t, values, x, dy, True) if tensor is not None),
    ]


def of_rows() -> Run:
    ids = torch.randint(0, 50, (2000,), device="cuda")
    g = RowGradient(ids, torch.randn(2000, 64, device="cuda"), 100, 64, False)
    start = [torch.randn(100, 64, device="cuda").square() for _ in range(3)]

    def run() -> list[Tensor]:
        tables = [table.clone() for table in start]
        numbers = {"lr": 0.1, "weight_decay": 0.1, "scale": 1.0}
        rows.adam(g, *tables, None, None, 0.0, step=3, betas=(0.9, 0.99), eps=0.1, decoupled=False, **numbers)
        return tables

    return run


@pytest.fixture(params=["float32", "bfloat16", "rows"])
def run(request: pytest.FixtureRequest) -> Run:
    run = of_rows() if request.param == "rows" else of_products(getattr(torch, request.param))
    run()  # compiles
    return run


def test_nothing_waits_for_the_device(run: Run) -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_each_run_gives_the_same_bits(run: Run) -> None:
    first = run()
    for _ in range(10):
        assert all(torch.equal(one, other) for one, other in zip(run(), first, strict=True))


def test_graphs_replay(run: Run) -> None:
    expected, graph = run(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))
