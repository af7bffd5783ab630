"""Models for images as timm and torchvision write them: made sparse by rules, trained with edges that change, saved."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from vision_models import ResNet, VisionTransformer

import sparsetrain as st

RULES: dict[Callable[[], nn.Module], dict[Any, Any]] = {
    VisionTransformer: {"blocks.*.mlp.*": 0.2, r"re:blocks\..*\.(qkv|proj)": 0.4},
    ResNet: {"fc": 0.3},
}
KEPT_DENSE = {VisionTransformer: ["patches", "head"], ResNet: ["conv1", "conv2"]}


@pytest.mark.parametrize("make", RULES)
@pytest.mark.parametrize("autocast", [False, True])
def test_it_learns_while_its_edges_change_and_goes_on_elsewhere(
    make: Callable[[], nn.Module], autocast: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    x = torch.randn(32, 1, 8, 8)
    y = (x[:, 0, :4].sum((1, 2)) > 0).long() + (x[:, 0, 4:].sum((1, 2)) > 0).long()
    model = st.convert.sparsify(make(), RULES[make])
    dense = [row.name for row in st.summary(model).rows if not row.sparse and "position" not in row.name]
    assert dense == KEPT_DENSE[make]
    optimizer = st.optim.AdamW(model.parameters(), lr=0.01)
    schedule = st.evolve.Cosine(interval=5, stop=30, prune_fraction=0.3)
    evolver = st.evolve.Evolver(model, optimizer, st.evolve.RigL(), schedule)
    first, losses = copy.deepcopy(model.state_dict()), []
    with st.evolve.attach(evolver):
        for _ in range(40):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    edges = [key for key in first if key.endswith("_extra_state")]
    assert all(not torch.equal(model.state_dict()[key], first[key]) for key in edges)

    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = st.convert.sparsify(make(), RULES[make], select="random")
    with st.io.adopt_on_load(other):
        other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(other.eval()(x), model.eval()(x))
