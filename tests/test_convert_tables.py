"""Embeddings turned into tables: what they compute, what stays, and which are refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.convert import to_lookup_tables
from sparsetrain.nn import LookupTable


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Model(nn.Module):
    """Words and bags of them, beside a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 4, padding_idx=0, max_norm=2.0)
        self.bags = nn.EmbeddingBag(50, 4, mode="mean")
        self.head = nn.Linear(4, 50, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.words(ids).mean(1) + self.bags(ids))
        return y


IDS = torch.tensor([[0, 3, 3], [7, 1, 2]])


def test_it_computes_and_trains_what_it_did() -> None:
    dense = Model()
    weight, ids = dense.words.weight, IDS
    model = to_lookup_tables(copy.deepcopy(dense))
    assert [type(module) for module in model.children()] == [LookupTable, LookupTable, nn.Linear]
    assert to_lookup_tables(dense).words.weight is weight  # the Parameter itself
    dense = copy.deepcopy(Model())
    dense.load_state_dict(model.state_dict())
    for each, optimizer in (
        (dense, torch.optim.SGD(dense.parameters(), lr=0.1)),
        (model, st.optim.SGD(model.parameters(), lr=0.1)),
    ):
        for _ in range(3):
            optimizer.zero_grad()
            each(ids).square().sum().backward()
            optimizer.step()
    assert model.words.weight.grad is not None
    assert model.words.weight.grad.is_sparse
    assert model.bags.weight.grad.is_sparse
    for one, other in zip(model.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_what_stays() -> None:
    model = Model().eval()
    model.words.weight.requires_grad_(False)
    seen: list[Any] = []
    model.words.register_forward_hook(lambda *_: seen.append(1))
    to_lookup_tables(model)
    model(IDS)
    assert (seen, model.words.training, model.words.weight.requires_grad) == ([1], False, False)
    assert (model.words.num_embeddings, model.words.padding_idx, model.words.max_norm) == (50, 0, 2.0)
    assert type(to_lookup_tables(nn.Embedding(3, 2))) is LookupTable


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"only": "words"}, [LookupTable, nn.EmbeddingBag]),
        ({"only": ["w*"]}, [LookupTable, nn.EmbeddingBag]),
        ({"only": nn.EmbeddingBag}, [nn.Embedding, LookupTable]),
        ({"skip": "re:b.*"}, [LookupTable, nn.EmbeddingBag]),
    ],
    ids=str,
)
def test_rules(options: dict[str, Any], kinds: list[type]) -> None:
    model = to_lookup_tables(Model(), **options)
    assert [type(model.words), type(model.bags)] == kinds


def test_tied_to_a_head_it_stays_and_by_a_rule_it_is_refused() -> None:
    model = Model()
    model.head.weight = model.words.weight
    with pytest.raises(ValueError, match=r"the weight of 'words' is head\.weight too, whose gradient is dense\. Leave"):
        to_lookup_tables(model, only="*")
    assert isinstance(model.bags, nn.EmbeddingBag)
    to_lookup_tables(model)
    assert [type(model.words), type(model.bags)] == [nn.Embedding, LookupTable]
    with pytest.raises(ValueError, match="found none in Model, but for 'words', which is tied"):
        to_lookup_tables(model)


def test_embeddings_tied_to_each_other_are_one_table() -> None:
    model = Model()
    model.bags.weight = model.words.weight
    assert to_lookup_tables(model).bags.weight is model.words.weight


def test_half_precision_becomes_float32_and_gives_halves() -> None:
    embedding = nn.Embedding(9, 4, dtype=torch.bfloat16)
    expected = embedding(torch.tensor([3, 1]))
    table = to_lookup_tables(embedding)
    assert table.weight.dtype is torch.float32
    assert torch.equal(table(torch.tensor([3, 1])), expected)


def refused(message: str, model: nn.Module, **options: Any) -> None:
    kinds = [type(module) for module in model.modules()]
    with pytest.raises((TypeError, ValueError), match=message):
        to_lookup_tables(model, **options)
    assert [type(module) for module in model.modules()] == kinds


def test_what_is_refused_changes_nothing() -> None:
    refused(r"^convert\.to_lookup_tables: expected a model with embeddings, found none in Linear\.", nn.Linear(3, 4))
    refused(
        "expected rules that match embeddings, 'head' matches none. There are 'words', 'bags'", Model(), only="head"
    )
    refused("names of modules in skip, got 'w'", Model(), skip="w")
    refused("expected names in only", Model(), only=[3])
    scaled = nn.Sequential(nn.Embedding(5, 2), nn.Embedding(5, 2, scale_grad_by_freq=True))
    refused(r"got True in '1'\. Leave it as it is with skip=\['1'\]", scaled)
    halves = nn.Sequential(nn.Embedding(5, 2, dtype=torch.float16), nn.Embedding(5, 2, dtype=torch.float16))
    halves[1].weight = halves[0].weight
    refused("expected one embedding for each weight in half precision", halves)
