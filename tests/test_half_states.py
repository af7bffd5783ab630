"""Models in half precision that are loaded, moved and converted, and types that no layer has."""

from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st

HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
INPUTS, OUTPUTS = 12, 10


@HALVES
@pytest.mark.parametrize("assign", [False, True])
def test_checkpoints_in_half_precision_are_loaded_wide(half: torch.dtype, assign: bool) -> None:
    model = nn.Sequential(st.nn.LookupTable(5, 3), st.nn.SparseLinear(3, 2, density=0.5))
    state = {key: t.to(half) if t.is_floating_point() else t for key, t in model.state_dict().items()}
    model.load_state_dict(state, assign=assign)
    assert model[0].weight.dtype is model[1].values.dtype is torch.float32
    torch.testing.assert_close(model[1].values.to(half), state["1.values"], rtol=0, atol=0)
    assert state["1.values"].dtype is half
    model(torch.tensor([[1, 2]])).sum().backward()


@HALVES
def test_a_model_that_was_sparsified_in_half_precision_moves(half: torch.dtype) -> None:
    """From device to device no parameter changes its type, and so the dense model that is made of it computes."""
    model = st.convert.sparsify(nn.Sequential(nn.Linear(INPUTS, OUTPUTS), nn.Linear(OUTPUTS, 4)).to(half), 0.5)
    before = [p.dtype for p in model.parameters()]
    assert [p.dtype for p in model.to("cpu").parameters()] == before
    assert st.convert.densify(model)(torch.randn(4, INPUTS).to(half)).dtype is half
    assert {p.dtype for p in model.float().parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", [st.nn.SparseLinear, st.nn.LookupTable])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.complex64])
def test_types_that_no_layer_has(kind: Any, dtype: torch.dtype) -> None:
    options = {"density": 0.5} if kind is st.nn.SparseLinear else {}
    with pytest.raises(TypeError, match=f"{kind.__name__}: expected dtype float32, .* got {dtype}"):
        kind(3, 2, dtype=dtype, **options)
