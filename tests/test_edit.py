"""Changes of edges by themselves, beside a dictionary of edges."""

import re
from typing import Any

import numpy as np
import pytest
import sparsetrain_kernels as kernels
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsetrain_kernels import reference

from sparsetrain import Edit, Topology
from sparsetrain.structure import edit as of_edit


@st.composite
def changes(draw: Any) -> tuple[Topology, list[bool], list[tuple[int, int]]]:
    """A topology, which of its edges stay, and edges that come, in any order; some where an edge went."""
    rows, columns = draw(st.integers(0, 5)), draw(st.integers(0, 6))
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    kinds = draw(
        st.lists(
            st.sampled_from(["none", "kept", "pruned", "grown", "reborn"]), min_size=len(cells), max_size=len(cells)
        )
    )
    mask = torch.tensor([kind in ("kept", "pruned", "reborn") for kind in kinds], dtype=torch.bool).view(rows, columns)
    kept = [kind == "kept" for kind in kinds if kind in ("kept", "pruned", "reborn")]
    grown = [cell for cell, kind in zip(cells, kinds, strict=True) if kind in ("grown", "reborn")]
    return Topology.from_mask(mask), kept, draw(st.permutations(grown))


@settings(deadline=None)
@given(changes(), st.booleans())
def test_places_before_and_after(change: tuple[Topology, list[bool], list[tuple[int, int]]], as_places: bool) -> None:
    t, kept, grown = change
    before = list(zip(t.row.tolist(), t.col.tolist(), strict=True))
    pair = ([i for i, _ in grown], [j for _, j in grown]) if grown else None
    edit = Edit(
        t, [k for k, stays in enumerate(kept) if stays] if as_places else torch.tensor(kept, dtype=torch.bool), pair
    )
    expected = {edge: k for k, (edge, stays) in enumerate(zip(before, kept, strict=True)) if stays} | dict.fromkeys(
        grown, -1
    )
    after = sorted(expected)
    assert list(zip(edit.topology.row.tolist(), edit.topology.col.tolist(), strict=True)) == after
    assert edit.source.tolist() == [expected[edge] for edge in after]
    assert edit.pruned.tolist() == [k for k, stays in enumerate(kept) if not stays]
    assert edit.grown.tolist() == [k for k, edge in enumerate(after) if expected[edge] < 0]
    assert edit.before is t
    Topology(edit.topology.crow, edit.topology.col, t.shape)  # canonical
    crow, col = of_edit._grown("here", t, pair)
    plain, source = of_edit._merged_by_torch("here", t, torch.tensor(kept, dtype=torch.bool), crow, col)
    assert plain.digest == edit.topology.digest
    assert torch.equal(source, edit.source)
    revived = Edit(t, torch.tensor(kept, dtype=torch.bool), pair, revive=True)
    assert revived.topology.digest == edit.topology.digest
    assert revived.source.tolist() == [before.index(edge) if edge in before else -1 for edge in after]
    assert torch.equal(
        of_edit._merged_by_torch("here", t, torch.tensor(kept, dtype=torch.bool), crow, col, True)[1], revived.source
    )
    between = Edit.between(t, edit.topology)
    assert between.source.tolist() == [before.index(edge) if edge in before else -1 for edge in after]


@settings(deadline=None)
@given(
    st.lists(st.integers(-1, 5), max_size=20),
    st.sampled_from([np.int32, np.int64]),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_carrying_kernel_and_its_twin(source: list[int], index: Any, number: Any) -> None:
    old = np.array([0.5, -1.5, np.nan, np.inf, 4.0, -0.0], number)
    new, twin = (np.empty(len(source), number) for _ in range(2))
    kernels.carry(np.array(source, index), old, new, 0.25)
    reference.carry(np.array(source, index), old, twin, 0.25)
    assert new.tobytes() == twin.tobytes()


def test_names_and_a_device_stay() -> None:
    t = Topology.from_edges([("a", "y"), ("b", "y"), ("b", "z")])
    edit = Edit(t, [0, 2], ([1], [0]))
    assert (edit.topology.inputs, edit.topology.outputs) == (t.inputs, t.outputs)
    assert edit.topology.device == t.device
    assert edit.topology.crow.dtype is t.crow.dtype is edit.source.dtype


T = Topology.from_mask([[1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (TypeError, "expected a Topology, got list", ([[1, 0]], [True])),
        (TypeError, "expected kept as booleans or places, got None", (T, None)),
        (ValueError, "booleans of shape (3,)", (T, [True])),
        (IndexError, "from 0 to 2, got 3", (T, [0, 3])),
        (ValueError, "expected each edge once, got 1 again", (T, [1, 1])),
        (ValueError, "got (row 1, column 0), which is kept", (T, [0, 1], ([1], [0]))),
        (ValueError, "each grown edge once, got (row 0, column 1) again", (T, [0], ([0, 0], [1, 1]))),
        (IndexError, "columns of grown from 0 to 1, got 2", (T, [0], ([0], [2]))),
        (IndexError, "rows of grown from 0 to 1, got -1", (T, [0], ([-1], [1]))),
        (ValueError, "as many rows as columns in grown, got 2 and 1", (T, [0], ([0, 1], [1]))),
        (TypeError, "expected grown = (rows, columns)", (T, [0], 5)),
        (TypeError, "rows of grown to hold integers", (T, [0], ([0.5], [1]))),
    ],
)
def test_changes_that_make_no_sense(kind: type[Exception], message: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        Edit(*arguments)


def test_topologies_of_other_shapes() -> None:
    with pytest.raises(ValueError, match="topologies of one shape"):
        Edit.between(T, Topology.from_mask([[1, 0, 1]]))


def test_a_large_change_is_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    t = st_uniform((500, 700), generator)
    kept = torch.rand(t.nnz, generator=generator) > 0.3
    free = (~t.to_mask()).nonzero()
    grown = free[torch.randperm(len(free), generator=generator)[: int((~kept).sum())]]
    edit = Edit(t, kept, (grown[:, 0], grown[:, 1]))
    mask = torch.zeros(t.shape, dtype=torch.bool)
    mask[t.row[kept].long(), t.col[kept].long()] = True
    mask[grown[:, 0], grown[:, 1]] = True
    assert torch.equal(edit.topology.to_mask(), mask)
    numbers = torch.arange(t.nnz)
    stays = edit.source >= 0
    assert torch.equal(numbers[edit.source[stays].long()], numbers[kept])


def st_uniform(shape: tuple[int, int], generator: torch.Generator) -> Topology:
    from sparsetrain import patterns

    return patterns.uniform(shape, 0.2, generator)
