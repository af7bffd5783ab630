"""Convolutions on every device that there is, beside torch's own in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.dtypes import wide

NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
activations = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
CASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "1d": (st.nn.SparseConv1d, nn.Conv1d, {"kernel_size": 5, "dilation": 2, "padding": "same"}),
    "2d": (st.nn.SparseConv2d, nn.Conv2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    "2d, groups": (st.nn.SparseConv2d, nn.Conv2d, {"kernel_size": (3, 1), "groups": 2, "bias": False}),
    "3d": (st.nn.SparseConv3d, nn.Conv3d, {"kernel_size": 2, "padding": 1, "padding_mode": "circular"}),
}
cases = pytest.mark.parametrize("case", CASES)


def images(case: str, device: str, dtype: torch.dtype) -> Tensor:
    space = {"1d": (40,), "3d": (5, 6, 7)}.get(case, (9, 12))
    return torch.randn(3, 8, *space).to(device, dtype)


def results(layer: nn.Module, weight: Tensor, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the gradients of x and of what the weight is made of."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)


@devices
@activations
@cases
def test_outputs_and_gradients(case: str, device: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sparse, dense, how = CASES[case]
    layer = sparse(8, 6, density=0.3, **how).to(device)
    x = images(case, device, dtype)
    dy = torch.randn_like(layer(x))
    twin = dense(8, 6, dtype=torch.float64, device=device, **how)
    twin.load_state_dict(layer.to_dense().state_dict())
    sizes = dense(8, 6, dtype=torch.float64, device=device, **how)
    sizes.load_state_dict({name: value.abs() for name, value in twin.state_dict().items()})
    t = layer.topology

    def stored(y: Tensor, dx: Tensor, dweight: Tensor) -> list[Tensor]:
        return [y, dx, dweight.flatten(1)[t.row.long(), t.col.long()]]

    exact = stored(*results(twin, twin.weight, x.double(), dy.double()))
    of_sizes = stored(*results(sizes, sizes.weight, x.double().abs(), dy.double().abs()))
    with torch.backends.cudnn.flags(allow_tf32=False):
        got = results(layer, layer.values, x, dy)
    assert [each.dtype for each in got] == [dtype, dtype, wide(dtype)]
    for result, right, size in zip(got, exact, of_sizes, strict=True):
        # a GPU rounds the weight to half precision as well, and cuDNN its gradient; what is circular adds up in it
        kind, rounds = (dtype, 4) if device == "cuda" else (result.dtype, 1)
        rounds *= 8 if "padding_mode" in how else 1
        allowed = rounds * torch.finfo(kind).eps / 2 + 200 * torch.finfo(wide(dtype)).eps
        assert ((result.double() - right).abs() <= allowed * size).all()


@devices
@pytest.mark.parametrize("case", ["2d", "3d"])
def test_training_with_edges_that_change(case: str, device: str) -> None:
    """The steps of a GPU are those of a CPU, up to rounding: edges, values and moments."""
    sparse, _, how = CASES[case]
    losses = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        x = images(case, "cpu", torch.float32).to(place)
        layer = sparse(8, 6, density=0.3, **how).to(place)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        schedule = st.evolve.Constant(interval=2, start=2, prune_fraction=0.3)
        evolver = st.evolve.Evolver(layer, optimizer, st.evolve.RigL(), schedule)
        for _ in range(5):
            optimizer.zero_grad()
            loss = layer(x).square().mean()
            loss.backward()
            optimizer.step()
            evolver.step()
        losses.append(loss.item())
        assert layer.values.device.type == place
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
