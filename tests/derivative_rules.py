"""Every way in which torch differentiates or maps a function f(p, x), by name, for tests that compare with a twin."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

Function = Callable[[Tensor, Any], Tensor]


def energy(f: Function) -> Function:
    """A scalar whose second derivatives are not constant in anything."""

    def scalar(p: Tensor, x: Any) -> Tensor:
        return f(p, x).sin().sum()

    return scalar


def plain(g: Tensor) -> Tensor:
    return g.to_dense() if g.layout is not torch.strided else g


def _leaf(p: Tensor) -> Tensor:
    return p.detach().clone().requires_grad_()


def _double_backward(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    """A Hessian-vector product by reverse over reverse, without torch.func."""
    p = _leaf(p)
    (g,) = torch.autograd.grad(energy(f)(p, x), p, create_graph=True)
    (second,) = torch.autograd.grad((plain(g) * dp).sum(), p)
    return plain(second)


def _forward_ad(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor | None:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(p, dp), x)).tangent


def _forward_over_reverse(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor | None:
    p = _leaf(p)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(p, dp)
        (g,) = torch.autograd.grad(energy(f)(dual, x), dual, create_graph=True)
        return forward_ad.unpack_dual(plain(g)).tangent


def _reverse_over_forward(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    p = _leaf(p)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(energy(f)(forward_ad.make_dual(p, dp), x)).tangent
        return plain(torch.autograd.grad(tangent, p)[0])


def _batched_gradients(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    p = _leaf(p)
    y = f(p, x)
    many = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
    return plain(torch.autograd.grad(y, p, many, is_grads_batched=True)[0])


def _pairs(p: Tensor, dp: Tensor) -> Tensor:
    return torch.stack([p, dp, p - dp])


RULES: dict[str, Callable[[Function, Tensor, Any, Tensor], Any]] = {
    "backward": lambda f, p, x, dp: plain(torch.autograd.grad(energy(f)(q := _leaf(p), x), q)[0]),
    "double backward": _double_backward,
    "forward_ad": _forward_ad,
    "forward_ad over backward": _forward_over_reverse,
    "backward over forward_ad": _reverse_over_forward,
    "grad": lambda f, p, x, dp: grad(energy(f))(p, x),
    "vjp": lambda f, p, x, dp: vjp(lambda p: f(p, x), p)[1](f(p, x).detach().cos()),
    "jvp": lambda f, p, x, dp: jvp(lambda p: f(p, x), (p,), (dp,)),
    "jacrev": lambda f, p, x, dp: jacrev(f)(p, x),
    "jacfwd": lambda f, p, x, dp: jacfwd(f)(p, x),
    "hessian": lambda f, p, x, dp: hessian(energy(f))(p, x),
    "jacrev of jacrev": lambda f, p, x, dp: jacrev(jacrev(energy(f)))(p, x),
    "jvp of grad": lambda f, p, x, dp: jvp(grad(lambda p: energy(f)(p, x)), (p,), (dp,))[1],
    "grad of jvp": lambda f, p, x, dp: grad(lambda p: jvp(lambda p: f(p, x), (p,), (dp,))[1].sin().sum())(p),
    "jvp of jvp": lambda f, p, x, dp: jvp(
        lambda p: jvp(lambda p: energy(f)(p, x), (p,), (dp,))[1], (p,), (p,)
    )[1],
    "vmap": lambda f, p, x, dp: vmap(lambda p: f(p, x))(_pairs(p, dp)),
    "vmap over the last dimension": lambda f, p, x, dp: vmap(lambda p: f(p, x), in_dims=-1)(_pairs(p, dp).movedim(0, -1)),
    "vmap of grad": lambda f, p, x, dp: vmap(grad(lambda p: energy(f)(p, x)))(_pairs(p, dp)),
    "vmap of jvp": lambda f, p, x, dp: vmap(lambda d: jvp(lambda p: f(p, x), (p,), (d,))[1])(_pairs(p, dp)),
    "vmap of vmap": lambda f, p, x, dp: vmap(vmap(lambda p: f(p, x)))(torch.stack([_pairs(p, dp), _pairs(dp, p)])),
}  # fmt: skip

# x is mapped: a stack of inputs
MAPPED: dict[str, Callable[[Function, Tensor, Any, Tensor], Any]] = {
    "vmap over x": lambda f, p, x, dp: vmap(f, in_dims=(None, 0))(p, x),
    "vmap over both": lambda f, p, x, dp: vmap(f)(_pairs(p, dp), x),
    "vmap over x of vmap": lambda f, p, x, dp: vmap(
        lambda x: vmap(lambda p: f(p, x))(_pairs(p, dp))
    )(x),
    "gradients of samples": lambda f, p, x, dp: vmap(grad(energy(f)), in_dims=(None, 0))(p, x),
    "tangents of samples": lambda f, p, x, dp: vmap(
        lambda x: jvp(lambda p: f(p, x), (p,), (dp,))[1]
    )(x),
    "hessians of samples": lambda f, p, x, dp: vmap(hessian(energy(f)), in_dims=(None, 0))(p, x),
    "grad of vmap": lambda f, p, x, dp: grad(lambda p: vmap(f, in_dims=(None, 0))(p, x).sin().sum())(p),
    "jvp of vmap": lambda f, p, x, dp: jvp(lambda p: vmap(f, in_dims=(None, 0))(p, x), (p,), (dp,)),
    "double backward through vmap": lambda f, p, x, dp: _double_backward(
        lambda p, x: vmap(f, in_dims=(None, 0))(p, x), p, x, dp
    ),
}  # fmt: skip
