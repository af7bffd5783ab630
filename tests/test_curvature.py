"""st.curvature against dense matrices in float64: the Jacobian row by row through plain backward passes, and
torch.func.hessian."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsetrain as st
from sparsetrain.nn import LookupTable, MaskedLinear, SparseDeltaLinear, SparseLinear

F64 = torch.float64
N, IN, CLASSES = 5, 6, 3


def topology(seed: int = 0, shape: tuple[int, int] = (CLASSES, IN)) -> st.Topology:
    return st.patterns.uniform(shape, 0.5, generator=torch.Generator().manual_seed(seed))


class Tied(nn.Module):
    """A table that is read by rows, and as a whole in the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LookupTable(7, CLASSES, dtype=F64)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) @ self.table.weight[:CLASSES]


class Twice(nn.Module):
    """A table that is read twice, by other rows, and a layer over edges that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LookupTable(20, IN, dtype=F64, padding_idx=3)
        self.square = SparseLinear(IN, IN, topology=topology(shape=(IN, IN)), dtype=F64)
        self.out = SparseLinear(IN, CLASSES, topology=topology(), dtype=F64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids) * self.table(ids + 2).sin()
        return self.out(self.square(self.square(x).tanh()))


class Bags(nn.Module):
    """Pools of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = LookupTable(9, CLASSES, pool="sum", padding_idx=1, dtype=F64)
        self.mean = LookupTable(9, CLASSES, pool="mean", dtype=F64, include_last_offset=True)
        self.weighted = LookupTable(9, CLASSES, pool="sum", columns=True, dtype=F64)
        self.torchs = nn.EmbeddingBag(9, CLASSES, mode="sum", sparse=True, padding_idx=2, dtype=F64)
        self.embedding = nn.Embedding(9, CLASSES, padding_idx=-1, dtype=F64)

    def forward(self, ids: Tensor) -> Tensor:
        pairs = torch.stack([ids, (ids + 1) % 7], 1)
        offsets = torch.arange(0, 2 * len(ids) + 1, 2)
        x = self.sum(pairs) * self.mean(pairs.flatten(), offsets=offsets)
        x = x + self.weighted(pairs, per_sample_weights=pairs.double().cos()).t() * self.torchs(pairs)
        return x * self.embedding(ids)


def floats() -> Tensor:
    return torch.randn(N, IN, generator=torch.Generator().manual_seed(1), dtype=F64)


def ids() -> Tensor:
    return torch.tensor([1, 3, 3, 0, 4])


def one_hot() -> Tensor:
    return nn.functional.one_hot(ids() % 4, IN).double()


def constrained() -> nn.Module:
    layer = SparseLinear(IN, CLASSES, topology=topology(), dtype=F64)
    with torch.no_grad():
        layer.values.abs_()
    return st.constrain.frozen(st.constrain.positive(layer, edges=[0, 1]), edges=[2])


def delta() -> nn.Module:
    layer = SparseDeltaLinear(nn.Linear(IN, CLASSES, dtype=F64), topology())
    nn.init.normal_(layer.values)
    return layer


def autoencoder() -> nn.Module:
    layer = SparseLinear(IN, 4, topology=topology(shape=(4, IN)), dtype=F64)
    return nn.Sequential(layer, nn.Tanh(), layer.transposed(), nn.Linear(IN, CLASSES, dtype=F64))


def hierarchy() -> nn.Module:
    edges = [(f"in{k}", f"hidden{k % 2}") for k in range(IN)] + [(f"hidden{k % 2}", f"out{k}") for k in range(CLASSES)]
    return st.convert.from_hierarchy(edges, dtype=F64)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "sparse": (lambda: SparseLinear(IN, CLASSES, topology=topology(), dtype=F64), floats),
    "used columns": (lambda: SparseLinear(IN, CLASSES, topology=topology(), dtype=F64, sparse_grad=True), one_hot),
    "masked": (lambda: MaskedLinear(IN, CLASSES, topology=topology(), dtype=F64), floats),
    "delta": (delta, floats),
    "constrained": (constrained, floats),
    "hierarchy": (hierarchy, floats),
    "transposed": (autoencoder, floats),
    "tied": (Tied, ids),
    "twice": (Twice, ids),
    "bags": (Bags, ids),
    "columns": (lambda: nn.Sequential(LookupTable(9, CLASSES, columns=True, dtype=F64), Transposed()), ids),
}


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.t()


def made(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    make, inputs = CASES[name]
    return make(), inputs(), torch.tensor([0, 2, 1, 1, 0])


def rows_of_the_whole(model: nn.Module, entries: Any) -> Tensor:
    """Where the numbers of the entries are among those of all parameters."""
    places, start = [], 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        entry = next((each for each in entries if each.name == name), None)
        at = torch.arange(start, start + p.numel()).view(p.shape)
        if entry is not None:
            places.append((at if entry.rows is None else at[entry.rows]).flatten())
        start += p.numel()
    return torch.cat(places)


def jacobian(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of all outputs by all parameters, by a backward pass for each output."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    z = model(x)
    rows = []
    for k in range(z.numel()):
        found = torch.autograd.grad(z.flatten()[k], parameters, retain_graph=True, allow_unused=True)
        dense = [
            torch.zeros_like(p) if g is None else g.to_dense() if g.is_sparse else g
            for p, g in zip(parameters, found, strict=True)
        ]
        rows.append(torch.cat([g.flatten() for g in dense]))
    return torch.stack(rows), z.detach()


@pytest.mark.parametrize("name", CASES)
def test_gauss_newton_is_that_of_the_whole_model(name: str) -> None:
    model, x, y = made(name)
    operator = st.curvature.ggn(model, nn.CrossEntropyLoss(), (x, y))
    J, z = jacobian(model, x)
    H = torch.func.hessian(lambda z: cross_entropy(z, y))(z).reshape(z.numel(), z.numel())
    whole = J.t() @ H @ J
    places = rows_of_the_whole(model, operator.entries)
    G = operator.to_dense()
    torch.testing.assert_close(G, whole[places][:, places], rtol=0, atol=1e-12)
    torch.testing.assert_close(G, G.t(), rtol=0, atol=1e-14)
    assert torch.linalg.eigvalsh(G).min() > -1e-12
    outside = torch.ones(len(whole), dtype=torch.bool)
    outside[places] = False
    assert not whole[outside].any()
    assert not whole[:, outside].any()
    g = torch.func.grad(lambda z: cross_entropy(z, y))(z).flatten() @ J
    torch.testing.assert_close(operator.gradient(), g[places], rtol=0, atol=1e-13)
    assert operator.loss == cross_entropy(z, y)


@pytest.mark.parametrize("name", CASES)
def test_hessian_is_that_of_torch_func(name: str) -> None:
    model, x, y = made(name)
    operator = st.curvature.hessian(model, nn.CrossEntropyLoss(), (x, y))
    f, leaves = st.curvature.functional(model, x)
    torch.testing.assert_close(f(leaves), model(x).detach(), rtol=0, atol=1e-14, check_dtype=True)
    assert list(leaves) == [entry.name for entry in operator.entries]
    assert [tuple(leaf.shape) for leaf in leaves.values()] == [entry.shape for entry in operator.entries]
    nested = torch.func.hessian(lambda leaves: cross_entropy(f(leaves), y))(leaves)
    expected = torch.cat(
        [torch.cat([nested[a][b].reshape(leaves[a].numel(), leaves[b].numel()) for b in leaves], 1) for a in leaves]
    )
    H = operator.to_dense()
    torch.testing.assert_close(H, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(H, H.t(), rtol=0, atol=1e-13)


def test_entries_name_used_rows_and_edges() -> None:
    model, x, y = made("twice")
    entries = st.curvature.ggn(model, nn.CrossEntropyLoss(), (x, y)).entries
    assert entries[0].name == "table.weight"
    assert entries[0].rows.tolist() == [0, 1, 2, 4, 5, 6]  # ids and ids + 2, without the padding
    assert [entry.name for entry in entries] == [
        "table.weight", "square.values", "square.bias", "out.values", "out.bias",
    ]  # fmt: skip
    layer, x, y = made("used columns")
    entry = st.curvature.ggn(layer, nn.CrossEntropyLoss(), (x, y)).entries[0]
    t = layer.topology
    assert entry.rows.tolist() == [e for e in range(t.nnz) if int(t.col[e]) in (0, 1, 3)]
    assert st.curvature.ggn(*made("tied")[:1], nn.CrossEntropyLoss(), made("tied")[1:]).entries[0].rows is None


def test_split_and_join_are_inverse() -> None:
    model, x, y = made("twice")
    entries = st.curvature.ggn(model, nn.CrossEntropyLoss(), (x, y)).entries
    v = torch.randn(entries.size, dtype=F64)
    assert torch.equal(entries.join(entries.split(v)), v)


def test_parameters_that_do_not_matter_are_no_entries() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    model.forward = lambda x: model["frozen"](model["used"](x))  # type: ignore[method-assign]
    operator = st.curvature.ggn(model, nn.MSELoss(), (torch.randn(3, 2), torch.randn(3, 2)))
    assert [entry.name for entry in operator.entries] == ["used.weight", "used.bias"]


def test_scipy_finds_the_largest_eigenvalue() -> None:
    model, x, y = made("sparse")
    operator = st.curvature.ggn(model, nn.CrossEntropyLoss(), (x, y))
    largest = eigsh(operator.to_scipy(), k=1, return_eigenvectors=False)[0]
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(operator.to_dense()).max()), rel=1e-10)


def test_outputs_and_inputs_of_any_form() -> None:
    class Forms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, dtype=F64), nn.Linear(2, 1, dtype=F64)

        def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Any]:
            return {"a": self.a(x), "rest": [scale * self.b(x), "text"]}

    def loss(z: Any, y: Tensor) -> Tensor:
        return ((z["a"] - y) ** 2).sum() + (z["rest"][0] ** 4).sum()

    torch.manual_seed(0)
    model, x, y = Forms(), torch.randn(4, 2, dtype=F64), torch.randn(4, 2, dtype=F64)
    by_position = st.curvature.hessian(model, loss, ((x, 2.0), y)).to_dense()
    assert torch.equal(st.curvature.hessian(model, loss, ({"x": x, "scale": 2.0}, y)).to_dense(), by_position)
    # outputs are linear in the parameters, so that the two matrices are one
    torch.testing.assert_close(st.curvature.ggn(model, loss, ((x, 2.0), y)).to_dense(), by_position, rtol=0, atol=1e-12)


def test_attention_has_second_derivatives() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, dtype=F64)
    x, y = torch.randn(2, 3, 4, dtype=F64), torch.randn(2, 3, 4, dtype=F64)
    operator = st.curvature.ggn(model, nn.MSELoss(), (x, y))
    J, _ = jacobian(model, x)
    v = torch.randn(operator.shape[0], dtype=F64)
    torch.testing.assert_close(operator @ v, 2 / y.numel() * (J.t() @ (J @ v)), rtol=0, atol=1e-10)


def test_dropout_stays_as_it_was_drawn() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, 8, dtype=F64), nn.Dropout(0.5), nn.Linear(8, CLASSES, dtype=F64))
    operator = st.curvature.ggn(model, nn.CrossEntropyLoss(), (floats(), torch.tensor([0, 2, 1, 1, 0])))
    v = torch.randn(operator.shape[0], dtype=F64)
    assert torch.equal(operator @ v, operator @ v)
    G = operator.to_dense()
    torch.testing.assert_close(G, G.t(), rtol=0, atol=1e-14)


def test_a_product_after_the_parameters_changed_is_refused() -> None:
    model, x, y = made("twice")
    operator = st.curvature.ggn(model, nn.CrossEntropyLoss(), (x, y))
    with torch.no_grad():
        model.square.values.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        operator.to_dense()
