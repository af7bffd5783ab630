"""SparseMultiheadAttention beside nn.MultiheadAttention with the same weights: numbers, gradients, arguments."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st_
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import sparsetrain as st
from sparsetrain.nn import MaskedLinear, SparseLinear, SparseMultiheadAttention

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pruned_dense(**how: Any) -> nn.MultiheadAttention:
    """A dense attention half of whose weights are zero, with biases that are not, which new ones have."""
    dense = nn.MultiheadAttention(8, 2, **how).double()
    with torch.no_grad():
        for name, p in dense.named_parameters():
            if "bias" in name and p.dim() == 1:
                p.normal_()
            elif "weight" in name:
                p.mul_(torch.rand(p.shape) < 0.5)
    return dense


@st_.composite
def cases(draw: Any) -> tuple[dict[str, Any], tuple[Tensor, ...], dict[str, Any]]:
    """Options of a layer, inputs, and options of a call."""
    torch.manual_seed(draw(st_.integers(0, 10**6)))
    flag = st_.booleans()
    how = {name: draw(flag) for name in ("bias", "add_bias_kv", "add_zero_attn", "batch_first")}
    sizes = draw(st_.sampled_from([(8, 8), (6, 10), (8, 3)]))
    how |= {"kdim": sizes[0], "vdim": sizes[1]}
    batch, queries, keys = draw(st_.sampled_from([0, 1, 3])), draw(st_.integers(1, 4)), draw(st_.integers(1, 5))
    shapes = [((length, size), batch) for length, size in ((queries, 8), (keys, sizes[0]), (keys, sizes[1]))]
    inputs = tuple(
        torch.randn(
            shape if not n else (n, *shape) if how["batch_first"] else (shape[0], n, shape[1]), dtype=torch.double
        )
        for shape, n in shapes
    )
    kind = draw(st_.sampled_from(["bool", "float"]))

    def mask(*shape: int) -> Tensor:
        if kind == "float":
            return torch.randn(shape, dtype=torch.double)
        chosen = torch.rand(shape) < 0.4
        chosen[..., 0] = False  # a query that attends to nothing has no weights
        return chosen

    call: dict[str, Any] = {"need_weights": draw(flag), "average_attn_weights": draw(flag)}
    if draw(flag):
        call["key_padding_mask"] = mask(batch, keys) if batch else mask(keys)
    form = draw(st_.sampled_from(["none", "shared", "each", "causal"]))
    if form == "causal":
        call |= {"attn_mask": torch.ones(queries, keys).triu(1).bool(), "is_causal": True}
        if kind == "float":
            call["attn_mask"] = torch.zeros(queries, keys, dtype=torch.double).masked_fill(
                call["attn_mask"], -torch.inf
            )
    elif form != "none":
        call["attn_mask"] = mask(queries, keys) if form == "shared" else mask(2 * max(batch, 1), queries, keys)
    return how, inputs, call


def results(layer: Any, inputs: tuple[Tensor, ...], call: dict[str, Any]) -> list[Tensor]:
    """Outputs, and gradients of the inputs."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    torch.manual_seed(1)
    outputs = [y for y in layer(*leaves, **call) if y is not None]
    loss = sum((y * torch.linspace(-1, 2, y.numel(), dtype=torch.double).view(y.shape)).sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(loss, leaves)]


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_numbers_are_those_of_the_dense_layer(case: Any) -> None:
    how, inputs, call = case
    dense = pruned_dense(**how)
    layer = SparseMultiheadAttention.from_dense(dense)
    expected = results(dense, inputs, call)
    for got, want in zip(results(layer, inputs, call), expected, strict=True):
        torch.testing.assert_close(got, want)
        assert got.shape == want.shape


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_the_causal_hint_leaves_padding_masked(padded: bool, need_weights: bool) -> None:
    dense = pruned_dense(batch_first=True)
    layer = SparseMultiheadAttention.from_dense(dense)
    x, causal = torch.randn(2, 4, 8, dtype=torch.double), torch.ones(4, 4).triu(1).bool()
    padding = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]]).bool() if padded else None
    call = {"attn_mask": causal, "is_causal": True, "key_padding_mask": padding, "need_weights": need_weights}
    for got, want in zip(results(layer, (x, x, x), call), results(dense, (x, x, x), call), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_is_that_of_the_dense_layer(need_weights: bool) -> None:
    dense = pruned_dense(dropout=0.5, batch_first=True)
    layer = SparseMultiheadAttention.from_dense(dense)
    x = torch.randn(3, 4, 8, dtype=torch.double)
    call = {"need_weights": need_weights}
    for got, want in zip(results(layer, (x, x, x), call), results(dense, (x, x, x), call), strict=True):
        torch.testing.assert_close(got, want)
    assert layer.eval()(x, x, x)[0].equal(layer(x, x, x)[0])


def test_gradients_of_parameters_are_those_of_the_dense_layer() -> None:
    dense = pruned_dense(kdim=6, vdim=5, add_bias_kv=True, batch_first=True)
    layer = SparseMultiheadAttention.from_dense(dense)
    q, k, v = (torch.randn(2, n, size, dtype=torch.double) for n, size in ((3, 8), (4, 6), (4, 5)))
    for each in (dense, layer):
        each(q, k, v, need_weights=False)[0].square().sum().backward()
    dense_grads = {
        **{name: getattr(dense, f"{name}_weight").grad for name in PROJECTIONS[:3]},
        "out_proj": dense.out_proj.weight.grad,
    }
    for name, grad in dense_grads.items():
        part = layer.get_submodule(name)
        torch.testing.assert_close(part.values.grad, grad[part.topology.row.long(), part.topology.col.long()])
    biases = torch.cat([layer.get_submodule(name).bias.grad for name in PROJECTIONS[:3]])
    torch.testing.assert_close(biases, dense.in_proj_bias.grad)
    torch.testing.assert_close(layer.bias_k.grad, dense.bias_k.grad)
    torch.testing.assert_close(layer.bias_v.grad, dense.bias_v.grad)


@pytest.mark.parametrize("need_weights", [True, False])
def test_derivatives(need_weights: bool) -> None:
    layer = SparseMultiheadAttention(4, 2, batch_first=True, density=0.5, dtype=torch.double)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(1, 2, 4, dtype=torch.double, requires_grad=True)

    def run(x: Tensor, *parameters: Tensor) -> Any:
        outputs = torch.func.functional_call(
            layer, dict(zip(names, parameters, strict=True)), (x, x, x), {"need_weights": need_weights}
        )
        return outputs if need_weights else outputs[0]

    leaves = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    with sdpa_kernel(SDPBackend.MATH):  # the only one with second derivatives
        assert torch.autograd.gradcheck(run, leaves)
        assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


# ---- in and out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [{}, {"bias": False}, {"kdim": 6}, {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True}],
    ids=str,
)
def test_there_and_back(how: dict[str, Any]) -> None:
    dense = pruned_dense(**how)
    dense.in_proj_weight is None or dense.in_proj_weight.requires_grad_(False)
    back = SparseMultiheadAttention.from_dense(dense.eval()).to_dense()
    assert type(back) is nn.MultiheadAttention
    assert not back.training
    state, expected = back.state_dict(), dense.state_dict()
    assert list(state) == list(expected)
    assert all(state[name].equal(tensor) for name, tensor in expected.items())
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in dense.parameters()]
    same = ("embed_dim", "num_heads", "kdim", "vdim", "batch_first", "dropout", "add_zero_attn", "head_dim")
    assert [getattr(back, name) for name in same] == [getattr(dense, name) for name in same]
    assert not {p.data_ptr() for p in back.parameters()} & {p.data_ptr() for p in dense.parameters()}


def test_masks_choose_the_edges() -> None:
    dense = nn.MultiheadAttention(8, 2)
    t = st.patterns.uniform((8, 8), 0.25)
    layer = SparseMultiheadAttention.from_dense(dense, {"q_proj": torch.eye(8), "out_proj": t})
    assert layer.q_proj.values.equal(dense.in_proj_weight[:8].diagonal())
    assert layer.out_proj.topology is t
    assert layer.v_proj.topology.nnz == 64
    with pytest.raises(ValueError, match=r"from_dense: expected masks of \('q_proj'.*got one of 'q'"):
        SparseMultiheadAttention.from_dense(dense, {"q": torch.eye(8)})
    with pytest.raises(ValueError, match=r"expected a mask of shape \(8, 8\), got \(4, 4\)"):
        SparseMultiheadAttention.from_dense(dense, {"q_proj": torch.eye(4)})
    dense = nn.utils.parametrizations.orthogonal(dense, "in_proj_weight")
    with pytest.raises(ValueError, match=r"got an attention with parametrizations\. Remove that first"):
        SparseMultiheadAttention.from_dense(dense)


def test_projections_may_be_of_any_kind() -> None:
    layer = SparseMultiheadAttention(8, 2, density=0.5)
    layer.k_proj, layer.v_proj = nn.Linear(8, 8), MaskedLinear(8, 8, density=0.5)
    x = torch.randn(3, 2, 8)
    torch.testing.assert_close(layer.to_dense()(x, x, x), layer(x, x, x))


def test_a_new_layer() -> None:
    layer = SparseMultiheadAttention(
        8, 2, add_bias_kv=True, kdim=6, density=0.5, generator=torch.Generator().manual_seed(3)
    )
    assert [layer.get_submodule(name).topology.nnz for name in PROJECTIONS] == [32, 24, 32, 32]
    assert (layer.kdim, layer.vdim) == (6, 8)
    assert all(not layer.get_submodule(name).bias.any() for name in PROJECTIONS)
    again = SparseMultiheadAttention(
        8, 2, add_bias_kv=True, kdim=6, density=0.5, generator=torch.Generator().manual_seed(3)
    )
    assert all(map(torch.equal, layer.state_dict().values(), again.state_dict().values()))
    before = layer.q_proj.values.detach().clone()
    layer.reset_parameters()
    assert not layer.q_proj.values.equal(before)
    assert SparseMultiheadAttention(8, 2, density=0.5, device="meta").q_proj.values.is_meta


def test_it_travels() -> None:
    layer = SparseMultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, density=0.5)
    x = torch.randn(2, 3, 8)
    expected = layer(x, x, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x, x, x), expected, rtol=0, atol=0)
    fresh = SparseMultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, density=0.5)
    with pytest.raises(RuntimeError, match="SparseLinear q_proj: "):
        fresh.load_state_dict(layer.state_dict())
    st.io.adopt(fresh, layer.state_dict())
    torch.testing.assert_close(fresh(x, x, x), expected, rtol=0, atol=0)


def test_half_precision() -> None:
    layer = SparseMultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, density=0.5)
    x = torch.randn(2, 3, 8)
    expected = layer(x, x, x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, x, x, need_weights=False)[0]
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    half = layer.to(torch.bfloat16)
    mask = torch.zeros(3, 3)
    for need_weights in (True, False):
        y = half(*[x.bfloat16()] * 3, need_weights=need_weights, attn_mask=mask)[0]
        assert (y.dtype, half.q_proj.values.dtype) == (torch.bfloat16, torch.float32)
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    assert {p.dtype for p in half.to_dense().parameters()} == {torch.float32}  # as SparseLinear.to_dense


def test_compiled() -> None:
    layer = SparseMultiheadAttention(8, 2, batch_first=True, density=0.5)
    x = torch.randn(2, 3, 8)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, x, x), layer(x, x, x))
    compiled(x, x, x)[0].sum().backward()
    assert layer.q_proj.values.grad is not None


def test_torchs_layers_take_it() -> None:
    one = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    one.self_attn = SparseMultiheadAttention(8, 2, batch_first=True, density=0.5)
    twin = copy.deepcopy(one)
    twin.self_attn = one.self_attn.to_dense()
    with pytest.warns(UserWarning, match="use_nested_tensor is False"):  # torch says that its fused path is off
        model = nn.TransformerEncoder(one, 2)
    dense = nn.TransformerEncoder(twin, 2, enable_nested_tensor=False)
    x, padding = torch.randn(2, 4, 8), torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    for mode in (True, False):
        y, expected = (each.train(mode)(x, src_key_padding_mask=padding) for each in (model, dense))
        torch.testing.assert_close(y[~padding], expected[~padding])
    with torch.no_grad():
        torch.testing.assert_close(model(x), dense(x))


# ---- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "call", "error", "message"),
    [
        (((2, 3, 8), (2, 4, 8), (2, 5, 8)), {}, ValueError, "expected a value for each key, got (2, 5, 8) for (2, 4, 8)."),
        (((2, 3, 8), (4, 8), (4, 8)), {}, ValueError, "expected key of 3 dimensions, or all of 2 without a batch, got (4, 8)"),
        (((2, 3, 8), (3, 4, 8), (3, 4, 8)), {}, ValueError, "expected as many samples of keys as of queries, got 3 for 2."),
        (((2, 3, 8),) * 3, {"is_causal": True}, ValueError, "expected attn_mask with is_causal=True"),
        (((2, 3, 8),) * 3, {"attn_mask": torch.zeros(3, 4)}, ValueError, "expected attn_mask of shape (3, 3)"),
        (((2, 3, 8),) * 3, {"attn_mask": torch.zeros(2, 3, 3)}, ValueError, "shape (4, 3, 3), got (2, 3, 3)."),
        (((2, 3, 8),) * 3, {"key_padding_mask": torch.zeros(3, 3)}, ValueError, "key_padding_mask of shape (2, 3)"),
        (((2, 3, 8),) * 3, {"attn_mask": torch.zeros(3, 3).int()}, TypeError, "of booleans (true: do not attend)"),
    ],
)  # fmt: skip
def test_refused(shapes: Any, call: dict[str, Any], error: type[Exception], message: str) -> None:
    layer = SparseMultiheadAttention(8, 2, batch_first=True, density=0.5)
    with pytest.raises(error, match=re.escape(message)):
        layer(*map(torch.zeros, shapes), **call)


def test_refused_sizes() -> None:
    with pytest.raises(ValueError, match=r"a multiple of num_heads, got 8 and 3\."):
        SparseMultiheadAttention(8, 3, density=0.5)
    nested = torch.nested.nested_tensor([torch.zeros(2, 8), torch.zeros(3, 8)], layout=torch.jagged)
    with pytest.raises(ValueError, match="got a nested tensor"):
        SparseMultiheadAttention(8, 2, batch_first=True, density=0.5)(nested, nested, nested)


def test_layers_inside_are_layers_over_edges() -> None:
    layer = SparseMultiheadAttention(8, 2, density=0.5)
    assert all(type(layer.get_submodule(name)) is SparseLinear for name in PROJECTIONS)
    assert [row.name for row in st.summary(layer).rows] == list(PROJECTIONS)
