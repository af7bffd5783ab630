"""SparseConv1d, SparseConv2d and SparseConv3d beside torch's own convolutions in float64, over generated geometries."""

import threading
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

import sparsetrain
from sparsetrain.backends.blocks.scratch import KEPT_BYTES, block_memory
from sparsetrain.backends.convolution import blocks
from sparsetrain.backends.convolution.geometry import Geometry
from sparsetrain.nn import SparseConv1d, SparseConv2d, SparseConv3d
from sparsetrain.ops import convolution_autograd, convolution_operators, set_block_bytes, use_backend

LAYERS: Any = {1: SparseConv1d, 2: SparseConv2d, 3: SparseConv3d}
DOUBLE = torch.float64
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
# torch's own words about even kernels that keep the size, which it pads in a copy, and about its forward mode
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


class Case(NamedTuple):
    """A layer's arguments, and the shape of its input."""

    arguments: tuple[Any, ...]
    options: dict[str, Any]
    shape: tuple[int, ...]
    density: float
    bias: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    dimensions = draw(st.integers(1, 3))

    def each(most: int, least: int = 1) -> Any:
        return draw(st.tuples(*[st.integers(least, most)] * dimensions))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, dilation = each(3), each(2)
    padding = draw(st.sampled_from(["numbers", "same", "valid"]))
    stride = (1,) * dimensions if padding == "same" else each(3)
    amount = each(2, least=0) if padding == "numbers" else padding
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [n + draw(st.integers(0, 3)) for n in least]
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    if mode in ("reflect", "circular"):  # which have to find as much as they put beside
        size = [max(n, 5) for n in size]
    channels = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 4))
    options = {"stride": stride, "padding": amount, "dilation": dilation, "groups": groups, "padding_mode": mode}
    batch = draw(st.integers(0, 3))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return Case((*channels, kernel), options, (batch, channels[0], *size), density, draw(st.booleans()))


def made(case: Case, dtype: torch.dtype = DOUBLE) -> tuple[Any, Any, Tensor]:
    """A layer, its dense twin in float64, and an input in float64."""
    generator = torch.Generator().manual_seed(0)
    layer = LAYERS[len(case.arguments[2])](
        *case.arguments, bias=case.bias, density=case.density, generator=generator, dtype=dtype, **case.options
    )
    x = torch.randn(case.shape, generator=generator, dtype=DOUBLE).to(dtype)
    return layer, layer.to_dense().double(), x


def close(found: Tensor, expected: Tensor, magnitude: Tensor | float, eps: float) -> None:
    """Within the rounding of sums: eps of what the absolute values sum up to."""
    assert found.shape == expected.shape
    assert bool(((found.double() - expected).abs() <= eps * magnitude + 1e-300).all())


def check_against_the_twin(layer: Any, dense: Any, x: Tensor, eps: float) -> None:
    """Result and all gradients."""
    x, twin = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    y, expected = layer(x), dense(twin)
    absolute = magnitudes(dense)
    close(y, expected, absolute(twin.detach().abs()), eps)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE).to(y.dtype)
    y.backward(dy)
    expected.backward(dy.double())
    size = twin.detach().abs().requires_grad_()
    absolute(size).backward(dy.double().abs())
    close(x.grad, twin.grad, size.grad, eps)
    assert layer.values.grad.dtype is layer.values.dtype
    at = layer.topology.row.long(), layer.topology.col.long()
    shape = layer.topology.shape
    close(layer.values.grad, dense.weight.grad.reshape(shape)[at], absolute.weight.grad.reshape(shape)[at], eps)
    if layer.bias is not None:
        close(layer.bias.grad, dense.bias.grad, absolute.bias.grad, eps)


def magnitudes(dense: Any) -> Any:
    """The layer of all absolute values, by whose results rounding is judged."""
    absolute = type(dense)(
        dense.in_channels, dense.out_channels, dense.kernel_size, dense.stride, dense.padding, dense.dilation,
        dense.groups, dense.bias is not None, dense.padding_mode, dtype=DOUBLE,
    )  # fmt: skip
    absolute.load_state_dict({name: p.detach().abs() for name, p in dense.state_dict().items()})
    return absolute


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases(), st.sampled_from([16 << 20, 100, 1000]), st.booleans(), st.sampled_from(["blocks", "numba"]))
def test_any_geometry(case: Case, block_bytes: int, last: bool, way: str) -> None:
    layer, dense, x = made(case)
    if last and x.ndim > 3:
        x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])
    set_block_bytes(block_bytes)
    try:
        with use_backend(way):
            check_against_the_twin(layer, dense, x, eps=1e-13)
    finally:
        set_block_bytes(16 << 20)


def small(density: float = 0.3, dtype: torch.dtype = torch.float32, **options: Any) -> SparseConv2d:
    generator = torch.Generator().manual_seed(0)
    options = {"padding": 1, "groups": 2} | options
    return SparseConv2d(4, 6, 3, density=density, generator=generator, dtype=dtype, **options)


def images(dtype: torch.dtype = torch.float32, size: int = 8) -> Tensor:
    return torch.randn(5, 4, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_activations_in_lower_precision(dtype: torch.dtype, density: float) -> None:
    layer = small(density)
    dense = layer.to_dense().double()
    layer.to(dtype)
    assert layer.values.dtype is torch.float32
    x = images(dtype)
    assert layer(x).dtype is dtype
    check_against_the_twin(layer, dense, x, eps=2e-6 if dtype is torch.float32 else torch.finfo(dtype).eps)


def test_autocast_leaves_what_comes_in_as_it_is() -> None:
    layer = small()
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            x = images(dtype)
            y = layer(x)
            assert y.dtype is dtype
            y.float().sum().backward()
    torch.testing.assert_close(layer(images()), layer.to_dense()(images()), rtol=1e-5, atol=1e-6)
    assert layer.values.grad is not None
    assert layer.values.grad.dtype is torch.float32


@pytest.mark.parametrize("options", [{}, {"padding": "same", "kernel": 2}, {"padding_mode": "circular"}], ids=str)
@pytest.mark.parametrize("block_bytes", [16 << 20, 200])
def test_layouts_are_kept(options: dict[str, Any], block_bytes: int) -> None:
    options = {"padding": 1, "groups": 2} | options
    layer = SparseConv2d(4, 6, options.pop("kernel", 3), density=0.5, **options)
    dense = layer.to_dense()
    set_block_bytes(block_bytes)
    try:
        for layout in (torch.contiguous_format, torch.channels_last):
            x = images().contiguous(memory_format=layout).requires_grad_()
            y = layer(x)
            torch.testing.assert_close(y, dense(x))
            assert y.is_contiguous(memory_format=layout)
            (dx,) = torch.autograd.grad(y, x, torch.randn_like(y))
            if layer.padding_mode == "zeros":  # torch's padding gives gradients back as it likes
                assert dx.is_contiguous(memory_format=layout)
    finally:
        set_block_bytes(16 << 20)
    wide = torch.randn(5, 8, 16, 16)[:, ::2, 3:11, ::2]
    torch.testing.assert_close(layer(wide), dense(wide))


def test_results_are_no_views_which_could_not_be_written_into() -> None:
    for density in (0.3, 1.0):
        layer = small(density)
        y = nn.ReLU(inplace=True)(layer(images()))
        y.sum().backward()
        assert layer.values.grad is not None
        assert not layer.values.grad._is_view()


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_images_without_a_batch_and_batches_without_images(mode: Any) -> None:
    layer = small(padding_mode=mode)
    dense = layer.to_dense()
    one = images()[0]
    torch.testing.assert_close(layer(one), dense(one))
    none = images()[:0].requires_grad_()
    y = layer(none)
    assert y.shape == (0, 6, 8, 8)
    y.sum().backward()
    assert layer.values.grad is not None
    assert not layer.values.grad.any()
    assert none.grad is not None
    assert none.grad.shape == none.shape


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "dilation": 2, "groups": 1}, {"padding": "same", "kernel_size": 2}], ids=str
)
@pytest.mark.parametrize("way", ["blocks", "numba"])
def test_derivatives_of_derivatives(options: dict[str, Any], way: str) -> None:
    layer = SparseConv2d(
        **{
            "in_channels": 2,
            "out_channels": 4,
            "kernel_size": 3,
            "padding": 2,
            "groups": 2,
            "density": 0.4,
            "dtype": DOUBLE,
        }
        | options
    )
    x = torch.randn(2, 2, 3, 4, dtype=DOUBLE, requires_grad=True)

    def call(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, {"values": values, "bias": bias}, (x,))
        return y

    operands = (x, layer.values, layer.bias)
    with use_backend(way):
        assert gradcheck(call, operands, check_forward_ad=True, check_batched_grad=True, fast_mode=True)
        assert gradgradcheck(call, operands, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


def test_the_operators_have_the_same_derivatives() -> None:
    """What compiled graphs are made of, differentiated twice."""
    layer = small(dtype=DOUBLE)
    x = torch.randn(1, 4, 3, 4, dtype=DOUBLE, requires_grad=True)
    form = convolution_autograd.Form(layer.topology, layer.geometry, (3, 4), "automatic")

    def call(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return convolution_operators.convolution(form, values, x, None, bias)

    operands = (x, layer.values, layer.bias)
    assert gradcheck(call, operands, fast_mode=True)
    assert gradgradcheck(call, operands, fast_mode=True)
    for left_out in (0, 1):  # and where one of them is a constant
        given = [each.detach().requires_grad_(k != left_out) for k, each in enumerate(operands)]
        assert gradgradcheck(call, given, fast_mode=True)
    arrays, how = (layer.topology.crow, layer.topology.col), convolution_operators._how(form)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    forward = (*arrays, layer.values, x, None, layer.bias, *how, None, False)
    torch.library.opcheck(torch.ops.sparsetrain.convolution.default, forward, test_utils=checks)
    backward = (*arrays, layer.values, x, layer(x).detach(), True, *how)
    torch.library.opcheck(torch.ops.sparsetrain.convolution_backward.default, backward, test_utils=checks)


@pytest.mark.parametrize("padding", [((2, 0),), ((0, 2),), ((1, 3), (2, 1)), ((0, 0), (0, 1), (4, 1))], ids=str)
def test_padding_of_sides_that_differ(padding: tuple[tuple[int, int], ...]) -> None:
    """Which layers have on one side alone."""
    n = len(padding)
    g = Geometry((3,) * n, (2,) * n, padding, (1,) * n, 2)
    t = sparsetrain.patterns.uniform((6, 2 * 3**n), 0.3)
    values, x = torch.randn(t.nnz, dtype=DOUBLE), torch.randn(2, 4, *[6, 5, 4][:n], dtype=DOUBLE, requires_grad=True)
    at = t.row.long(), t.col.long()
    weight = torch.zeros(t.shape, dtype=DOUBLE).index_put(at, values).view(6, 2, *g.kernel).requires_grad_()
    padded = nn.functional.pad(x, [side for pair in reversed(padding) for side in pair])
    y = torch.convolution(padded, weight, None, g.stride, [0] * n, g.dilation, False, [0] * n, 2)
    dy = torch.randn_like(y)
    dx, dweight = torch.autograd.grad(y, (x, weight), dy)
    of_edges = dweight.reshape(t.shape)[at]
    torch.testing.assert_close(blocks.forward(t, values, x, None, g), y)
    torch.testing.assert_close(blocks.input_gradient(t, values, dy, tuple(x.shape[2:]), g), dx)
    torch.testing.assert_close(blocks.value_gradient(t, x, dy, g), of_edges)
    expected = (of_edges, dx, dy.sum((0, *range(2, 2 + n))))
    for found, each in zip(blocks.backward(t, values, x, dy, g, True), expected, strict=True):
        torch.testing.assert_close(found, each)


def test_gradients_of_each_sample() -> None:
    layer, x = small(dtype=DOUBLE), images(DOUBLE, 5)

    def loss(values: Tensor, sample: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, {"values": values}, (sample[None],))
        return y.square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(layer.values.detach(), x)
    for found, sample in zip(each, x, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(loss(layer.values, sample), layer.values)[0])
    ensemble = torch.stack([layer.values.detach(), -layer.values.detach()])
    several = torch.func.vmap(lambda v: functional_call(layer, {"values": v}, (x,)))(ensemble)
    torch.testing.assert_close(several[0], layer(x))


def test_gradients_that_are_mapped() -> None:
    layer, x = small(dtype=DOUBLE), images(DOUBLE, 5).requires_grad_()
    y, many = layer(x), torch.randn(3, 5, 6, 5, 5, dtype=DOUBLE)
    mapped = torch.autograd.grad(y, (x, layer.values), many, is_grads_batched=True, retain_graph=True)
    for k, dy in enumerate(many):
        for found, expected in zip(
            mapped, torch.autograd.grad(y, (x, layer.values), dy, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(found[k], expected)


def test_edges_that_change_before_a_backward_pass_are_noticed() -> None:
    layer = small()
    y = layer(images())
    layer.replace_edges(sparsetrain.Topology.from_mask(torch.ones(6, 18)), torch.ones(6 * 18))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_through_blocks_infinities_reach_what_a_dense_weight_lets_them_reach() -> None:
    layer = small()
    x = images()
    x[0, 0, 3, 3] = torch.inf
    with use_backend("blocks"):
        assert torch.equal(layer(x).isfinite(), layer.to_dense()(x).isfinite())


def test_initial_values_have_the_bound_of_the_mean_fan_in() -> None:
    layer = SparseConv2d(16, 32, 3, density=0.25)
    bound = (32 / layer.topology.nnz) ** 0.5  # 36 edges of an output
    assert bound == 1 / 6
    assert 0.95 * bound < float(layer.values.detach().abs().max()) <= bound
    dense = SparseConv2d(16, 32, 3, density=1.0)
    assert float(dense.values.detach().abs().max()) <= (1 / (16 * 9)) ** 0.5


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_fans_are_torchs_where_every_edge_is_there(mode: Any) -> None:
    """Of its own draws torch's rule has the same standard deviation; groups are not counted in its fan-out."""
    layer = SparseConv2d(16, 32, 3, density=1.0)
    sparsetrain.init.kaiming_uniform_(layer, mode=mode, nonlinearity="relu", generator=torch.Generator().manual_seed(0))
    twin = torch.empty(layer.weight_shape)
    nn.init.kaiming_uniform_(twin, mode=mode, nonlinearity="relu", generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer.to_dense().weight, twin)


def test_fans_of_edges_count_channels() -> None:
    """Two groups: outputs 0 and 1 read inputs 0 and 1, outputs 2 and 3 read inputs 2 and 3, with kernels of two."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]])
    layer = SparseConv1d(4, 4, 2, groups=2, topology=sparsetrain.Topology.from_mask(mask))
    drawn = torch.ones(6)
    sparsetrain.init.custom_(layer, lambda t: t.fill_(1.0))
    fans = sparsetrain.init.fans.fans_of("test", layer, "edge")
    assert torch.equal(torch.as_tensor(fans.fan_in), torch.tensor([2, 2, 2, 2, 1, 1], dtype=DOUBLE) * drawn)
    assert torch.equal(torch.as_tensor(fans.fan_out), torch.tensor([3, 3, 3, 1, 1, 1], dtype=DOUBLE) * drawn)
    mean = sparsetrain.init.fans.mean_fans("test", layer)
    assert mean == (1.5, 1.5)


def test_what_a_layer_prints() -> None:
    assert repr(small()) == (
        "SparseConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2, nnz=32, density=0.2963, bias=True)"
    )
    layer = SparseConv1d(2, 3, 5, padding="same", padding_mode="reflect", density=0.5, bias=False)
    assert repr(layer) == (
        "SparseConv1d(2, 3, kernel_size=(5,), stride=(1,), padding='same', padding_mode='reflect', nnz=15, density=0.5, bias=False)"
    )


def test_a_thread_keeps_the_memory_of_small_blocks() -> None:
    with torch.inference_mode():
        first = block_memory(6, 5, torch.empty(0))
    again = block_memory(3, 5, torch.empty(0, dtype=DOUBLE))
    again.zero_()  # which memory of inference mode would refuse
    assert (first.data_ptr(), first.shape, again.dtype) == (again.data_ptr(), (6, 5), DOUBLE)
    elsewhere: list[int] = []
    thread = threading.Thread(target=lambda: elsewhere.append(block_memory(3, 5, torch.empty(0)).data_ptr()))
    thread.start()
    thread.join()
    assert elsewhere != [first.data_ptr()]
    large = block_memory(1, KEPT_BYTES // 4 + 1, torch.empty(0))
    assert large.data_ptr() != block_memory(1, 1, torch.empty(0)).data_ptr()


def test_results_do_not_share_the_memory_of_blocks() -> None:
    """Nor does what a graph keeps: a later layer writes into it."""
    layers, x = [small(0.3), small(0.7)], images().requires_grad_()
    y = [layer(x) for layer in layers]
    expected = [layer.to_dense()(x) for layer in layers]
    for found, each in zip(y, expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-5, atol=1e-6)
    gradients = torch.autograd.grad(y[0].sum() + 2 * y[1].sum(), x)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected[0].sum() + 2 * expected[1].sum(), x))
