"""Structures that are made in pieces: exact sizes, every set equally likely, little more memory than they keep."""

from collections import Counter
from typing import Any

import pytest
import torch

import sparsetrain as st
from sparsetrain import free_memory
from sparsetrain.patterns import pieces
from sparsetrain.structure import index_types


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MAKERS: dict[str, Any] = {
    "uniform": lambda g: st.patterns.uniform((20, 30), 0.3, g),
    "erdos_renyi": lambda g: st.patterns.erdos_renyi((20, 30), 0.3, generator=g),
    "fixed_fan_in": lambda g: st.patterns.fixed_fan_in((20, 30), 7, g),
    "small_world": lambda g: st.patterns.small_world((20, 30), 7, 0.4, g),
    "banded": lambda g: st.patterns.banded((20, 30), 4),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("edges", [1, 10, 64])
def test_pieces_make_canonical_structures(maker: str, edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MAKERS[maker](generator())
    monkeypatch.setattr(pieces, "EDGES", edges)
    t = MAKERS[maker](generator())
    assert st.Topology(t.crow, t.col, t.shape).digest == t.digest
    assert MAKERS[maker](generator()).digest == t.digest
    if maker != "erdos_renyi":
        assert t.nnz == whole.nnz
    if maker in ("fixed_fan_in", "small_world"):
        assert torch.equal(t.fan_in, whole.fan_in)
    if maker == "banded":
        assert t.digest == whole.digest


def test_every_set_of_edges_is_equally_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "EDGES", 1)  # three pieces of one row
    g, rounds = generator(), 4000
    found = Counter(tuple(st.patterns.uniform((3, 2), 0.5, g).to_mask().flatten().tolist()) for _ in range(rounds))
    assert len(found) == 20  # 6 positions, 3 edges
    expected = rounds / 20
    assert sum((count - expected) ** 2 / expected for count in found.values()) < 43.8  # p = 0.001 with 19 degrees


@pytest.mark.parametrize("density", [0.05, 0.5, 0.97])
def test_sizes_are_exact_at_any_density(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "EDGES", 16)
    for seed in range(20):
        assert st.patterns.uniform((25, 40), density, generator(seed)).nnz == round(density * 1000)


def test_memory_that_would_not_suffice_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda: 10**9)
    shape = (60_000, 60_000)
    with pytest.raises(
        MemoryError, match=r"patterns.uniform: expected memory for 1,800,000,000 edges, 3.7. GB, got 1.00"
    ):
        st.patterns.uniform(shape, 0.5)
    with pytest.raises(MemoryError, match=r"patterns.fixed_fan_in: .* 1,200,000,000 edges"):
        st.patterns.fixed_fan_in(shape, 20_000)
    random = torch.get_rng_state()
    with pytest.raises(MemoryError, match=r"SparseLinear: expected memory for 360,000,000 edges, 2.16 GB, got 1.00 GB"):
        st.nn.SparseLinear(60_000, 60_000, density=0.1)
    assert torch.equal(torch.get_rng_state(), random)
    assert st.patterns.uniform((100, 100), 0.5).nnz == 5000
    monkeypatch.setattr(free_memory, "available", lambda: None)  # where nothing says
    free_memory.check("here", 1, 10**18)


def test_the_least_of_all_limits_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    monkeypatch.setattr(free_memory, "GROUP", tmp_path)
    assert free_memory.available() == 150_000
    (tmp_path / "memory.max").write_text("max\n")
    free = free_memory.available()
    assert free is None or free > 150_000


def test_a_digest_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    t = st.patterns.uniform((20, 30), 0.3, generator())
    monkeypatch.setattr(index_types, "PIECE", 7)
    assert st.Topology(t.crow, t.col, t.shape).digest == t.digest
