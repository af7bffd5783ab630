"""What is carried along when edges change: the next steps are those of a layer that was made with the state by hand."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import sparsetrain as st
from sparsetrain import Edit
from sparsetrain.nn import MaskedLinear, SparseDeltaLinear, SparseLinear
from sparsetrain.optim import carry

MAKE: dict[str, Callable[..., Any]] = {
    "SGD": lambda p, **o: torch.optim.SGD(p, lr=0.1, momentum=0.9, **o),
    "Adam": lambda p, **o: torch.optim.Adam(p, lr=0.01, amsgrad=True, **o),
    "AdamW": lambda p, **o: torch.optim.AdamW(p, lr=0.01, **o),
    "Adamax": lambda p, **o: torch.optim.Adamax(p, **o),
    "NAdam": lambda p, **o: torch.optim.NAdam(p, **o),
    "RAdam": lambda p, **o: torch.optim.RAdam(p, **o),
    "RMSprop": lambda p, **o: torch.optim.RMSprop(p, momentum=0.5, centered=True, **o),
    "Rprop": lambda p, **o: torch.optim.Rprop(p, lr=0.02, **o),
    "Adagrad": lambda p, **o: torch.optim.Adagrad(p, initial_accumulator_value=0.3, **o),
    "Adadelta": lambda p, **o: torch.optim.Adadelta(p, **o),
    "ASGD": lambda p, **o: torch.optim.ASGD(p, t0=2, **o),
    "Adafactor": lambda p, **o: torch.optim.Adafactor(p),
    "our SGD": lambda p, **_: st.optim.SGD(p, lr=0.1, momentum=0.9),
    "our RMSprop": lambda p, **_: st.optim.RMSprop(p, momentum=0.5, bias_correction="row"),
    "our Adagrad": lambda p, **_: st.optim.Adagrad(p, initial_accumulator_value=0.3),
    "our Adam": lambda p, **_: st.optim.Adam(p, lr=0.01, amsgrad=True),
    "our AdamW dense": lambda p, **_: st.optim.AdamW(p, lr=0.01, unused="dense"),
}
FILLS = {"step_size": 0.02, "sum": 0.3}
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")
CASES = [(name, {}) for name in MAKE]
CASES += [(name, {"foreach": True}) for name in MAKE if name[:3] != "our" and name != "Adafactor"]
CASES += [(name, {"fused": True}) for name in FUSED]


def layer_of(seed: int = 0, **options: Any) -> SparseLinear:
    generator = torch.Generator().manual_seed(seed)
    return SparseLinear(7, 6, density=0.5, generator=generator, **options)


def step(layer: Any, optimizer: Any, seed: int) -> None:
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)).to(layer.bias)
    optimizer.zero_grad()
    layer(x).square().sum().backward()
    optimizer.step()


def change(t: st.Topology, prune: int, grow: int) -> Edit:
    """Some edges go, others come, among them one that went."""
    kept = torch.ones(t.nnz, dtype=torch.bool)
    kept[torch.randperm(t.nnz, generator=torch.Generator().manual_seed(1))[:prune]] = False
    free = (~t.to_mask()).nonzero()[:: max(1, (t.numel - t.nnz) // max(1, grow))][: max(0, grow - 1)]
    reborn = (~kept).nonzero()[:1, 0]
    rows, cols = torch.cat([free[:, 0], t.row[reborn]]), torch.cat([free[:, 1], t.col[reborn]])
    return Edit(t, kept, (rows, cols) if grow else None)


def by_hand(old: Tensor, edit: Edit, fill: Any) -> Tensor:
    """The map, entry by entry."""
    born = iter(fill.tolist() if isinstance(fill, Tensor) else [fill] * int((edit.source < 0).sum()))
    return torch.tensor([old[s].item() if s >= 0 else next(born) for s in edit.source.tolist()], dtype=old.dtype)


@pytest.mark.parametrize(("prune", "grow"), [(6, 6), (8, 3), (2, 7)])
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name} {next(iter(o), '')}" for name, o in CASES])
def test_the_next_steps_are_those_of_a_state_made_by_hand(
    name: str, options: dict[str, bool], prune: int, grow: int
) -> None:
    layer = layer_of()
    optimizer = MAKE[name](layer.parameters(), **options)
    for seed in range(4):
        step(layer, optimizer, seed)
    if name.startswith("our"):
        optimizer.flush()
    p, edit = layer.values, change(layer.topology, prune, grow)
    born = torch.linspace(0.1, 0.2, grow)
    state, values, grad = copy.deepcopy(optimizer.state_dict()), p.detach().clone(), p.grad.clone()
    memory = [t.data_ptr() for t in (p, p.grad, *each(optimizer.state[p]))]
    carry(optimizer, {layer: edit}, values={layer: born})
    assert layer.values is p
    assert layer.topology is edit.topology
    assert torch.equal(p, by_hand(values, edit, born))
    assert torch.equal(p.grad, by_hand(grad, edit, 0.0))
    if prune == grow:
        now = [t.data_ptr() for t in (p, p.grad, *each(optimizer.state[p]))]
        assert memory == now[: len(memory)]

    twin = SparseLinear(7, 6, topology=edit.topology)
    with torch.no_grad():
        twin.values.copy_(p)
        twin.bias.copy_(layer.bias)
    for kept, value in state["state"][0].items():
        if isinstance(value, Tensor) and value.ndim:
            fill = born if kept == "ax" else 0 if kept == "row_steps" else FILLS.get(kept, 0.0)
            state["state"][0][kept] = by_hand(value, edit, fill)
    if name == "our Adam":
        state["state"][0]["row_steps"] = torch.where(edit.source < 0, 0, 4).int()
    other = MAKE[name](twin.parameters(), **options)
    other.load_state_dict(state)
    for seed in range(4, 8):
        step(layer, optimizer, seed)
        step(twin, other, seed)
        assert torch.equal(layer.values, twin.values)


def each(state: dict[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor) and value.ndim]


# ---- the first move of a newborn edge --------------------------------------------------------------------------------


def first_move(optimizer: Any, p: nn.Parameter, layer: SparseLinear, before: int) -> float:
    """In units of the learning rate, of an edge that is born after so many steps with a steady gradient."""
    for _ in range(before):
        p.grad = torch.ones_like(p)
        optimizer.step()
    edit = Edit(layer.topology, range(1, layer.topology.nnz), ([0], [int((~layer.topology.to_mask()[0]).nonzero()[0])]))
    carry(optimizer, {layer: edit})
    p.grad = torch.ones_like(p)
    optimizer.step()
    return float(p.detach()[edit.grown]) / -0.001


@pytest.mark.parametrize("before", [10, 1000, 10_000])
def test_the_first_move_of_a_newborn_edge_is_lr_at_any_time(before: int) -> None:
    for kind in (st.optim.Adam, st.optim.AdamW):
        layer = layer_of(dtype=torch.float64)
        optimizer = kind([layer.values], lr=0.001)
        if before > 10:  # as if so many steps had been
            step_count = before - 10
            layer.values.grad = torch.ones_like(layer.values)
            optimizer.step()
            optimizer.state[layer.values]["step"].fill_(step_count)
        assert first_move(optimizer, layer.values, layer, 10) == pytest.approx(1.0, rel=1e-6)


def test_torchs_adam_moves_a_newborn_edge_by_its_own_count() -> None:
    """(1 - beta1) / sqrt(1 - beta2) = 3.16 after many steps: as documented, not as wished."""
    for before, expected in ((10, 0.503), (1000, 2.514), (10_000, 3.162)):
        layer = layer_of(dtype=torch.float64)
        optimizer = torch.optim.Adam([layer.values], lr=0.001)
        layer.values.grad = torch.ones_like(layer.values)
        optimizer.step()
        optimizer.state[layer.values]["step"].fill_(before - 10)
        moved = first_move(optimizer, layer.values, layer, 10)
        count = before + 1
        exact = 0.1 / (1 - 0.9**count) / ((0.001 / (1 - 0.999**count)) ** 0.5)
        assert moved == pytest.approx(exact, rel=1e-5)
        assert moved == pytest.approx(expected, rel=0.05)


def test_dampening_counts_births() -> None:
    """The first gradient of a newborn edge enters its buffer whole, as that of a parameter does."""
    layer = layer_of(dtype=torch.float64)
    optimizer = st.optim.SGD([layer.values], lr=1.0, momentum=0.9, dampening=0.5)
    for _ in range(3):
        layer.values.grad = torch.ones_like(layer.values)
        optimizer.step()
    edit = change(layer.topology, 5, 5)
    carry(optimizer, {layer: edit})
    before = layer.values.detach().clone()
    layer.values.grad = torch.ones_like(layer.values)
    optimizer.step()
    moved = before - layer.values.detach()
    torch.testing.assert_close(moved[edit.source < 0], torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(
        moved[edit.source >= 0], torch.full((16,), 0.9 * (0.9 * (0.9 + 0.5) + 0.5) + 0.5).double()
    )


def test_a_row_sparse_gradient_names_the_edges_that_it_named() -> None:
    layer = layer_of(sparse_grad=True)
    layer(torch.eye(7)[:2] * torch.tensor([[1.0], [-1.0]])).sum().backward()
    used = torch.zeros(21, dtype=torch.bool).index_fill(0, layer.values.grad.coalesce().indices()[0], True)
    layer.values.grad._values()[0] = 0.0
    edit = change(layer.topology, 6, 6)
    expected = used[edit.source.clamp(min=0).long()] & (edit.source >= 0)
    carry(None, {layer: edit})
    assert torch.equal(layer.values.grad.coalesce().indices()[0], expected.nonzero().flatten())


# ---- kinds of layers -------------------------------------------------------------------------------------------------


def test_tied_layers_go_on_together() -> None:
    encoder = layer_of()
    decoder = encoder.transposed()
    edit = change(encoder.topology, 4, 4)
    for which in ({encoder: edit}, {decoder: edit}, {encoder: edit, decoder: edit}):
        model = copy.deepcopy(nn.ModuleList([encoder, decoder]))
        layers = {model[0] if layer is encoder else model[1]: e for layer, e in which.items()}
        carry(torch.optim.SGD(model.parameters(), lr=0.1), layers)
        assert model[1].values is model[0].values
        assert model[1].topology is model[0].topology is edit.topology
        x = torch.randn(2, 6)
        torch.testing.assert_close(model[1](x), x @ model[0].to_dense().weight + model[1].bias)
    other = change(encoder.topology, 3, 3)
    with pytest.raises(ValueError, match="expected one edit for layers over one value array"):
        carry(None, {encoder: edit, decoder: other})


def test_edges_beside_a_frozen_weight_start_at_zero() -> None:
    layer = SparseDeltaLinear(nn.Linear(7, 6), st.patterns.uniform((6, 7), 0.5))
    nn.init.ones_(layer.values)
    edit = change(layer.topology, 6, 6)
    carry(None, {layer: edit})
    assert layer.values.tolist() == (edit.source >= 0).float().tolist()


@pytest.mark.parametrize("form", ["forward", "step"])
@pytest.mark.parametrize("name", ["Adam", "our Adam", "SGD", "Adagrad"])
def test_masked_layers_go_on_as_sparse_ones(name: str, form: Any) -> None:
    sparse = layer_of(dtype=torch.float64)
    masked = MaskedLinear.from_sparse(sparse, form=form)
    edit = change(sparse.topology, 6, 6)
    born = torch.linspace(0.1, 0.2, 6)
    for layer in (sparse, masked):
        optimizer = MAKE[name](layer.parameters())
        for seed in range(8):
            step(layer, optimizer, seed)
            if form == "step" and layer is masked:
                layer.apply_mask()
            if seed == 3:
                carry(optimizer, {layer: edit}, values={layer: born})
    assert masked.topology.digest == sparse.topology.digest
    torch.testing.assert_close(masked.to_dense().weight, sparse.to_dense().weight)


def test_constraints_of_all_edges_hold_for_newborn_ones() -> None:
    layer = st.constrain.positive(layer_of(), project=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for seed in range(3):
        step(layer, optimizer, seed)
    raw = layer.parametrizations["values"].original
    before, moments = raw.detach().clone(), optimizer.state[raw]["exp_avg"].clone()
    edit = change(layer.topology, 8, 5)
    carry(optimizer, {layer: edit}, values={layer: torch.full((5,), 0.3)})
    assert layer.parametrizations["values"].original is raw
    assert torch.equal(raw, by_hand(before, edit, 0.3))
    assert torch.equal(optimizer.state[raw]["exp_avg"], by_hand(moments, edit, 0.0))
    for seed in range(9):
        step(layer, optimizer, seed)
    assert bool((layer.values >= 0).all())
    with pytest.raises(ValueError, match=re.escape("expected newborn edges to start from 0.0 to inf")):
        carry(optimizer, {layer: change(layer.topology, 2, 2)}, values={layer: torch.full((2,), -0.3)})


def test_bounds_and_frozen_edges_go_along() -> None:
    layer = st.constrain.frozen(st.constrain.bounded(layer_of(), -2.0, 3.0), edges=[1, 4])
    held = layer.values.detach()[[1, 4]]
    kept = torch.ones(layer.topology.nnz, dtype=torch.bool)
    kept[[0, 5]] = False
    free = (~layer.topology.to_mask()).nonzero()[:3]
    edit = Edit(layer.topology, kept, (free[:, 0], free[:, 1]))
    before = layer.values.detach().clone()
    carry(torch.optim.SGD(layer.parameters(), lr=0.1), {layer: edit})
    torch.testing.assert_close(layer.values.detach(), by_hand(before, edit, 0.0))
    places = [edit.source.tolist().index(k) for k in (1, 4)]
    optimizer = torch.optim.SGD(layer.parameters(), lr=5.0)
    for seed in range(5):
        step(layer, optimizer, seed)
    assert torch.equal(layer.values.detach()[places], held)
    assert bool(((layer.values >= -2) & (layer.values <= 3)).all())
    gone = Edit(layer.topology, [k for k in range(layer.topology.nnz) if k != places[0]])
    with pytest.raises(ValueError, match=f"expected frozen edges to stay, edge {places[0]} would go"):
        carry(None, {layer: gone})


def test_constraints_that_say_nothing_of_newborn_edges() -> None:
    grows, prunes = change(layer_of().topology, 3, 3), change(layer_of().topology, 3, 0)
    signs = torch.tensor([1.0, -1.0]).repeat(11)[:21]
    cases: list[tuple[str, Any]] = [
        ("signs that differ", st.constrain.signed(layer_of(), signs, project=True)),
        ("bounds that do not hold for all", st.constrain.bounded(layer_of(), -1, 1, edges=[0, 1, 2])),
        ("share values by type", st.constrain.shared(layer_of(), [0, 1, 2] * 7, initial=[0.1, 0.2, 0.3])),
    ]
    for message, layer in cases:
        topology, values = layer.topology, layer.values.detach().clone()
        with pytest.raises(ValueError, match=message):
            carry(None, {layer: grows})
        assert layer.topology is topology
        assert torch.equal(layer.values, values)
        carry(None, {layer: prunes})
        torch.testing.assert_close(layer.values.detach(), by_hand(values, prunes, 0.0))


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_nothing_has_changed_after_an_error() -> None:
    first, second = layer_of(), layer_of(3)
    optimizer = torch.optim.Adam([first.values, second.values])
    for layer in (first, second):
        layer.values.grad = torch.ones_like(layer.values)
    optimizer.step()
    edits = {first: change(first.topology, 4, 6), second: change(second.topology, 4, 6)}
    computed = layer_of(3)
    parametrize.register_parametrization(computed, "values", nn.Tanh())
    lbfgs = torch.optim.LBFGS([first.values])
    closure = torch.optim.Adam([first.values])
    closure.state[first.values]["secret"] = torch.ones(first.topology.nnz)
    closure.state[first.values]["step"] = torch.tensor(1.0)
    penalized = st.optim.SGD([{"params": [first.values], "l1": torch.ones(21)}], lr=0.1)
    cases: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (ValueError, "an edit of the edges that the SparseLinear has", (optimizer, edits | {second: edits[first]}), {}),
        (
            ValueError,
            "a real number for each of 6 grown edges, got shape (5,)",
            (optimizer, edits),
            {"values": {second: torch.ones(5)}},
        ),
        (
            ValueError,
            "values that are finite in torch.float32, got nan",
            (optimizer, edits),
            {"values": {second: torch.full((6,), torch.nan)}},
        ),
        (ValueError, "values of layers that are edited", (optimizer, edits), {"values": {layer_of(): torch.ones(6)}}),
        (TypeError, "got Linear", (optimizer, edits | {nn.Linear(2, 2): edits[first]}), {}),
        (TypeError, "a dict from layers to Edit", (optimizer, {first: edits[first].topology}), {}),
        (TypeError, "a torch optimizer or None", ("Adam", edits), {}),
        (TypeError, "or constrained by sparsetrain.constrain", (optimizer, edits | {computed: edits[second]}), {}),
        (ValueError, "the state of LBFGS", (lbfgs, edits), {}),
        (ValueError, "got 'secret' of shape (21,)", (closure, edits), {}),
        (ValueError, "an l1 for each value does not say", (penalized, edits), {}),
    ]
    before = [(layer.topology, layer.values.detach().clone(), layer.values.grad.clone()) for layer in (first, second)]
    states = copy.deepcopy(optimizer.state_dict()["state"])
    for kind, message, arguments, options in cases:
        with pytest.raises(kind, match=re.escape(message)):
            carry(*arguments, **options)
        for layer, (topology, values, grad) in zip((first, second), before, strict=True):
            assert layer.topology is topology
            assert torch.equal(layer.values, values)
            assert torch.equal(layer.values.grad, grad)
    for number, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, states[number][name]) for name, value in state.items())


def test_meta_values_and_backward_passes() -> None:
    layer = SparseLinear(7, 6, topology=layer_of().topology, device="meta")
    with pytest.raises(ValueError, match="expected values, the SparseLinear has none yet"):
        carry(None, {layer: change(layer_of().topology, 2, 2)})
    layer = layer_of()
    edit = change(layer.topology, 2, 2)
    loss = layer(torch.ones(1, 7)).sum()
    layer.values.register_hook(lambda g: carry(None, {layer: edit}))
    with pytest.raises(RuntimeError, match="called inside of a backward pass"):
        loss.backward()


def test_a_graph_of_former_edges_is_refused() -> None:
    """Also where the number of edges stays: values in place have another version, and the graph reads them."""
    layer = layer_of()
    x = torch.ones(1, 7, requires_grad=True)
    loss = layer(x).sum()
    carry(None, {layer: change(layer.topology, 2, 2)})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("grown", [2, 1])
@pytest.mark.parametrize("kind", ["constrained", "sparse_grad"])
def test_a_graph_of_former_edges_that_does_not_read_their_numbers(kind: str, grown: int) -> None:
    layer = layer_of(sparse_grad=kind == "sparse_grad")
    if kind == "constrained":
        st.constrain.bounded(layer, -9.0, 9.0)
    loss = layer(torch.ones(1, 7)).sum()
    carry(None, {layer: change(layer.topology, 2, grown)})
    with pytest.raises(RuntimeError, match="the edges were changed after the forward pass"):
        loss.backward()
    assert all(p.grad is None for p in layer.parameters() if p.ndim == 1 and p.numel() > layer.out_features)
    layer(torch.ones(1, 7)).sum().backward()
