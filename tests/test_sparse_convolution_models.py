"""Convolutions in whole models: conversions, edges that change, states, graphs, constraints, second order."""

import copy
import io
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.utils import prune

import sparsetrain as st
from sparsetrain import evolve
from sparsetrain.convert import densify, sparsify
from sparsetrain.nn import SparseConv1d, SparseConv2d, SparseConv3d, SparseLinear
from sparsetrain.ops import set_block_bytes

DOUBLE = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=4, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 9, 10),
    )


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 8, 8)


# ---- conversions -----------------------------------------------------------------------------------------------------


def test_one_density_is_for_linear_layers_and_convolutions() -> None:
    model, x = network(), images()
    expected = model(x)
    sparsify(model, 1.0)
    assert [type(model[k]) for k in (0, 3, 6)] == [SparseConv2d, SparseConv2d, SparseLinear]
    torch.testing.assert_close(model(x), expected)
    densify(model)
    assert [type(model[k]) for k in (0, 3, 6)] == [nn.Conv2d, nn.Conv2d, nn.Linear]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("method", ["er", "erk", "uniform"])
def test_how_layers_share_a_density(method: Any) -> None:
    model = network()
    shapes = [(8, 3, 3, 3), (8, 2, 3, 3), (10, 72)]
    sparsify(model, 0.2, method)
    expected = st.patterns.allocate(shapes, 0.2, method)
    found = [model[k].topology.nnz for k in (0, 3, 6)]
    assert found == [round(d * math.prod(shape)) for d, shape in zip(expected, shapes, strict=True)]


def test_the_largest_weights_stay() -> None:
    dense = nn.Conv2d(4, 6, 3, groups=2, dilation=2)
    sparse: Any = sparsify(copy.deepcopy(dense), 0.3)
    size = dense.weight.abs().flatten()
    kept = torch.zeros_like(size, dtype=torch.bool)
    kept[size.argsort(descending=True, stable=True)[: round(0.3 * size.numel())]] = True
    weight = dense.weight.flatten().where(kept, 0.0).view_as(dense.weight)
    assert torch.equal(sparse.to_dense().weight, weight)
    assert isinstance(sparse, SparseConv2d)


@pytest.mark.parametrize("form", ["weight", "matrix", "topology"])
def test_masks_in_any_form(form: str) -> None:
    model, mask = network(), torch.rand(8, 2, 3, 3) < 0.4
    weight = model[3].weight.detach().clone()
    given: Any = {"weight": mask, "matrix": mask.flatten(1), "topology": st.Topology.from_mask(mask.flatten(1))}[form]
    sparsify(model, masks={"3": given})
    assert torch.equal(model[3].to_dense().weight, weight * mask)
    assert type(model[0]) is nn.Conv2d


def test_what_prune_has_left() -> None:
    model, x = network(), images()
    prune.l1_unstructured(model[3], "weight", 0.7)
    expected = model(x)
    (row,) = [row for row in st.summary(model).rows if row.name == "3"]
    assert row.edges == 43
    sparsify(model)
    assert model[3].topology.nnz == 43
    torch.testing.assert_close(model(x), expected)


def test_rules_by_class_and_name() -> None:
    model = network()
    sparsify(model, {"0": None, nn.Conv2d: 0.25, "*": 0.1})
    assert type(model[0]) is nn.Conv2d
    assert [model[3].topology.density, model[6].topology.density] == [0.25, 0.1]


def test_everything_else_of_a_layer_stays() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    model[0].mine = "kept"
    calls: list[str] = []
    model[0].register_forward_hook(lambda *_: calls.append("called"))
    model.eval()
    bias, padding = model[0].bias, model[3].padding
    sparsify(model, 0.5)
    assert not model[0].values.requires_grad
    assert model[0].mine == "kept"
    assert model[0].bias is bias
    assert not model[0].training
    model(images())
    densify(model)
    assert not hasattr(model[0], "geometry")
    assert model[3].padding == padding
    assert model[0].bias is bias
    model(images())
    assert calls == ["called"] * 2


def test_half_precision_models() -> None:
    model = network().to(torch.bfloat16)
    sparsify(model, 0.5)
    assert model[0].values.dtype is torch.float32
    assert model(images().to(torch.bfloat16)).dtype is torch.bfloat16
    densify(model)
    assert model[0].bias.dtype is torch.bfloat16


@pytest.mark.parametrize("sparse", [SparseConv1d, SparseConv2d, SparseConv3d])
def test_there_and_back(sparse: Any) -> None:
    size = (6, 7, 8)[: sparse.dimensions]
    layer = sparse(4, 6, 2, padding="same", dilation=2, groups=2, density=0.3)
    dense = layer.to_dense()
    back = sparse.from_dense(dense)
    assert back.topology.digest == layer.topology.digest
    assert torch.equal(back.values, layer.values)
    assert repr(back) == repr(layer)
    x = torch.randn(2, 4, *size)
    torch.testing.assert_close(layer(x), dense(x))


def test_the_summary_says_what_is_there() -> None:
    model = network()
    dry = sparsify(model, {nn.Conv2d: 0.25}, dry_run=True)
    sparsify(model, {nn.Conv2d: 0.25})
    for summary in (dry, st.summary(model)):
        rows = {row.name: row for row in summary.rows}
        assert [rows[name].kind for name in ("0", "3", "6")] == ["SparseConv2d", "SparseConv2d", "Linear"]
        assert rows["3"].shape == (8, 2, 3, 3)
        assert (rows["3"].edges, rows["3"].density, rows["3"].value_bytes) == (36, 0.25, 144)


# ---- edges that change -----------------------------------------------------------------------------------------------


class Masked:
    """The dense twin of a convolution, whose gradient of absent positions is seen."""

    def __init__(self, layer: SparseConv2d) -> None:
        dense = layer.to_dense()
        self.weight = dense.weight.detach().requires_grad_()
        self.mask = layer.topology.to_mask().view(layer.weight_shape)
        self.gradient = torch.empty(0)
        self.options = {"stride": layer.stride, "padding": 1, "groups": layer.groups}

    def __call__(self, x: Tensor) -> Tensor:
        effective = self.weight * self.mask
        effective.register_hook(self._came)  # type: ignore[no-untyped-call]
        return conv2d(x, effective, **self.options)

    def _came(self, gradient: Tensor) -> None:
        self.gradient = gradient

    def prune_and_grow(self, count: int) -> None:
        """As RigL: the smallest values go, the largest gradients come among what is left."""
        size = self.weight.detach().abs().flatten()
        edges = self.mask.flatten().nonzero().flatten()
        kept = torch.zeros_like(size, dtype=torch.bool)
        kept[edges[size[edges].argsort(stable=True)[count:]]] = True
        free = (~kept).nonzero().flatten()
        grown = free[self.gradient.abs().flatten()[free].argsort(descending=True, stable=True)[:count]]
        stays = kept & self.mask.flatten()
        mask = kept.index_fill(0, grown, True)
        with torch.no_grad():
            stays |= mask & self.mask.flatten()  # what goes and comes again never went
            self.weight.flatten()[:] = self.weight.flatten().where(stays, 0.0)
        self.mask = mask.view_as(self.mask)


@pytest.mark.parametrize("block_bytes", [16 << 20, 300])
@pytest.mark.parametrize("options", [{}, {"groups": 2, "stride": 2}, {"groups": 4}], ids=str)
def test_rigl_finds_the_edges_of_the_masked_twin(options: Any, block_bytes: int) -> None:
    layer = SparseConv2d(4, 8, 3, padding=1, density=0.3, dtype=DOUBLE, bias=False, **options)
    twin = Masked(layer)
    ours, theirs = (torch.optim.SGD([p], lr=0.1) for p in (layer.values, twin.weight))
    evolver = evolve.Evolver(layer, ours, evolve.RigL(), evolve.Constant(interval=1, prune_fraction=0.3))
    set_block_bytes(block_bytes)
    try:
        for _ in range(5):
            x, edges = torch.randn(3, 4, 6, 6, dtype=DOUBLE), layer.topology.nnz
            for call, optimizer in ((layer, ours), (twin, theirs)):
                optimizer.zero_grad()
                call(x).sin().sum().backward()
                optimizer.step()
            change = evolver.step()
            assert change is not None
            twin.prune_and_grow(math.floor(0.3 * edges))
            assert torch.equal(layer.topology.to_mask(), twin.mask.flatten(1))
            torch.testing.assert_close(layer.to_dense().weight, twin.weight * twin.mask)
    finally:
        set_block_bytes(16 << 20)


@pytest.mark.parametrize("blocks", [1, 7])
def test_gradients_of_absent_positions_in_blocks(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several passes, over groups that blocks of rows cut anywhere."""
    from sparsetrain.ops import edge_choice, factors, largest_products

    layer = SparseConv2d(4, 12, 3, padding="same", groups=2, density=0.2, dtype=DOUBLE)
    monkeypatch.setattr(largest_products, "BLOCK", blocks * layer.topology.shape[1])
    dense, total = layer.to_dense(), torch.zeros(layer.topology.shape, dtype=DOUBLE)
    passes = []
    for size in (5, 6):
        x, dy = torch.randn(2, 4, size, size, dtype=DOUBLE), torch.randn(2, 12, size, size, dtype=DOUBLE)
        passes.append(factors.Convolved(dy, x, layer.geometry))
        total += torch.autograd.grad(dense(x), dense.weight, dy)[0].view_as(total)
    kept = torch.ones(layer.topology.nnz, dtype=torch.bool)
    row, col = edge_choice.largest_vacant(layer.topology, kept, passes, 20)
    free = total.abs().masked_fill(layer.topology.to_mask(), -1.0).flatten()
    expected = free.argsort(descending=True)[:20].sort().values
    assert torch.equal(row * total.shape[1] + col, expected)
    torch.testing.assert_close(sum(each.at(layer.topology) for each in passes), total[layer.topology.to_mask()])


RULES: dict[str, Any] = {
    "set": (evolve.SET, evolve.Constant(interval=2, prune_fraction=0.3)),
    "rigl of two": (lambda: evolve.RigL(batches=2), evolve.Constant(interval=2, prune_fraction=0.3)),
    "snfs": (lambda: evolve.SNFS(batches=2), evolve.Constant(interval=2, prune_fraction=0.3)),
    "gmp": (evolve.GMP, evolve.Cubic(interval=2, stop=6, final_density=0.1)),
    "top kast": (evolve.TopKAST, evolve.Constant(interval=2, prune_fraction=0.3)),
    "global": (evolve.GlobalMagnitude, evolve.Cubic(interval=2, stop=6, final_density=0.1)),
}


def train(model: Any, optimizer: Any, evolver: evolve.Evolver, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(4, 3, 8, 8, generator=generator), torch.randint(10, (4,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        evolver.step()


@pytest.mark.parametrize("name", RULES)
def test_every_rule_changes_edges_and_goes_on_from_its_state(name: str, tmp_path: Path) -> None:
    make, schedule = RULES[name]

    def start() -> tuple[nn.Module, Any, evolve.Evolver]:
        torch.manual_seed(0)
        model = sparsify(network(), 0.4, "uniform")
        optimizer = st.optim.Adam(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(0)
        return model, optimizer, evolve.Evolver(model, optimizer, make(), schedule, generator=generator)

    model, optimizer, evolver = start()
    before = model.get_submodule("0").topology.digest  # type: ignore[union-attr]
    train(model, optimizer, evolver, range(3))
    st.io.save(tmp_path / "state", model, optimizer, extra={"evolver": evolver})
    train(model, optimizer, evolver, range(3, 7))
    assert model.get_submodule("0").topology.digest != before  # type: ignore[union-attr]
    again, optimizer_again, evolver_again = start()
    st.io.load(tmp_path / "state", again, optimizer_again, extra={"evolver": evolver_again}, topology="adopt")
    train(again, optimizer_again, evolver_again, range(3, 7))
    for (key, found), expected in zip(again.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(found, expected), key


@pytest.mark.parametrize("of_inputs", [False, True])
def test_gradients_in_compiled_graphs_are_heard(of_inputs: bool) -> None:
    torch._dynamo.reset()
    models = [SparseConv2d(3, 6, 3, padding=1, density=0.3, generator=torch.Generator().manual_seed(0)) for _ in "ab"]
    x = torch.randn(4, 3, 6, 6, requires_grad=of_inputs)
    for layer, call in zip(
        models, (models[0], torch.compile(models[1], backend="aot_eager", fullgraph=True)), strict=True
    ):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        evolver = evolve.Evolver(layer, optimizer, evolve.RigL(), evolve.Constant(interval=1, prune_fraction=0.3))
        for _ in range(2):
            optimizer.zero_grad()
            call(x).square().sum().backward()
            optimizer.step()
            evolver.step()
    assert models[0].topology.digest == models[1].topology.digest
    torch.testing.assert_close(models[0].values, models[1].values)


def test_carry_drop_zeros_and_adopt() -> None:
    layer = SparseConv2d(3, 6, 3, density=0.5)
    optimizer = st.optim.Adam(layer.parameters())
    layer(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    kept = torch.rand(layer.topology.nnz) < 0.5
    expected = layer.values.detach()[kept]
    st.optim.carry(optimizer, {layer: st.Edit(layer.topology, kept)})
    assert torch.equal(layer.values, expected)
    layer.values.data[:5] = 0.0
    assert st.convert.drop_zeros(layer, optimizer) == {"": 5}
    other = SparseConv2d(3, 6, 3, density=0.5)
    st.io.adopt(other, layer.state_dict())
    assert torch.equal(other.values, layer.values)


# ---- states ----------------------------------------------------------------------------------------------------------


def test_states_and_copies() -> None:
    layer, x = SparseConv2d(3, 6, 3, density=0.5, padding_mode="circular", padding=1), torch.randn(2, 3, 5, 5)
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), expected)
        assert other.topology.digest == layer.topology.digest
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer)
    with torch.device("meta"):
        empty = SparseConv2d(3, 6, 3, density=0.5, padding_mode="circular", padding=1)
    empty.load_state_dict(state, assign=True)
    assert torch.equal(empty(x), expected)
    with pytest.raises(RuntimeError, match="SparseConv2d"):
        SparseConv2d(3, 6, 3, density=0.5).load_state_dict(state)


# ---- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["inductor", "aot_eager"])
def test_a_compiled_model_trains(backend: str) -> None:
    torch._dynamo.reset()
    model = sparsify(network()[:4] if backend == "aot_eager" else network()[:1], 0.3)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for size in (4, 6, 5):  # from the second size on, it is a symbol
        x = torch.randn(size, 3, 8, 8)
        for each in (compiled, twin):
            each.zero_grad()
            each(x).square().sum().backward()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-4)


def test_an_exported_program_takes_any_batch(tmp_path: Path) -> None:
    model = sparsify(network(), 0.3).eval()
    program = torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    torch.export.save(program, tmp_path / "model.pt2")
    x = images(7)
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x), model(x))


def test_flops_of_the_edges_are_counted() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layer = SparseConv2d(4, 6, 3, stride=2, padding=1, groups=2, density=0.5)
    x = torch.randn(3, 4, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * layer.topology.nnz * 3 * 16


# ---- constraints, penalties, second order ----------------------------------------------------------------------------


def test_constraints_and_penalties() -> None:
    layer = SparseConv2d(3, 6, 3, density=0.5)
    torch.testing.assert_close(st.penalty.l1(layer), layer.values.abs().sum())
    st.constrain.positive(layer, project=True)
    layer(torch.randn(2, 3, 5, 5)).sum().backward()
    assert bool((layer.to_dense().weight >= 0).all())
    assert st.constrain.frozen(layer, [0, 1]) is layer


def test_products_with_the_gauss_newton_matrix_are_those_of_the_dense_twin() -> None:
    layer = SparseConv2d(2, 3, 3, padding=1, stride=2, density=0.4, dtype=DOUBLE, bias=False)
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten())
    x, y = torch.randn(4, 2, 5, 5, dtype=DOUBLE), torch.randn(4, 27, dtype=DOUBLE)

    def loss(outputs: Tensor, batch: Any) -> Tensor:
        return (outputs - batch[1]).square().sum()

    found = st.curvature.ggn(model, loss, (x, y))
    t = layer.topology
    at = t.row.long(), t.col.long()

    def outputs(values: Tensor) -> Tensor:
        weight = torch.zeros(t.shape, dtype=DOUBLE).index_put(at, values).view(layer.weight_shape)
        return torch.tanh(conv2d(x, weight, stride=2, padding=1)).flatten()

    jacobian = torch.autograd.functional.jacobian(outputs, layer.values.detach())
    v = torch.randn(t.nnz, dtype=DOUBLE)
    torch.testing.assert_close(found.matvec(v), 2 * jacobian.t() @ (jacobian @ v))
