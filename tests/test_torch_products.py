"""The backend of torch.sparse: half precision, memory layouts, and what it asks of the process."""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends.layout import is_feature_major
from sparsetrain.backends.torch import products

ROWS, COLUMNS = 60, 50
HALF_UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8, torch.float32: 0.0}  # of rounding a result
TOPOLOGY = st.patterns.uniform((ROWS, COLUMNS), 0.3, torch.Generator().manual_seed(0))
PLACES = TOPOLOGY.row.long(), TOPOLOGY.col.long()


@pytest.fixture
def deterministic() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def operand(features: int, batch: int, dtype: torch.dtype, layout: str) -> Tensor:
    x = torch.randn(batch, features, generator=torch.Generator().manual_seed(features)).to(dtype)
    return {
        "row-major": lambda: x.t(),
        "feature-major": lambda: x.t().contiguous(),
        "gaps": lambda: x.repeat_interleave(2, 1)[:, ::2].t(),
        "repeated": lambda: x[:1].expand(batch, features).t(),
    }[layout]()


def close(got: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype is dtype
    assert bool(((got - exact).abs() <= HALF_UNIT[dtype] * exact.abs() + 2e-5).all())


@pytest.mark.parametrize("batch", [1, 4, 33])
@pytest.mark.parametrize("layout", ["row-major", "feature-major", "gaps", "repeated"])
@pytest.mark.parametrize("dtype", HALF_UNIT)
def test_products(dtype: torch.dtype, layout: str, batch: int) -> None:
    values, bias = torch.randn(TOPOLOGY.nnz), torch.randn(ROWS)
    dense = torch.zeros(ROWS, COLUMNS, dtype=torch.float64).index_put(PLACES, values.double())
    x, dy = operand(COLUMNS, batch, dtype, layout), operand(ROWS, batch, dtype, layout)
    y = products.spmm(TOPOLOGY, values, x, bias, False)
    grad, dx, bias_grad = products.backward(TOPOLOGY, values, x, dy, True)
    assert bias_grad is not None
    sampled = (dy.double() @ x.double().t())[PLACES]
    close(y, dense @ x.double() + bias.double()[:, None], dtype)
    close(dx, dense.t() @ dy.double(), dtype)
    close(grad, sampled, torch.float32)
    close(products.sddmm(TOPOLOGY, dy, x), sampled, torch.float32)
    close(bias_grad, dy.double().sum(1), torch.float32)
    for result in (y, dx):
        assert is_feature_major(result) == is_feature_major(x)
    other = products.backward(TOPOLOGY, values, x, dy.contiguous(), False)[1]
    assert is_feature_major(other) == is_feature_major(x)
    TOPOLOGY.check_untouched()


@pytest.mark.parametrize("dtype", HALF_UNIT)
@pytest.mark.parametrize(("shape", "batch"), [((0, 5), 3), ((5, 0), 3), ((4, 3), 3), ((4, 3), 0)])
def test_nothing_to_add(shape: tuple[int, int], batch: int, dtype: torch.dtype) -> None:
    t, (rows, columns) = st.Topology([0] * (shape[0] + 1), [], shape), shape
    bias, x, dy = (
        torch.arange(rows).float(),
        torch.ones(columns, batch, dtype=dtype),
        torch.ones(rows, batch, dtype=dtype),
    )
    y = products.spmm(t, torch.empty(0), x, bias, False)
    assert torch.equal(y, bias[:, None].expand(rows, batch).to(dtype))
    grad, dx, _ = products.backward(t, torch.empty(0), x, dy, False)
    assert grad.dtype is torch.float32
    assert torch.equal(dx, torch.zeros(columns, batch, dtype=dtype))


def test_the_structure_is_not_copied() -> None:
    """torch's sampled product makes one in int64, unless it is given a result."""
    before = torch.profiler.profile(profile_memory=True)
    a, b = torch.randn(ROWS, 8), torch.randn(COLUMNS, 8)
    with before as profile:
        products.sddmm(TOPOLOGY, a, b)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert 4 * TOPOLOGY.nnz <= allocated < 8 * TOPOLOGY.nnz + a.nbytes + b.nbytes


def test_results_are_written_where_they_stay() -> None:
    """One result in the layout of its input, and no transposed copy of it."""
    values, x, bias = torch.randn(TOPOLOGY.nnz), operand(COLUMNS, 512, torch.float32, "row-major"), torch.randn(ROWS)
    with torch.profiler.profile(profile_memory=True) as profile:
        y = products.spmm(TOPOLOGY, values, x, bias, False)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert y.nbytes <= allocated < 2 * y.nbytes


def test_a_setting_of_torch_is_kept(deterministic: None) -> None:
    cuda = torch.device("cuda")
    products.check_reproducible(cuda)
    torch.use_deterministic_algorithms(True)
    products.check_reproducible(torch.device("cpu"))
    with pytest.raises(RuntimeError, match=r"no deterministic product on CUDA.*Compute with another backend"):
        products.check_reproducible(cuda)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with pytest.warns(UserWarning, match="no deterministic product on CUDA"):
        products.check_reproducible(cuda)


def test_filters_of_warnings_are_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the process, not to a thread."""
    with monkeypatch.context() as patch:
        patch.setattr(warnings, "catch_warnings", None)
        products.sddmm(TOPOLOGY, torch.ones(ROWS, 2), torch.ones(COLUMNS, 2))
    program = (
        "import torch, sparsetrain as st;"
        "layer = st.nn.SparseLinear(5, 4, density=0.5)\n"
        "with st.ops.use_backend('torch'): layer(torch.ones(3, 5)).sum().backward()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error:Sparse CSR", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "beta" not in done.stderr
