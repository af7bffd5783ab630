"""Program 16 of docs/programs: the training by edges, step by step beside dense weights under a mask in float64."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pages import close, run
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gensim") is None, reason="needs the extra demo")
SIZES = {"FEATURES": 16, "HEAD": 4, "LAYERS": 1, "DENSITY": 0.3, "TOKENS": 8, "SENTENCES": 2, "STEPS": 16}


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """It computes in float64 here, as the twin does."""
    torch.set_default_dtype(torch.float64)
    yield run("p16_weight_sparse_transformer", **SIZES)
    torch.set_default_dtype(torch.float32)


def after_choice(weight: Tensor, mask: Tensor, dim: int, count: int) -> Tensor:
    """The largest four of each neuron, then the largest of what is left."""
    sizes = weight.abs().masked_fill(~mask, -1)
    protected = torch.zeros_like(mask).scatter(dim, sizes.argsort(dim, descending=True).narrow(dim, 0, 4), True)
    order = sizes.masked_fill(protected, torch.inf).flatten().argsort(descending=True)
    return torch.zeros_like(mask).flatten().index_fill(0, order[:count], True).view_as(mask)


def twin_of(page: Any) -> tuple[nn.Module, dict[str, Tensor], list[float]]:
    """Trained with masks that shrink when the page's schedule says so."""
    torch.manual_seed(0)
    model = page.Transformer()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in layers.items()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    losses = []
    for step, ids in enumerate(page.batches(), 1):
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for name, layer in layers.items():
                layer.weight.grad *= masks[name]
            count = sum(p.numel() for p in model.parameters()) - sum(int((~mask).sum()) for mask in masks.values())
            rms = (sum(p.grad.square().sum() for p in model.parameters()) / count).sqrt()
            lr = page.rate(step)
            for name, p in model.named_parameters():
                m, v = moments[name]
                g = p.grad / (rms + 1e-5)
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.95).add_(g * g, alpha=0.05)
                p.mul_(1 - lr * (0.1 if p.ndim == 2 else 0))
                p.sub_(lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 0.1))
            if page.schedule.due(step):
                for name, layer in layers.items():
                    dim = 0 if name.endswith((".out", ".down")) else 1
                    number = round(page.density(step) * layer.weight.numel())
                    masks[name] = after_choice(layer.weight, masks[name], dim, number)
            for name, layer in layers.items():
                layer.weight *= masks[name]
    return model, masks, losses


def test_16_weight_sparse_transformer(page: Any) -> None:
    model, masks, losses = twin_of(page)
    close(page.sparse_losses, losses, atol=1e-10)
    for name, mask in masks.items():
        layer = page.sparse.get_submodule(name)
        assert torch.equal(layer.topology.to_mask(), mask)
        close(layer.to_dense().weight, model.get_submodule(name).weight, atol=1e-9)
        close(layer.bias, model.get_submodule(name).bias, atol=1e-9)
    assert page.edges[0] == sum(mask.numel() for mask in masks.values())
    assert page.edges[-1] == sum(round(0.3 * mask.numel()) for mask in masks.values())
    assert page.difference < 1e-12
    assert "largest difference from the dense twin: " in page.printed
    assert page.read.sum() >= 4
    assert page.written.sum() >= 4


def test_16_the_recipe(page: Any) -> None:
    """It ends with as many weights, four of each neuron, and starts with the same loss."""
    assert page.dense_losses[0] == pytest.approx(page.sparse_losses[0], abs=1e-12)
    for weight, dim in page.matrices:
        alive = weight != 0
        assert int(alive.sum()) == round(0.3 * weight.numel())
        assert int(alive.sum(dim).min()) >= 4
