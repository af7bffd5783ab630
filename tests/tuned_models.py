"""A small model for the tests of fine-tuning, and some steps of it."""

import torch
from torch import Tensor, nn


def mlp(dtype: torch.dtype | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(20, 30, dtype=dtype), nn.ReLU(inplace=True), nn.Linear(30, 10, dtype=dtype))


def fitted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss: Tensor = (model(x) - y).square().mean()
    return loss


def trained(model: nn.Module) -> nn.Module:
    """A few steps, so that values are no zeros."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        fitted(model, torch.randn(8, 20), torch.randn(8, 10)).backward()
        optimizer.step()
    return model
