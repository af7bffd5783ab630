"""Results and gradients have the layout of the input on every backend, as compiled graphs are told."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparsetrain as st
from sparsetrain import arrays
from sparsetrain.backends.choice import BACKENDS
from sparsetrain.backends.layout import empty_like_layout

ROWS, COLUMNS, BATCH = 6, 5, 4
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of x (batch, features)
    "row-major": lambda x: x,
    "feature-major": st.ops.feature_major,
    "expanded": lambda x: x[:1].expand(x.shape),
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every second column": lambda x: x.repeat_interleave(2, 1)[:, ::2],
}
ON_EACH = pytest.mark.parametrize("backend", ["automatic", "blocks", "numba", "torch"])


def some(features: int, layout: str, dtype: torch.dtype) -> Tensor:
    """(features, batch)"""
    return LAYOUTS[layout](torch.randn(BATCH, features).to(dtype)).t()


@pytest.fixture(params=[0.6, 1.0])
def t(request: pytest.FixtureRequest) -> st.Topology:
    return st.patterns.uniform((ROWS, COLUMNS), request.param)


@ON_EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("transpose", [False, True])
def test_of_products(t: st.Topology, backend: str, dtype: torch.dtype, layout: str, transpose: bool) -> None:
    x = some(ROWS if transpose else COLUMNS, layout, dtype)
    y = BACKENDS[backend].spmm(t, torch.randn(t.nnz), x, None, transpose)
    expected = empty_like_layout(x, COLUMNS if transpose else ROWS)
    assert (y.dtype, y.stride()) == (expected.dtype, expected.stride())


@ON_EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("of_dy", ["row-major", "feature-major"])
def test_of_gradients(t: st.Topology, backend: str, dtype: torch.dtype, of_x: str, of_dy: str) -> None:
    """A gradient is as its input, however the gradient of the result comes."""
    values, x, dy = torch.randn(t.nnz), some(COLUMNS, of_x, dtype), some(ROWS, of_dy, dtype)
    _, dx, _ = BACKENDS[backend].backward(t, values, x, dy, True)
    expected = empty_like_layout(x, COLUMNS)
    assert (dx.dtype, dx.stride()) == (expected.dtype, expected.stride())
    plain = dy.t().contiguous().t()
    torch.testing.assert_close(dx, BACKENDS[backend].spmm(t, values, plain, None, True), rtol=2**-7, atol=2**-7)


def test_of_a_compiled_graph_whose_gradient_is_of_another_layout() -> None:
    layer = st.nn.SparseLinear(COLUMNS, ROWS, density=0.6)

    def model(x: Tensor) -> Tensor:
        y: Tensor = layer(st.ops.feature_major(x)).contiguous().square()
        return y.sum()

    eager, compiled = (torch.randn(BATCH, COLUMNS, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    with st.ops.use_backend("blocks"):
        (expected,) = torch.autograd.grad(model(eager.requires_grad_()), eager)
        (found,) = torch.autograd.grad(torch.compile(model)(compiled.requires_grad_()), compiled)
    torch.testing.assert_close(found, expected)


def test_numpy_without_dlpack_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions before 2.1, by numpy's own protocol; a tensor without numbers has no address to give it."""
    monkeypatch.setattr(arrays, "DLPACK", False)
    whole = torch.arange(12.0).view(3, 4)
    for tensor in (
        whole,
        whole.t(),
        whole[:, ::2],
        whole[:0],
        torch.zeros(6, 0).t(),
        torch.zeros(0, dtype=torch.int32),
    ):
        seen = arrays.array(tensor)
        assert (seen.shape, str(seen.dtype)) == (tensor.shape, str(tensor.dtype).removeprefix("torch."))
        assert seen.tolist() == tensor.tolist()
    arrays.array(whole)[0, 0] = 7.0
    assert whole[0, 0] == 7.0
