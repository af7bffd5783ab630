"""MaskedLinear, the oracle of other tests: against literal values and plain torch."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sparsetrain as st
from sparsetrain.nn import MaskedLinear, SparseLinear

FORMS = ["forward", "step"]
MASK = [[1, 0, 1], [0, 1, 0]]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("form", FORMS)
def test_literal_values(form: Any) -> None:
    layer = MaskedLinear(3, 2, mask=MASK, form=form)
    assert (layer.weight != 0).int().tolist() == MASK
    st.init.constant_(layer, 2.0)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
    x = torch.tensor([1.0, 2.0, 3.0])
    assert layer(x).tolist() == [18.0, 24.0]
    layer(x).sum().backward()
    everywhere = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    masked = [[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]]
    assert layer.weight.grad.tolist() == (masked if form == "forward" else everywhere)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam], ids=lambda kind: kind.__name__)
def test_both_forms_train_alike(form: Any, kind: Callable[..., torch.optim.Optimizer]) -> None:
    sparse = SparseLinear(6, 5, density=0.4, dtype=torch.float64)
    layer = MaskedLinear.from_sparse(sparse, form=form)
    x, target = torch.randn(9, 6, dtype=torch.float64), torch.randn(9, 5, dtype=torch.float64)
    for model in (sparse, layer):
        optimizer = kind(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            (model(x) - target).square().mean().backward()
            optimizer.step()
            if model is layer and form == "step":
                assert layer.weight[layer.mask == 0].count_nonzero() > 0
                layer.apply_mask()
    assert layer.weight[layer.mask == 0].count_nonzero() == 0
    torch.testing.assert_close(layer.weight, sparse.to_dense().weight, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.bias, sparse.bias, rtol=1e-12, atol=1e-12)


def test_density_topology_and_mask_say_the_same() -> None:
    t = st.patterns.uniform((5, 6), 0.4)
    layers = [
        MaskedLinear(6, 5, topology=t),
        MaskedLinear(6, 5, mask=t.to_mask()),
        MaskedLinear(6, 5, mask=t.to_mask().double().numpy()),
    ]
    assert {layer.topology.digest for layer in layers} == {t.digest}
    one, other = (MaskedLinear(6, 5, density=0.4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    assert one.topology.nnz == 12
    assert one.topology.digest == other.topology.digest
    assert one.weight.equal(other.weight)


def test_from_sparse_is_a_twin_of_its_own() -> None:
    sparse = SparseLinear(6, 5, density=0.4, dtype=torch.float64).eval()
    with torch.no_grad():
        sparse.values[3] = 0.0  # an edge of weight zero is an edge
    sparse.bias.requires_grad_(False)
    twin = MaskedLinear.from_sparse(sparse)
    assert twin.topology.digest == sparse.topology.digest
    assert twin.weight.equal(sparse.to_dense().weight)
    assert twin.bias.equal(sparse.bias)
    assert (twin.training, twin.weight.requires_grad, twin.bias.requires_grad) == (False, True, False)
    assert twin.weight.dtype is twin.mask.dtype is torch.float64
    with torch.no_grad():
        twin.bias.zero_()
    assert sparse.bias.count_nonzero() == 5
    assert MaskedLinear.from_sparse(SparseLinear(6, 5, False, density=0.4)).bias is None


def test_to_dense_has_zeros_where_the_mask_has() -> None:
    layer = MaskedLinear(3, 2, mask=MASK)
    with torch.no_grad():
        layer.weight += 1.0  # as an optimizer step of the form "step" does
        layer.weight[0, 1] = torch.nan
    dense = layer.to_dense()
    assert dense.weight.equal((layer.weight * layer.mask).nan_to_num())
    assert dense.bias.equal(layer.bias)


def test_state_moves_and_copies() -> None:
    layer = MaskedLinear(3, 2, mask=MASK)
    assert list(layer.state_dict()) == ["weight", "bias", "mask"]
    other = MaskedLinear(3, 2, density=0.5)
    other.load_state_dict(layer.state_dict())
    assert other.topology.digest == layer.topology.digest
    moved = copy.deepcopy(layer).double()
    assert moved.mask.dtype is torch.float64
    assert moved.mask.tolist() == MASK
    meta = MaskedLinear(3, 2, mask=MASK, device="meta")
    assert meta.mask.is_meta
    assert "nnz=0" in repr(meta)


def test_reset_leaves_zeros_where_the_mask_is_zero() -> None:
    layer = MaskedLinear(30, 20, density=0.1)
    with torch.no_grad():
        layer.weight.fill_(7.0)
    layer.reset_parameters()
    assert (layer.weight != 0).equal(layer.mask.bool())
    assert layer.weight.abs().max() <= 3**-0.5


def test_repr() -> None:
    assert repr(MaskedLinear(3, 2, mask=MASK, form="step")) == (
        "MaskedLinear(in_features=3, out_features=2, nnz=3, density=0.5, bias=True, form=step)"
    )
    assert "nnz=0, density=0," in repr(MaskedLinear(0, 2, density=1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MaskedLinear(3, 2), "expected exactly one of density, topology, mask, got none."),
        (lambda: MaskedLinear(3, 2, density=0.5, mask=MASK), "got density and mask."),
        (lambda: MaskedLinear(2, 3, mask=MASK), "MaskedLinear: expected mask of shape (out, in) = (3, 2), got (2, 3)."),
        (lambda: MaskedLinear(3, 2, mask=[[0.5, 0, 0], [0, 0, 0]]), "expected only 0 and 1, got 0.5 at (0, 0)"),
        (lambda: MaskedLinear(3, 2, mask=MASK, form="both"), "expected form to be one of ['forward', 'step']"),
    ],
)
def test_messages(call: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
