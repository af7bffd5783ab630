"""torch's own tables of inputs to Linear, Embedding and EmbeddingBag: ours give what torch's give, and refuse what it refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsetrain as st

pytest.importorskip("expecttest", reason="torch's own tables need it")
modules = pytest.importorskip("torch.testing._internal.common_modules")
operations = pytest.importorskip("torch.testing._internal.common_methods_invocations")


def samples(name: str) -> list[Any]:
    (found,) = (op for op in operations.op_db if op.name == f"nn.functional.{name}")
    return list(found.sample_inputs("cpu", torch.float64, requires_grad=False))


def agree(ours: Tensor, theirs: Tensor, leaves: list[tuple[Tensor, Tensor]]) -> None:
    """Outputs and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    push = torch.randn(theirs.shape, dtype=theirs.dtype, generator=torch.Generator().manual_seed(0))
    ours.backward(push)
    theirs.backward(push)
    for mine, other in leaves:
        assert mine.grad is not None
        assert other.grad is not None
        found = mine.grad.to_dense().view_as(other)
        torch.testing.assert_close(found, other.grad.to_dense(), rtol=1e-12, atol=1e-12)


def test_linear() -> None:
    tried = 0
    for sample in samples("linear"):
        x, weight, *bias = sample.input, *sample.args
        if weight.ndim != 2:  # no layer has one
            continue
        linear = nn.Linear(weight.shape[1], weight.shape[0], bool(bias), dtype=torch.float64)
        linear.load_state_dict({"weight": weight} | ({"bias": bias[0]} if bias else {}))
        layer = st.nn.SparseLinear.from_dense(linear, torch.ones_like(weight, dtype=torch.bool))
        mine, other = (x.detach().clone().requires_grad_() for _ in range(2))
        agree(layer(mine), linear(other), [(mine, other), (layer.values, linear.weight)])
        tried += 1
    assert tried > 10


@pytest.mark.parametrize("name", ["embedding", "embedding_bag"])
def test_lookups(name: str) -> None:
    tried = 0
    for sample in samples(name):
        weight, ids = sample.input, sample.args[0]
        options = {key: value for key, value in sample.kwargs.items() if key != "sparse"}
        if options.pop("scale_grad_by_freq", False):  # no option of ours
            continue
        inputs = {key: options.pop(key) for key in ("offsets", "per_sample_weights") if key in options}
        pool = options.pop("mode", "mean") if name == "embedding_bag" else None
        table = st.nn.LookupTable(*weight.shape, pool=pool, dtype=torch.float64, **options)
        table.weight.data.copy_(weight)
        twin = nn.Parameter(weight.clone())
        if pool is None:
            expected = functional.embedding(ids, twin, **options)
        else:
            expected = functional.embedding_bag(ids, twin, mode=pool, **inputs, **options)
        agree(table(ids, **inputs), expected, [(table.weight, twin)])
        tried += 1
    assert tried > 5


@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding])
def test_modules(kind: Any) -> None:
    (info,) = (info for info in modules.module_db if info.module_cls is kind)
    described = {"device": "cpu", "dtype": torch.float64, "requires_grad": False, "training": True}
    for case in info.module_inputs_func(info, **described):
        made, given = case.constructor_input, case.forward_input
        theirs = kind(*made.args, **made.kwargs, dtype=torch.float64)
        if kind is nn.Linear:
            ours: Any = st.nn.SparseLinear.from_dense(theirs, torch.ones_like(theirs.weight, dtype=torch.bool))
        else:
            ours = st.nn.LookupTable(theirs.num_embeddings, theirs.embedding_dim, dtype=torch.float64)
            ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(*given.args, **given.kwargs), theirs(*given.args, **given.kwargs))


def test_what_embedding_refuses() -> None:
    (info,) = (info for info in modules.module_db if info.module_cls is nn.Embedding)
    cases = list(
        info.module_error_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=False, training=True)
    )
    assert cases
    for case in cases:
        made, given = case.module_error_input.constructor_input, case.module_error_input.forward_input
        options = {
            {"num_embeddings": "rows", "embedding_dim": "dim"}.get(key, key): v for key, v in made.kwargs.items()
        }
        with pytest.raises((IndexError, TypeError, ValueError), match="LookupTable"):
            st.nn.LookupTable(*made.args, **options)(*given.args, **given.kwargs)
