"""Tables and values with pending updates, read by transformed functions: the numbers of a flushed twin."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vjp, vmap

import sparsetrain as st
from sparsetrain.nn import LookupTable, SparseLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's, at its first dual tensor
DOUBLE = torch.float64


def behind(kind: str) -> tuple[Any, Tensor, Any]:
    """A module with pending updates, an input, and the optimizer."""
    torch.manual_seed(0)
    if kind == "edges":
        layer = SparseLinear(6, 4, density=0.6, dtype=DOUBLE, sparse_grad=True)
        optimizer: Any = st.optim.Adam([{"params": [layer.values]}], lr=0.1, unused="dense")
        steps = [torch.nn.functional.one_hot(torch.tensor([c, c]), 6).to(DOUBLE) for c in (0, 1, 2, 3, 0)]
        module: Any = layer
        x = torch.eye(6, dtype=DOUBLE)[:3]
    else:
        module = LookupTable(6, 2, dtype=DOUBLE, pool=None if kind == "rows" else kind)  # type: ignore[arg-type]
        optimizer = st.optim.Adam(module.parameters(), lr=0.1, unused="dense")
        steps = [torch.tensor([ids]) for ids in ([0, 1], [2, 3], [1, 3], [4, 0])]
        x = torch.tensor([[5, 1, 2]])
    for ids in steps:
        optimizer.zero_grad()
        module(ids).pow(2).sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    return module, x, optimizer


def reads(module: Any, x: Tensor) -> dict[str, Callable[[], Any]]:
    name, p = next(iter(module.named_parameters()))

    def call(p: Tensor, x: Tensor = x) -> Tensor:
        y: Tensor = functional_call(module, {name: p}, (x,))
        return y

    def loss(p: Tensor, x: Tensor = x) -> Tensor:
        return call(p, x).sin().sum()

    def dual() -> Any:
        with forward_ad.dual_level():
            y = forward_ad.unpack_dual(call(forward_ad.make_dual(p, torch.ones_like(p))))
            return y.primal, y.tangent

    def under_a_level() -> Tensor:
        with forward_ad.dual_level():
            y: Tensor = module(x)
            return y

    one, pair = torch.ones((), dtype=DOUBLE), torch.stack([x, x])
    return {
        "functional_call": lambda: functional_call(module, dict(module.named_parameters()), (x,)),
        "functional_call of detached": lambda: call(p.detach()),
        "grad": lambda: grad(loss)(p),
        "grad of detached": lambda: grad(loss)(p.detach()),
        "grad by something else": lambda: grad(lambda s: (module(x) * s).sum())(one),
        "vjp": lambda: vjp(loss, p)[1](one),
        "jvp": lambda: jvp(call, (p,), (torch.ones_like(p),)),
        "hessian": lambda: hessian(loss)(p),
        "vmap over x": lambda: vmap(module)(pair),
        "vmap over x, detached": lambda: vmap(lambda x: call(p.detach(), x))(pair),
        "vmap over p": lambda: vmap(call)(p.expand(2, *p.shape)),
        "gradients of samples": lambda: vmap(grad(loss), in_dims=(None, 0))(p, pair),
        "forward_ad": dual,
        "a level of forward_ad": under_a_level,
    }


WAYS = list(reads(LookupTable(1, 1), torch.tensor([0])))


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["rows", "sum", "max", "edges"])
def test_what_is_read_is_up_to_date(kind: str, way: str, backend: str) -> None:
    flushed, x, optimizer = behind(kind)
    stale = next(flushed.parameters()).detach().clone()
    optimizer.flush()
    assert not stale.equal(next(flushed.parameters()))  # or the test would say nothing
    late, _, pending = behind(kind)
    with st.ops.use_backend(backend):
        got = reads(late, x)[way]()
    torch.testing.assert_close(got, reads(flushed, x)[way](), rtol=1e-12, atol=1e-13)
    pending.flush()
    torch.testing.assert_close(next(late.parameters()), next(flushed.parameters()), rtol=1e-12, atol=1e-13)


def test_training_goes_on_after_a_transform_as_without_it() -> None:
    results = []
    for look in (False, True):
        table, x, optimizer = behind("rows")
        if look:
            reads(table, x)["grad"]()
        table(torch.tensor([[3, 5]])).pow(2).sum().backward()
        optimizer.step()
        results.append(table.matrix.detach())
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)


def test_a_table_beside_another_in_one_memory() -> None:
    """Both are views of one tensor, as in flattened parameters; each is found when it is read detached."""
    memory = torch.randn(2, 6, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    tables = [LookupTable(6, 2, dtype=DOUBLE) for _ in range(2)]
    for k, table in enumerate(tables):
        table.weight.data = memory[k]
    optimizer = st.optim.SGD([p for table in tables for p in table.parameters()], lr=0.1, momentum=0.9, unused="dense")
    for ids in ([0, 1], [2], [2]):
        optimizer.zero_grad()
        sum(table(torch.tensor(ids)).sum() for table in tables).backward()  # type: ignore[union-attr]
        optimizer.step()
    ids = torch.tensor([0, 1, 5])
    got = [functional_call(table, {"weight": table.weight.detach()}, (ids,)) for table in tables]
    for table, rows in zip(tables, got, strict=True):
        torch.testing.assert_close(rows, table.matrix[ids].detach(), rtol=0, atol=0)
