"""Every layer under what traces, records or needs no numbers: it works, or says clearly that it does not."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import sparsetrain as st
from sparsetrain.tracing import outside_of_graphs

# torch's own words about torch.jit, and about numbers that its tracer takes for constants
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]


def sparse(**options: Any) -> st.nn.SparseLinear:
    return st.nn.SparseLinear(20, 10, density=0.3, **options)


def delta() -> st.nn.SparseDeltaLinear:
    return st.nn.SparseDeltaLinear(nn.Linear(20, 10), st.patterns.uniform((10, 20), 0.2))


def hierarchy() -> nn.Module:
    return st.convert.from_hierarchy([("a", "m"), ("b", "m"), ("m", "o"), ("a", "o")])


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "SparseLinear": (sparse, lambda: torch.randn(5, 20)),
    "sparse_grad": (lambda: sparse(sparse_grad=True), lambda: torch.eye(20)[:5]),
    "transposed": (lambda: sparse().transposed(), lambda: torch.randn(5, 10)),
    "MaskedLinear": (lambda: st.nn.MaskedLinear(20, 10, density=0.3), lambda: torch.randn(5, 20)),
    "SparseDeltaLinear": (delta, lambda: torch.randn(5, 20)),
    "SparseConv1d": (lambda: st.nn.SparseConv1d(4, 6, 3, groups=2, density=0.3), lambda: torch.randn(5, 4, 9)),
    "SparseConv2d": (
        lambda: st.nn.SparseConv2d(3, 6, 3, padding=1, padding_mode="circular", density=0.3),
        lambda: torch.randn(5, 3, 6, 5),
    ),
    "LookupTable": (lambda: st.nn.LookupTable(30, 4), lambda: torch.randint(30, (5,))),
    "pooled": (lambda: st.nn.LookupTable(30, 4, pool="sum"), lambda: torch.randint(30, (5, 3))),
    "largest": (lambda: st.nn.LookupTable(30, 4, pool="max", padding_idx=2), lambda: torch.randint(30, (5, 3))),
    "Hierarchy": (hierarchy, lambda: torch.randn(5, 2)),
}

every_layer = pytest.mark.parametrize("kind", LAYERS)


def made(kind: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer, an input, and one to compare on that no trace has seen."""
    torch.manual_seed(0)
    layer, batch = (make() for make in LAYERS[kind])
    assert isinstance(layer, nn.Module)
    assert isinstance(batch, Tensor)
    return layer, batch, batch.flip(0)


@every_layer
@pytest.mark.parametrize("grad", [True, False])
def test_jit_trace(kind: str, grad: bool) -> None:
    layer, x, other = made(kind)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(other), layer(other))


@every_layer
def test_fx_and_make_fx(kind: str) -> None:
    layer, x, other = made(kind)
    for graph in (torch.fx.symbolic_trace(nn.Sequential(layer)), make_fx(lambda x: layer(x))(x)):
        torch.testing.assert_close(graph(other), layer(other))


@every_layer
def test_fx_of_a_layer_alone(kind: str) -> None:
    layer, _, other = made(kind)
    if kind == "MaskedLinear":
        torch.testing.assert_close(torch.fx.symbolic_trace(layer)(other), layer(other))
        return
    with pytest.raises(TypeError, match=r"can't trace it alone. Trace a model that contains it"):
        torch.fx.symbolic_trace(layer)


@every_layer
def test_shapes_without_numbers(kind: str) -> None:
    layer, x, _ = made(kind)
    shape = layer(x).shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == shape
    assert copy.deepcopy(layer).to("meta")(x.to("meta")).shape == shape


@every_layer
def test_jit_script_is_refused(kind: str) -> None:
    with pytest.raises(TypeError, match=r"torch.jit.script can't compile this layer. Use torch.compile, torch.export"):
        torch.jit.script(made(kind)[0])


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "transposed"])  # whose values are another layer's
@pytest.mark.parametrize("assign", [True, False])
def test_what_is_derived_is_made_anew_after_meta(kind: str, assign: bool) -> None:
    layer, x, _ = made(kind)
    empty = copy.deepcopy(layer).to("meta")
    if not assign:
        empty.to_empty(device="cpu")
    empty.load_state_dict(layer.state_dict(), assign=assign)
    assert torch.equal(empty(x), layer(x))


@every_layer
def test_layers_are_made_on_the_meta_device(kind: str) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        layer = LAYERS[kind][0]()
    assert all(p.is_meta for p in layer.parameters())


def test_flops_of_the_edges_are_counted() -> None:
    layer, x, _ = made("SparseLinear")
    assert isinstance(layer, st.nn.SparseLinear)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * layer.topology.nnz * len(x)  # x needs no gradient


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, "inductor"),
        ({"padding_idx": 3}, "inductor"),
        ({"pool": "sum"}, "inductor"),
        ({"pool": "mean", "padding_idx": 3}, "aot_eager"),
        ({"pool": "sum", "padding_idx": 3}, "inductor"),
        ({"pool": "max"}, "aot_eager"),
        ({"pool": "max", "padding_idx": 3}, "aot_eager"),
    ],
    ids=str,
)
def test_a_compiled_table_trains_the_rows_that_it_reads(options: dict[str, Any], backend: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    table, pool = st.nn.LookupTable(30, 4, **options), options.get("pool")
    twin = copy.deepcopy(table)
    compiled = torch.compile(table, backend=backend, fullgraph=True)
    optimizers = [st.optim.Adam(each.parameters(), lr=0.1) for each in (table, twin)]
    for batch in (5, 7, 9):  # from the second size on, sizes are symbols
        ids = torch.randint(10, (batch, 3) if pool else (batch,))
        for module, optimizer in zip((compiled, twin), optimizers, strict=True):
            optimizer.zero_grad()
            module(ids).square().sum().backward()
            optimizer.step()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    torch.testing.assert_close(table.weight, twin.weight, rtol=1e-6, atol=1e-6)


def test_a_table_that_limits_norms_is_left_out_of_graphs() -> None:
    torch._dynamo.reset()
    table, ids = st.nn.LookupTable(30, 4, max_norm=1.0), torch.tensor([1, 2, 1])
    with pytest.raises(NotImplementedError, match="max_norm writes into the table"):
        torch.compile(table, backend="aot_eager")(ids)
    table.forward = torch.compiler.disable(table.forward)  # type: ignore[method-assign]
    torch._dynamo.reset()
    model = torch.compile(nn.Sequential(table, nn.Tanh()), backend="aot_eager")
    model(ids).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse


def test_padding_has_its_row_and_no_gradient_in_a_graph() -> None:
    table, ids = st.nn.LookupTable(7, 3, padding_idx=3), torch.tensor([[3, 6], [0, 3]])
    nn.init.normal_(table.weight)
    y = torch.compile(table, backend="aot_eager", fullgraph=True)(ids)
    assert y.equal(table.weight[ids])
    y.sum().backward()
    assert table.weight.grad is not None
    assert sorted(table.weight.grad.coalesce().indices()[0].tolist()) == [0, 6]


@pytest.mark.parametrize("layout", ["to_sparse_csr", "to_sparse"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_batches_are_those_of_linear(layout: str) -> None:
    for kind in ("SparseLinear", "sparse_grad", "transposed", "SparseDeltaLinear"):
        layer, x, _ = made(kind)
        assert torch.equal(layer(getattr(x, layout)()), layer(x))


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "Hierarchy"])
def test_the_keyword_of_torchs_layers(kind: str) -> None:
    layer, x, _ = made(kind)
    assert torch.equal(layer(input=x), layer(x))
    name = "ids" if isinstance(layer, st.nn.LookupTable) else "x"
    assert torch.equal(layer(**{name: x}), layer(x))
    with pytest.raises(TypeError, match=name):
        layer(x, **{name: x})
    with pytest.raises(TypeError, match=name):
        layer()


def test_what_stays_outside_of_graphs_computes_on_tensors() -> None:
    compiled = []

    @outside_of_graphs
    def twice(x: Tensor) -> Tensor:
        compiled.append(torch.compiler.is_compiling())
        return 2 * x

    x = torch.randn(3)
    for _ in range(2):
        torch.testing.assert_close(torch.compile(lambda x: twice(x + 1).sin(), backend="eager")(x), (2 * (x + 1)).sin())
    assert compiled == [False, False]
