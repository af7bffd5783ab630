"""Every backend on every device that there is: results, repeats, graphs, what waits, memory. On a CPU what makes sense
there; the rest needs a GPU."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

import sparsetrain as st
from sparsetrain.backends.blocks import products
from sparsetrain.backends.triton.available import usable
from sparsetrain.dtypes import HALVES, wide

cuda: Any = torch.cuda  # untyped
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
NEEDS_TRITON = [*NEEDS_GPU, pytest.mark.skipif(not usable("cuda"), reason="no Triton")]


class Place(NamedTuple):
    """A backend on a device."""

    device: str
    backend: str

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}"


GPU = [pytest.param(Place("cuda", name), marks=NEEDS_GPU, id=f"{name} on cuda") for name in ("torch", "blocks")]
GPU.append(pytest.param(Place("cuda", "triton"), marks=NEEDS_TRITON, id="triton on cuda"))
CPU = [pytest.param(Place("cpu", name), id=f"{name} on cpu") for name in ("numba", "torch", "blocks")]

places = pytest.mark.parametrize("place", [*CPU, *GPU])
on_gpu = pytest.mark.parametrize("place", GPU)
reproducible = pytest.mark.parametrize("place", [each for each in [*CPU, *GPU] if each.id != "torch on cuda"])
activations = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch asks for, for nn.Linear too
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def structure(kind: str, rows: int, columns: int, device: str) -> st.Topology:
    mask = torch.rand(rows, columns) < {"all": 2.0, "half": 0.5}.get(kind, 0.05)
    if kind == "hubs and empty rows":
        mask[::2], mask[:, ::3], mask[3] = False, False, True
    if kind == "none":
        mask[:] = False
    return st.Topology.from_mask(mask).to(device)


def with_wide_indices(t: st.Topology) -> st.Topology:
    """As of a topology whose edges int32 can't count, which no machine for tests could hold."""
    other = st.Topology.from_coo(t.row, t.col, shape=t.shape)
    for name in ("crow", "stored_col"):
        object.__setattr__(other, name, getattr(t, name).long())
    return other


def run_of(place: Place, t: st.Topology, x: Tensor, dy: Tensor, values: Tensor, bias: Tensor) -> list[Tensor]:
    """y, and the gradients of x, values and bias."""
    with st.ops.use_backend(place.backend):
        y = st.ops.linear(x, t, values, bias)
    return [y.detach(), *torch.autograd.grad(y, (x, values, bias), dy)]


def operands(
    t: st.Topology, batch: int, dtype: torch.dtype, feature_major: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, dy, values, bias."""
    x, dy = (torch.randn(batch, n, device=t.device).to(dtype) for n in (t.shape[1], t.shape[0]))
    if feature_major:
        x, dy = st.ops.feature_major(x), st.ops.feature_major(dy)
    values, bias = (torch.randn(n, device=t.device, dtype=wide(dtype)) for n in (t.nnz, t.shape[0]))
    return x.requires_grad_(), dy, values.requires_grad_(), bias.requires_grad_()


def twin_of(t: st.Topology, *given: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The results in float64, and the sums of the magnitudes of what they add."""

    def results(x: Tensor, dy: Tensor, values: Tensor, bias: Tensor) -> list[Tensor]:
        row, col = t.row.long(), t.col.long()
        weight = torch.zeros(t.shape, dtype=torch.float64, device=x.device).index_put((row, col), values)
        return [x @ weight.t() + bias, dy @ weight, (dy.t() @ x)[row, col], dy.sum(0)]

    exact = [each.detach().double() for each in given]
    return results(*exact), results(*(each.abs() for each in exact))


def unit_of(place: Place, result: Tensor) -> float:
    """Rounding of a result, in units of its magnitude. Blocks on a GPU round the weight to half precision as well, and
    cuBLAS may add partial sums in it."""
    rounds = 4 if place == ("cuda", "blocks") and result.dtype in HALVES else 1
    return rounds * torch.finfo(result.dtype).eps / 2


def close(place: Place, got: list[Tensor], t: st.Topology, given: tuple[Tensor, ...]) -> None:
    terms = max(*t.shape, given[0].shape[0]) + 2
    for one, exact, magnitude in zip(got, *twin_of(t, *given), strict=True):
        assert one.shape == exact.shape
        error, sums = (one.double() - exact).abs(), terms * torch.finfo(wide(one.dtype)).eps / 2
        subnormal = torch.finfo(one.dtype).smallest_normal * torch.finfo(one.dtype).eps / 2
        assert (error <= magnitude * (sums + unit_of(place, one)) + subnormal).all()


# ---- results -----------------------------------------------------------------------------------------------------------


@places
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["few", "half", "hubs and empty rows", "none", "all"])
def test_products_and_gradients(place: Place, dtype: torch.dtype, kind: str) -> None:
    t = structure(kind, 37, 150, place.device)
    kernels = place.backend == "numba"  # compiled for each type and size: tests/test_kernels.py has the others
    for index in (t,) if kernels else (t, with_wide_indices(t)):
        for batch, feature_major in ((1, False), (64, False), (64 if kernels else 129, True), (0, False)):
            given = operands(index, batch, dtype, feature_major)
            got = run_of(place, index, *given)
            assert [each.dtype for each in got] == [dtype, dtype, wide(dtype), wide(dtype)]
            assert all(each.device == index.device for each in got)
            close(place, got, index, given)


@places
def test_derivatives(place: Place) -> None:
    t = structure("half", 6, 5, place.device)
    values, x = (torch.randn(*shape, dtype=torch.float64, device=place.device) for shape in ((t.nnz,), (5, 3)))
    arguments = values.requires_grad_(), x.requires_grad_()
    with st.ops.use_backend(place.backend):
        assert gradcheck(lambda v, x: st.ops.spmm(t, v, x), arguments, check_forward_ad=True)


@places
@activations
def test_autocast_is_no_less_exact_than_a_dense_layer(place: Place, dtype: torch.dtype) -> None:
    t = structure("half", 60, 80, place.device)
    layer, dense = st.nn.SparseLinear(80, 60, topology=t), nn.Linear(80, 60)
    layer, dense = layer.to(place.device), dense.to(place.device)
    with torch.no_grad():
        dense.weight.zero_()[t.row.long(), t.col.long()] = layer.values
        layer.bias.copy_(dense.bias)  # type: ignore[union-attr]
    x, dy = torch.randn(33, 80, device=place.device), torch.randn(33, 60, device=place.device, dtype=torch.bfloat16)
    x = x.to(torch.bfloat16).to(dtype).requires_grad_()  # exact in both
    results, exact = [], twin_of(t, x, dy, layer.values, dense.bias)[0]
    for module, weight in ((layer, layer.values), (dense, dense.weight)):
        with torch.autocast(place.device, torch.bfloat16), st.ops.use_backend(place.backend):
            y = module(x)
        gradients = torch.autograd.grad(y, (x, weight, module.bias), dy.to(y.dtype))
        results.append([y, *gradients])
    results[1][2] = results[1][2][t.row.long(), t.col.long()]
    for ours, theirs, right in zip(*results, exact, strict=True):
        error, other = ((each.double() - right).norm() / right.norm() for each in (ours, theirs))
        assert error <= 1.2 * other + 1e-6
    assert results[0][2].dtype is torch.float32


# ---- repeats -----------------------------------------------------------------------------------------------------------


@reproducible
@activations
@pytest.mark.usefixtures("deterministic")
def test_each_run_gives_the_same_bits(place: Place, dtype: torch.dtype) -> None:
    t = structure("hubs and empty rows", 300, 200, place.device)
    given = operands(t, 257, dtype)
    first = run_of(place, t, *given)
    for _ in range(5):
        assert all(torch.equal(one, other) for one, other in zip(run_of(place, t, *given), first, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.usefixtures("deterministic")
def test_what_is_not_reproducible_is_refused_and_not_chosen() -> None:
    t = structure("few", 300, 200, "cuda")
    with pytest.raises(RuntimeError, match='The "torch" backend has no deterministic product on CUDA'):
        run_of(Place("cuda", "torch"), t, *operands(t, 8, torch.float32))
    assert st.ops.choice(t, 8).backend != "torch"


# ---- graphs ------------------------------------------------------------------------------------------------------------


def layer_of(place: Place, dtype: torch.dtype) -> tuple[nn.Module, Callable[[Tensor], list[Tensor]], Tensor]:
    """A layer, what it gives for an input by this backend, with the gradients, and an input."""
    layer = st.nn.SparseLinear(200, 300, topology=structure("few", 300, 200, place.device), device=place.device)
    dy = torch.randn(64, 300, device=place.device).to(dtype)

    def run(x: Tensor) -> list[Tensor]:
        with st.ops.use_backend(place.backend):
            y = layer(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy)]

    return layer, run, torch.randn(64, 200, device=place.device).to(dtype).requires_grad_()


def agree(got: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert (one.double() - other.double()).norm() <= torch.finfo(one.dtype).eps * other.double().norm()


@on_gpu
@activations
def test_a_captured_graph_computes_what_its_inputs_hold(place: Place, dtype: torch.dtype) -> None:
    layer, run, x = layer_of(place, dtype)
    beside = cuda.Stream()
    beside.wait_stream(cuda.current_stream())
    with cuda.stream(beside):  # as torch asks for, and to make what follows from the structure
        for _ in range(3):
            run(x)
    cuda.current_stream().wait_stream(beside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        kept = run(x)
    for _ in range(3):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
            layer.values.copy_(torch.randn_like(layer.values))  # type: ignore[operator,arg-type]
        graph.replay()
        got = [each.clone() for each in kept]
        agree(got, run(x))


@on_gpu
@activations
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(place: Place, dtype: torch.dtype, mode: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layer, _, x = layer_of(place, dtype)
    with st.ops.use_backend(place.backend):
        compiled = torch.compile(layer, mode=mode, fullgraph=True)
        for _ in range(5):
            with torch.no_grad():
                x.copy_(torch.randn_like(x))
            results = []
            for module in (compiled, layer):
                cast_begin: Any = torch.compiler.cudagraph_mark_step_begin
                cast_begin()
                y = module(x)
                results.append([y.detach().clone(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])])
            agree(*results)
    assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0


def test_the_arrays_of_a_layer_stay_where_they_are_for_a_compiled_graph() -> None:
    """What CUDA graphs of torch.compile copy into memory of their own would be another topology to an operator."""
    torch._dynamo.reset()
    layer = st.nn.SparseLinear(20, 30, density=0.2)
    torch.compile(layer, backend="aot_eager", fullgraph=True)(torch.ones(4, 20))
    for index in (layer.topology.crow, layer.topology.col):
        assert torch._dynamo.utils.get_static_address_type(index) == "unguarded"


# ---- waiting -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_may_wait() -> Iterator[Callable[[], None]]:
    yield lambda: cuda.set_sync_debug_mode("error")
    if torch.cuda.is_available():
        cuda.set_sync_debug_mode("default")


@on_gpu
@activations
def test_forward_and_backward_do_not_wait(
    place: Place, dtype: torch.dtype, nothing_may_wait: Callable[[], None]
) -> None:
    _, run, x = layer_of(place, dtype)
    run(x)  # compiles, and makes what follows from the structure
    nothing_may_wait()
    run(x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("pool", [None, "sum", "mean"])
def test_lookups_do_not_wait(pool: Any, nothing_may_wait: Callable[[], None]) -> None:
    table = st.nn.LookupTable(1000, 16, pool=pool, device="cuda")
    optimizer = st.optim.Adam(table.parameters())
    ids = torch.randint(0, 1000, (64,), device="cuda")
    offsets = None if pool is None else torch.arange(0, 64, 8, device="cuda")

    def step() -> None:
        optimizer.zero_grad()
        table(ids, offsets).sum().backward()
        if usable("cuda"):
            optimizer.step()  # torch's operations over rows ask how many there are

    step()
    nothing_may_wait()
    step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("ids", ["[0, 50]", "[-1, 3]"])
def test_the_device_refuses_ids_that_are_out_of_range(ids: str) -> None:
    """In a process of its own, as a device is of no use after an assertion failed."""
    code = f"""
import torch, sparsetrain as st
table = st.nn.LookupTable(50, 4, device="cuda")
table(torch.tensor({ids}, device="cuda"))
torch.cuda.synchronize()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "device-side assert" in done.stderr


# ---- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW", "Adagrad"])
def test_tables_train_as_on_a_cpu(name: str, unused: str) -> None:
    if name == "Adagrad" and unused == "dense":
        pytest.skip("rows that are not used do not move")
    options: dict[str, Any] = {} if name == "Adagrad" else {"unused": unused}
    batches, tables = torch.randint(0, 40, (6, 300)), []
    start = torch.randn(60, 24)
    for device in ("cpu", "cuda"):
        table = st.nn.LookupTable(60, 24, device=device)
        with torch.no_grad():
            table.weight.copy_(start)
        optimizer = getattr(st.optim, name)(table.parameters(), lr=0.01, **options)
        for ids in batches:
            optimizer.zero_grad()
            table(ids.to(device)).square().sum().backward()
            optimizer.step()
        tables.append(table.matrix.detach().cpu())
    torch.testing.assert_close(*tables, rtol=1e-4, atol=1e-5)


# ---- memory and devices ------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@activations
def test_blocks_stay_within_their_bytes(dtype: torch.dtype) -> None:
    place, size, budget = Place("cuda", "blocks"), 8192, 16 << 20
    t = st.Topology.from_mask(torch.rand(size, size, device="cuda") < 0.02)
    given, before = operands(t, 64, dtype), st.ops.block_bytes("cuda")
    st.ops.set_block_bytes(budget, "cuda")
    try:
        results = sum(each.nbytes for each in run_of(place, t, *given))  # once before: handles take memory
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        start = cuda.memory_allocated()
        run_of(place, t, *given)
        peak = cuda.max_memory_allocated() - start
    finally:
        st.ops.set_block_bytes(before, "cuda")
    # cuBLAS has up to 32 MB for the time of a product; a gradient of x is a sum, to which parts of its size are added
    assert peak <= results + 2 * given[0].nbytes + budget + (32 << 20)


def test_blocks_of_the_gradient_count_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves are multiplied as they are on a GPU, and summed in float32: here, a CPU does the same."""
    made: list[Tensor] = []

    def outer(a: Tensor, b: Tensor) -> Tensor:
        made.append(a.float() @ b.float().t())
        return made[-1]

    monkeypatch.setattr(products, "computed", Tensor.detach)
    monkeypatch.setattr(products, "_outer", outer)
    monkeypatch.setattr(products, "block_bytes", lambda _: 2000)
    t = structure("half", 37, 150, "cpu")
    x, dy, *_ = operands(t, 40, torch.bfloat16)
    grad = products.sddmm(t, dy.t(), x.t())
    torch.testing.assert_close(
        grad, (dy.float().t() @ x.float())[t.row.long(), t.col.long()].detach(), rtol=0, atol=1e-4
    )
    assert len(made) > 1
    assert all(each.nbytes <= 2000 for each in made)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second GPU")
@pytest.mark.parametrize("backend", ["torch", "blocks", "triton"])
def test_a_device_that_is_not_the_current_one(backend: str) -> None:
    place = Place("cuda:1", backend)
    t = structure("few", 37, 150, place.device)
    given = operands(t, 40, torch.float32)
    got = run_of(place, t, *given)
    assert all(each.device == t.device for each in got)
    close(place, got, t, given)
