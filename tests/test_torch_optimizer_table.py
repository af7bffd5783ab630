"""Every case of torch's own table of optimizers: over dense parameters, ours give what torch's give, bit for bit."""

from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st

pytest.importorskip("expecttest", reason="torch's own table needs it")
table = pytest.importorskip("torch.testing._internal.common_optimizers")

KINDS = ["SGD", "RMSprop", "Adagrad", "Adam", "AdamW"]
SHAPES = [(5, 3), (4,), (), (0, 2)]
FLAGS = [{"foreach": False}, {"foreach": True}, {"fused": True}, {"capturable": True}, {"differentiable": True}]
REFUSED = {"differentiable": "differentiable=True is not supported", "capturable": "capturable=True is not supported"}


def cases() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Kind, options and one flag, where torch's class has it."""
    found = []
    for info in table.optim_db:
        kind = info.optim_cls.__name__
        if kind in KINDS:
            for case in info.optim_inputs_func(device="cpu"):
                for flag in FLAGS:
                    (name,) = flag
                    if name in info.optim_cls([nn.Parameter(torch.ones(1))]).defaults:
                        found.append((kind, dict(case.kwargs), flag))
    return found


CASES = cases()


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, dtype=dtype, generator=generator)) for shape in SHAPES]
    return [*made, nn.Parameter(torch.randn(3, 4, dtype=dtype, generator=generator).t())]


def trained(cls: type, dtype: torch.dtype, options: dict[str, Any], flag: dict[str, Any]) -> list[torch.Tensor]:
    """Parameters and states after steps, one of which leaves a parameter without a gradient."""
    weights = parameters(dtype)
    optimizer = cls(weights, **options, **flag)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        for place, p in enumerate(weights):
            gradient = torch.randn(p.shape, dtype=dtype, generator=generator)
            p.grad = None if step == place == 1 else gradient
        optimizer.step()
    numbers = [p.detach() for p in weights]
    for p in weights:
        numbers += [v for _, v in sorted(optimizer.state[p].items()) if isinstance(v, torch.Tensor)]
    return numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("kind", KINDS)
def test_dense_parameters_step_as_torchs(kind: str, dtype: torch.dtype) -> None:
    ran = 0
    for case, options, flag in CASES:
        (name,) = flag
        if case != kind or name in REFUSED:
            continue
        if name == "fused" and dtype.is_complex:
            continue  # torch's fused kernels have no complex numbers
        given = f"{kind}({options}, {flag}) {dtype}"
        try:
            expected = trained(getattr(torch.optim, kind), dtype, options, flag)
        except (RuntimeError, ValueError):  # a tensor as lr without capturable, for instance
            with pytest.raises((RuntimeError, ValueError)):
                trained(getattr(st.optim, kind), dtype, options, flag)
            continue
        got = trained(getattr(st.optim, kind), dtype, options, flag)
        assert len(got) == len(expected), given
        for a, b in zip(got, expected, strict=True):
            assert a.dtype is b.dtype, given
            assert a.shape == b.shape, given
            assert a.stride() == b.stride(), given
            assert a.equal(b), given
        ran += 1
    assert ran >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_flags_of_graphs_are_refused(kind: str) -> None:
    for case, options, flag in CASES:
        (name,) = flag
        if case == kind and name in REFUSED:
            with pytest.raises(ValueError, match=f"{kind}: {REFUSED[name]}"):
                getattr(st.optim, kind)(parameters(torch.float32), **options, **flag)


@pytest.mark.parametrize(("kind", "other"), [("Adam", "AdamW"), ("AdamW", "Adam")])
def test_where_weights_decay_is_the_class_of_the_optimizer(kind: str, other: str) -> None:
    cls, p = getattr(st.optim, kind), nn.Parameter(torch.ones(2))
    own = kind == "AdamW"
    assert cls([p], decoupled_weight_decay=own).defaults["decoupled_weight_decay"] is own
    refusal = f"{kind}: expected decoupled_weight_decay={own}, got {not own}. Use {other},"
    with pytest.raises(ValueError, match=refusal):
        cls([p], decoupled_weight_decay=not own)
    with pytest.raises(ValueError, match=refusal):
        cls([{"params": [p], "decoupled_weight_decay": not own}])
    optimizer = cls([p])
    p.grad = torch.ones(2)
    optimizer.param_groups[0]["decoupled_weight_decay"] = not own
    with pytest.raises(ValueError, match=refusal):
        optimizer.step()
    assert p.detach().eq(1).all()
