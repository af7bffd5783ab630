"""Every way in which torch differentiates and maps a function f(p, x), by name, for tests that compare with a twin."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

Function = Callable[[Tensor, Any], Tensor]
Rule = Callable[[Function, Tensor, Any, Tensor], Any]  # of f, p, x and a tangent of p


class Dense(torch.autograd.Function):
    """The identity, for what can't take a sparse gradient."""

    @staticmethod
    def forward(ctx: Any, p: Tensor) -> Tensor:
        return p.view_as(p)

    @staticmethod
    def backward(ctx: Any, *dp: Tensor) -> Tensor:
        return dp[0].to_dense()


def with_dense_gradient(p: Tensor) -> Tensor:
    """p, which is part of a larger tensor; under transforms gradients are dense by themselves."""
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return p
    dense: Any = Dense.apply
    result: Tensor = dense(p)
    return result


def energy(f: Function) -> Function:
    """A scalar of which all derivatives depend on where they are taken."""

    def scalar(p: Tensor, x: Any) -> Tensor:
        return f(p, x).sin().sum()

    return scalar


def _strided(g: Tensor) -> Tensor:
    return g.to_dense() if g.layout is not torch.strided else g


def _leaf(p: Tensor) -> Tensor:
    return p.detach().clone().requires_grad_()


def _backward(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    p = _leaf(p)
    return _strided(torch.autograd.grad(energy(f)(p, x), p)[0])


def _double_backward(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    """A product with the Hessian, without torch.func."""
    p = _leaf(p)
    (g,) = torch.autograd.grad(energy(f)(p, x), p, create_graph=True)
    return _strided(torch.autograd.grad((_strided(g) * dp).sum(), p)[0])


def _forward_ad(f: Function, p: Tensor, x: Any, dp: Tensor) -> tuple[Tensor, Tensor | None]:
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(f(forward_ad.make_dual(p, dp), x))
        return y.primal, y.tangent


def _forward_over_backward(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor | None:
    p = _leaf(p)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(p, dp)
        (g,) = torch.autograd.grad(energy(f)(dual, x), dual, create_graph=True)
        return forward_ad.unpack_dual(_strided(g)).tangent


def _backward_over_forward(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    p = _leaf(p)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(energy(f)(forward_ad.make_dual(p, dp), x)).tangent
        assert tangent is not None
        return _strided(torch.autograd.grad(tangent, p)[0])


def _vjp(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    y, pulled = vjp(lambda p: f(p, x), p)
    result: Tensor = pulled(y.detach().cos())[0]  # when the transform is over
    return result


def _tangent(f: Function, p: Tensor, x: Any, dp: Tensor) -> Tensor:
    result: Tensor = jvp(lambda p: f(p, x), (p,), (dp,))[1]
    return result


def _nested_tangents(f: Function, p: Tensor, x: Any, dp: Tensor) -> Any:
    return _tangent(lambda p, x: _tangent(energy(f), p, x, dp), p, x, p)


def _three(p: Tensor, dp: Tensor) -> Tensor:
    return torch.stack([p, dp, p - dp])


def _over_x(f: Function) -> Function:
    return vmap(f, in_dims=(None, 0))


RULES: Mapping[str, Rule] = {
    "backward": _backward,
    "double backward": _double_backward,
    "forward_ad": _forward_ad,
    "forward_ad over backward": _forward_over_backward,
    "backward over forward_ad": _backward_over_forward,
    "grad": lambda f, p, x, dp: grad(energy(f))(p, x),
    "vjp": _vjp,
    "jvp": lambda f, p, x, dp: jvp(lambda p: f(p, x), (p,), (dp,)),
    "jacrev": lambda f, p, x, dp: jacrev(f)(p, x),
    "jacfwd": lambda f, p, x, dp: jacfwd(f)(p, x),
    "hessian": lambda f, p, x, dp: hessian(energy(f))(p, x),
    "jacrev of jacrev": lambda f, p, x, dp: jacrev(jacrev(energy(f)))(p, x),
    "jacfwd of jacfwd": lambda f, p, x, dp: jacfwd(jacfwd(energy(f)))(p, x),
    "jvp of grad": lambda f, p, x, dp: _tangent(lambda p, x: grad(energy(f))(p, x), p, x, dp),
    "grad of jvp": lambda f, p, x, dp: grad(lambda p: _tangent(energy(f), p, x, dp))(p),
    "jvp of jvp": _nested_tangents,
    "vmap": lambda f, p, x, dp: vmap(lambda p: f(p, x))(_three(p, dp)),
    "vmap over the last": lambda f, p, x, dp: vmap(lambda p: f(p, x), -1)(_three(p, dp).movedim(0, -1).contiguous()),
    "vmap of grad": lambda f, p, x, dp: vmap(lambda p: grad(energy(f))(p, x))(_three(p, dp)),
    "vmap of jvp": lambda f, p, x, dp: vmap(lambda d: _tangent(f, p, x, d))(_three(p, dp)),
    "vmap of vmap": lambda f, p, x, dp: vmap(vmap(lambda p: f(p, x)))(torch.stack([_three(p, dp), _three(dp, p)])),
}

# x is a stack of three
MAPPED: Mapping[str, Rule] = {
    "vmap over x": lambda f, p, x, dp: _over_x(f)(p, x),
    "vmap over both": lambda f, p, x, dp: vmap(f)(_three(p, dp), x),
    "vmap over x of vmap": lambda f, p, x, dp: vmap(lambda x: vmap(lambda p: f(p, x))(_three(p, dp)))(x),
    "gradients of samples": lambda f, p, x, dp: vmap(grad(energy(f)), in_dims=(None, 0))(p, x),
    "tangents of samples": lambda f, p, x, dp: vmap(lambda x: _tangent(f, p, x, dp))(x),
    "hessians of samples": lambda f, p, x, dp: vmap(hessian(energy(f)), in_dims=(None, 0))(p, x),
    "grad of vmap": lambda f, p, x, dp: grad(energy(_over_x(f)))(p, x),
    "jvp of vmap": lambda f, p, x, dp: _tangent(_over_x(f), p, x, dp),
    "double backward of vmap": lambda f, p, x, dp: _double_backward(_over_x(f), p, x, dp),
}


def compare(rules: Mapping[str, Rule], f: Function, twin: Function, p: Tensor, x: Any, atol: float = 1e-12) -> None:
    """f and its twin by each of these rules; the error names the rule."""
    tangent = torch.randn_like(p)
    for name, rule in rules.items():
        expected, wide = rule(twin, p.double(), x, tangent.double()), p.dtype is torch.float64
        try:
            got = rule(f, p, x, tangent)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        torch.testing.assert_close(
            got, expected, rtol=1e-11 if wide else 1e-4, atol=atol if wide else 1e-5, check_dtype=wide,
            msg=lambda message, name=name: f"{name}: {message}",
        )  # fmt: skip
