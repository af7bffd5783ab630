"""What reads rows of a table while it is watched: the rows alone are leaves, and numbers and derivatives are torch's."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st_
from torch import Tensor, nn
from torch.nn import functional

import sparsetrain as st
from sparsetrain.curvature.used_rows import UsedRows
from sparsetrain.nn import LookupTable, SparseLinear
from sparsetrain.ops.pools import pooled

F64 = torch.float64
ROOT = Path(__file__).parent.parent
ROWS, DIM = 8, 3
IDS = torch.tensor([[1, 3], [3, 6], [2, 2]])
FLAT, OFFSETS = IDS.flatten(), torch.tensor([0, 1, 1, 4])  # a bag of nothing among them
WEIGHTS = torch.linspace(-1, 2, 6, dtype=F64)


def bag(**options: Any) -> nn.EmbeddingBag:
    return nn.EmbeddingBag(ROWS, DIM, dtype=F64, **options)


def table(**options: Any) -> LookupTable:
    return LookupTable(ROWS, DIM, dtype=F64, **options)


READERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor], list[int]]] = {
    "rows": (table, lambda m: m(IDS), [1, 2, 3, 6]),
    "int32": (table, lambda m: m(IDS.int()), [1, 2, 3, 6]),
    "padding": (lambda: table(padding_idx=3), lambda m: m(IDS), [1, 2, 6]),
    "columns": (lambda: table(columns=True), lambda m: m(IDS), [1, 2, 3, 6]),
    "norms": (lambda: table(max_norm=0.5), lambda m: m(IDS), [1, 2, 3, 6]),
    "sums": (lambda: table(pool="sum"), lambda m: m(FLAT, OFFSETS), [1, 2, 3, 6]),
    "means": (lambda: table(pool="mean", padding_idx=2), lambda m: m(IDS), [1, 3, 6]),
    "largest": (lambda: table(pool="max", padding_idx=3), lambda m: m(FLAT, OFFSETS), [1, 2, 6]),
    "weighted": (lambda: table(pool="sum"), lambda m: m(FLAT, OFFSETS, WEIGHTS), [1, 2, 3, 6]),
    "last offset": (
        lambda: table(pool="sum", include_last_offset=True),
        lambda m: m(FLAT, torch.cat([OFFSETS, torch.tensor([6])])),
        [1, 2, 3, 6],
    ),
    "nn.Embedding": (lambda: nn.Embedding(ROWS, DIM, dtype=F64), lambda m: m(IDS), [1, 2, 3, 6]),
    "nn.Embedding, padding": (
        lambda: nn.Embedding(ROWS, DIM, padding_idx=-2, sparse=True, dtype=F64),
        lambda m: m(IDS),
        [1, 2, 3],
    ),
    "nn.Embedding, norms": (
        lambda: nn.Embedding(ROWS, DIM, max_norm=0.5, norm_type=1.0, dtype=F64),
        lambda m: m(IDS),
        [1, 2, 3, 6],
    ),
    "nn.EmbeddingBag": (bag, lambda m: m(FLAT, OFFSETS), [1, 2, 3, 6]),
    "nn.EmbeddingBag, sums": (lambda: bag(mode="sum", sparse=True, padding_idx=3), lambda m: m(IDS), [1, 2, 6]),
    "nn.EmbeddingBag, largest": (lambda: bag(mode="max", padding_idx=6), lambda m: m(FLAT, OFFSETS), [1, 2, 3]),
    "nn.EmbeddingBag, weighted": (
        lambda: bag(mode="sum", include_last_offset=True),
        lambda m: m(FLAT, torch.tensor([0, 2, 2, 6]), WEIGHTS),
        [1, 2, 3, 6],
    ),
    "no ids": (table, lambda m: m(IDS[:0]), []),
    "padding alone": (lambda: table(padding_idx=3), lambda m: m(IDS[1, :1]), []),
}


def made(name: str) -> tuple[Any, Callable[[Any], Tensor], list[int]]:
    torch.manual_seed(0)
    make, read, rows = READERS[name]
    return make(), read, rows


@pytest.mark.parametrize("name", READERS)
def test_numbers_and_gradients_are_those_of_the_whole_table(name: str) -> None:
    module, read, rows = made(name)
    y = read(module)
    cotangent = torch.randn(y.shape, dtype=F64)
    (whole,) = torch.autograd.grad(y, [module.weight], cotangent)
    whole = whole.to_dense() if whole.is_sparse else whole
    with UsedRows([module.weight]) as reading:
        watched = read(module)
    torch.testing.assert_close(watched, y, rtol=1e-14, atol=1e-15)
    (found,) = reading.reads
    assert found.rows.tolist() == rows
    assert torch.equal(found.leaf, module.weight[found.rows])
    gradient = torch.autograd.grad(watched, [found.leaf], cotangent)[0]
    torch.testing.assert_close(torch.zeros_like(whole).index_copy(0, found.rows, gradient), whole, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", READERS)
def test_leaves_that_are_given_are_read(name: str) -> None:
    module, read, rows = made(name)
    if not rows:
        pytest.skip("reads nothing")
    f, leaves = st.curvature.functional(Reading(module, read))
    changed = {"module.weight": leaves["module.weight"].flip(0)}
    y = f(changed)
    with torch.no_grad():
        module.weight[rows] = changed["module.weight"]
    torch.testing.assert_close(y, read(module).detach(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["rows", "padding", "weighted", "largest", "nn.EmbeddingBag, largest"])
def test_two_derivatives_in_every_mode(name: str) -> None:
    f, leaves = st.curvature.functional(Reading(*made(name)[:2]))

    def of_rows(leaf: Tensor) -> Any:
        return f({"module.weight": leaf}).sin()

    leaf = leaves["module.weight"].requires_grad_()
    assert torch.autograd.gradcheck(of_rows, leaf)
    assert torch.autograd.gradgradcheck(of_rows, leaf)
    forward, backward = torch.func.jacfwd(of_rows)(leaf.detach()), torch.func.jacrev(of_rows)(leaf.detach())
    torch.testing.assert_close(forward, backward, rtol=0, atol=1e-14)


class Reading(nn.Module):
    def __init__(self, module: nn.Module, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.module, self.read = module, read

    def forward(self) -> Tensor:
        return self.read(self.module)


@settings(max_examples=60, deadline=None)
@given(st_.data())
def test_pools_are_torchs(data: Any) -> None:
    lengths = data.draw(st_.lists(st_.integers(0, 4), min_size=1, max_size=5))
    ids = torch.tensor(data.draw(st_.lists(st_.integers(0, 3), min_size=sum(lengths), max_size=sum(lengths)))).long()
    pool, padding = data.draw(st_.sampled_from(["sum", "mean", "max"])), data.draw(st_.sampled_from([None, 1]))
    weighted = pool == "sum" and data.draw(st_.booleans())
    weight = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64).round().requires_grad_()  # ties
    weights = torch.linspace(-1, 1, ids.numel(), dtype=F64, requires_grad=True) if weighted else None
    offsets = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    expected = functional.embedding_bag(
        ids, weight, offsets, mode=pool, padding_idx=padding, per_sample_weights=weights
    )
    got = pooled(weight[ids], ids, offsets, pool, weights, padding)
    assert torch.equal(got, expected)
    if not ids.numel():
        return
    inputs, cotangent = [weight] if weights is None else [weight, weights], torch.randn(got.shape, dtype=F64)
    for a, b in zip(torch.autograd.grad(got, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent),
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14)


def test_tables_that_are_not_watched_are_read_as_ever() -> None:
    a, b = table(), table()
    with UsedRows([a.weight]) as reading:
        y = a(IDS) + b(IDS)
    assert [read.table is a.weight for read in reading.reads] == [True]
    y.sum().backward()
    assert a.weight.grad is None
    assert b.weight.grad is not None


def test_each_read_has_a_leaf_and_frozen_tables_a_constant_one() -> None:
    a, b = table(), table()
    with UsedRows([a.weight]) as reading:
        a(IDS)
        a(FLAT + 1)
    assert [read.rows.tolist() for read in reading.reads] == [[1, 2, 3, 6], [2, 3, 4, 7]]
    b.weight.requires_grad_(False)
    with UsedRows([b.weight]):
        assert not b(IDS).requires_grad


def test_derivatives_of_an_unwatched_bag_go_on() -> None:
    """torch's own has no second derivative for weights of samples."""
    frozen = bag(mode="sum")
    frozen.weight.requires_grad_(False)

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.randn(3, 2, dtype=F64))

        def forward(self, ids: Tensor) -> Tensor:
            return frozen(ids, per_sample_weights=self.weights)

    torch.manual_seed(0)
    model, y = Weighted(), torch.tensor([0, 2, 1])
    H = st.curvature.hessian(model, nn.CrossEntropyLoss(), (IDS, y)).to_dense()

    def loss(weights: Tensor) -> Tensor:
        return functional.cross_entropy((frozen.weight[IDS] * weights[..., None]).sum(1), y)

    expected = torch.func.hessian(loss)(model.weights.detach()).reshape(6, 6)
    torch.testing.assert_close(H, expected, rtol=0, atol=1e-14)


# ---- edges of used columns -------------------------------------------------------------------------------------------


def test_inputs_with_a_graph_read_every_edge() -> None:
    """A column of zeros has no gradient at its edges, but its gradient of the input, and second derivatives of both."""
    torch.manual_seed(0)
    first = nn.Linear(2, 4, bias=False, dtype=F64)
    with torch.no_grad():
        first.weight[1:3] = 0
    t = st.patterns.uniform((3, 4), 0.7)
    layers = [SparseLinear(4, 3, topology=t, dtype=F64, sparse_grad=sparse) for sparse in (True, False)]
    layers[1].load_state_dict(layers[0].state_dict())
    x, y = torch.randn(5, 2, dtype=F64), torch.tensor([0, 1, 2, 1, 1])
    for matrix in (st.curvature.ggn, st.curvature.hessian):
        got, expected = (matrix(nn.Sequential(first, layer), nn.CrossEntropyLoss(), (x, y)) for layer in layers)
        torch.testing.assert_close(got.to_dense(), expected.to_dense(), rtol=0, atol=1e-14)


def test_pending_updates_of_edges_and_rows_are_applied_before() -> None:
    torch.manual_seed(0)
    layer = SparseLinear(4, 3, topology=st.patterns.uniform((3, 4), 0.7), sparse_grad=True)
    rows = LookupTable(ROWS, 4)
    twins = layer.values.detach().clone(), rows.weight.detach().clone()
    optimizer = st.optim.Adam([layer.values, rows.weight], lr=0.1, unused="dense")
    twin = torch.optim.Adam([each.requires_grad_() for each in twins], lr=0.1)
    inputs = torch.eye(4)
    for column in (0, 1, 1):
        optimizer.zero_grad()
        (layer(inputs[column, None]).sum() + rows(torch.tensor([column])).square().sum()).backward()
        twins[0].grad, twins[1].grad = layer.values.grad.to_dense(), rows.weight.grad.to_dense()
        optimizer.step()
        twin.step()
    with UsedRows([layer.values, rows.weight]) as reading:
        layer(inputs[0, None])
        rows(torch.tensor([0, 5]))
    for read, expected in zip(reading.reads, twins, strict=True):
        torch.testing.assert_close(read.leaf, expected[read.rows], rtol=1e-5, atol=1e-6)


# ---- memory ----------------------------------------------------------------------------------------------------------

LARGE = """
import numpy, torch
import sparsetrain as st

def untouched(rows):
    return torch.from_numpy(numpy.zeros((rows, 64), "float32"))  # takes memory in the pages that are read

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 2**20

def steps(rows):
    bag = torch.nn.EmbeddingBag(rows, 64, mode="sum", _weight=untouched(rows))
    model = torch.nn.Sequential(bag, torch.nn.Linear(64, 3))
    ids, y = rows - 1 - torch.randint(1000, (200, 5)), torch.randint(3, (200,))
    for matrix in (st.curvature.ggn, st.curvature.hessian):
        operator = matrix(model, torch.nn.CrossEntropyLoss(), (ids, y))
        operator @ torch.ones(operator.shape[0])
    optimizer = st.optim.HessianFree(model.parameters(), iterations=3)
    for _ in range(2):
        optimizer.step(lambda: model(ids), lambda z: torch.nn.functional.cross_entropy(z, y))
    return high_water()

small = steps(1000)
print(steps(5_000_000) - small)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the high-water mark of memory from /proc")
def test_nothing_of_the_size_of_a_table_is_made() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert float(done.stdout) < 0.1, "a table is 1.2 GiB, of which only the rows that are read take memory"
