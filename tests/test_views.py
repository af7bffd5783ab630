"""Every product against every kind of view of its operands, forward and gradients: the same as for contiguous copies."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sparsetrain as st

OUT, IN, BATCH = 13, 70, 64  # a tile, and features past a vector


def unaligned(x: Tensor) -> Tensor:
    room = torch.frombuffer(bytearray(x.numel() * x.itemsize + 1), dtype=x.dtype, offset=1)
    return room.view(x.shape).copy_(x)


def inside(x: Tensor) -> Tensor:
    """A slice of a larger array, with something behind each line and in front."""
    frame = torch.full((x.shape[0] + 3, x.shape[1] + 9), torch.nan)
    view = frame[2:-1, 4:-5]
    return view.copy_(x)


def stepped(x: Tensor) -> Tensor:
    frame = torch.full((2 * x.shape[0], 3 * x.shape[1]), torch.nan)
    return frame[::2, ::3].copy_(x)


def cut(x: Tensor) -> Tensor:
    """The first columns of a wider array, which end where it ends."""
    frame = torch.full((x.shape[0], x.shape[1] + 1), 7.0)
    return frame[:, : x.shape[1]].copy_(x)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "cut": cut,
    "inside": inside,
    "stepped": stepped,
    "transposed": lambda x: x.t().contiguous().t(),
    "inside, transposed": lambda x: inside(x.t()).t(),
    "stepped, transposed": lambda x: stepped(x.t()).t(),
    "flipped": lambda x: x.flip(0, 1).flip(0, 1),
    "one sample, expanded": lambda x: x[:1].expand(x.shape[0], -1),
    "one feature, expanded": lambda x: x[:, :1].expand(-1, x.shape[1]),
    "unaligned": unaligned,
    "negated": lambda x: torch._neg_view(-x),
    "negated, inside": lambda x: torch._neg_view(inside(-x)),
    "imaginary part of a conjugate": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    "a number of its own shape": lambda x: x.as_strided(x.shape, (x.stride(0), x.stride(1))),
}


def one_hot(batch: int) -> Tensor:
    """Few columns are used, as sparse_grad is for."""
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(batch, IN)
    x[torch.arange(batch), torch.randint(IN, (batch,), generator=generator)] = 1.5
    return x


def layer(sparse_grad: bool) -> st.nn.SparseLinear:
    generator = torch.Generator().manual_seed(0)
    return st.nn.SparseLinear(
        IN, OUT, topology=st.patterns.uniform((OUT, IN), 0.3, generator), sparse_grad=sparse_grad, generator=generator
    )


def results(x: Tensor, dy: Tensor, sparse_grad: bool, for_x: bool) -> list[Tensor]:
    made = layer(sparse_grad)
    x = x.detach().requires_grad_(for_x)
    y = made(x)
    y.backward(dy)
    assert made.values.grad is not None
    assert made.bias is not None
    found = [y.detach(), made.values.grad.to_dense() if sparse_grad else made.values.grad, made.bias.grad, x.grad]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("batch", [2, BATCH])
@pytest.mark.parametrize("for_x", [True, False])
@pytest.mark.parametrize("sparse_grad", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_the_input_and_of_the_gradient(view: str, sparse_grad: bool, for_x: bool, batch: int) -> None:
    x, dy = VIEWS[view](one_hot(batch)), VIEWS[view](torch.randn(batch, OUT))
    plain = x.clone(memory_format=torch.contiguous_format).resolve_neg(), dy.contiguous().resolve_neg()
    for one, other in zip(results(x, dy, sparse_grad, for_x), results(*plain, sparse_grad, for_x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if sparse_grad and not for_x:
        made = layer(True)
        made(x).sum().backward()
        assert made.values.grad is not None
        used = (plain[0] != 0).any(0)[made.topology.col.long()]
        assert made.values.grad.coalesce().indices()[0].tolist() == used.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_values_and_bias(view: str) -> None:
    t = layer(False).topology
    values, bias = torch.randn(t.nnz), torch.randn(OUT)
    x, dy = torch.randn(BATCH, IN), torch.randn(BATCH, OUT)
    found = []
    for seen in (VIEWS[view], lambda x: VIEWS[view](x).clone(memory_format=torch.contiguous_format).resolve_neg()):
        leaves = [
            seen(values[:, None].expand(-1, 3))[:, 1].requires_grad_(),
            seen(bias[:, None].expand(-1, 3))[:, 2].requires_grad_(),
            x.clone().requires_grad_(),
        ]
        y = st.ops.linear(leaves[2], t, *leaves[:2])
        found.append([y.detach(), *torch.autograd.grad(y, leaves, dy)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_the_operands_of_sddmm_and_of_the_transposed_product(view: str) -> None:
    t = layer(False).topology
    values = torch.randn(t.nnz)
    a, b = VIEWS[view](torch.randn(OUT, BATCH)), VIEWS[view](torch.randn(IN, BATCH))
    plain = [operand.contiguous().resolve_neg() for operand in (a, b)]
    torch.testing.assert_close(st.ops.sddmm(t, a, b), st.ops.sddmm(t, *plain), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        st.ops.spmm(t, values, a, transpose=True),
        st.ops.spmm(t, values, plain[0], transpose=True),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_a_table_of_its_ids_and_of_its_gradient(view: str) -> None:
    table, weight = st.nn.LookupTable(40, 8), VIEWS[view](torch.randn(40, 8)).requires_grad_()
    plain = weight.detach().contiguous().resolve_neg().clone().requires_grad_()
    ids = torch.randint(40, (3, 20)).t()[::2]
    dy = VIEWS[view](torch.randn(30, 8)).view(10, 3, 8) if view == "unaligned" else torch.randn(10, 3, 8).flip(0)
    for leaf in (weight, plain):
        torch.func.functional_call(table, {"weight": leaf}, (ids,)).backward(dy)
    assert weight.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(weight.grad.to_dense(), plain.grad.to_dense())
    torch.testing.assert_close(
        torch.func.functional_call(table, {"weight": weight}, (ids,)), plain[ids], rtol=0, atol=0
    )


@pytest.mark.parametrize("view", ["unaligned", "negated"])
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_tables_that_kernels_cannot_write_into_are_stepped_all_the_same(view: str, name: str) -> None:
    start, found = torch.randn(40, 8), []
    for weight in (VIEWS[view](start.clone()), start.clone()):
        parameter = torch.nn.Parameter(weight)
        optimizer = getattr(st.optim, name)([parameter], lr=0.1)
        parameter.grad = torch.sparse_coo_tensor(
            torch.tensor([[3, 7, 3]]), torch.ones(3, 8), (40, 8), check_invariants=True
        )
        optimizer.step()
        found.append(parameter.detach().clone())
    torch.testing.assert_close(*found)
    assert not torch.equal(found[0], start)
