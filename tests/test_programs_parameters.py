"""Programs 10 to 13 of docs/programs, about parameters and the graph, against float64 dense twins that are computed here."""

from collections import Counter

import pytest
import torch
from pages import F64, close, run


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
        t = page.nested.get_submodule(name).topology
        W = torch.zeros(t.shape, dtype=F64)
        W[t.row.long(), t.col.long()] = state["values"].double()
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
