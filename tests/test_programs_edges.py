"""Programs 1 to 5 of docs/programs, chosen edges and penalties, against float64 dense twins that are computed here."""

from typing import Any

import pytest
import torch
from pages import F64, FOLDER, close, f64, run
from torch import Tensor, nn


def test_every_program_is_here() -> None:
    assert [int(path.name[1:3]) for path in sorted(FOLDER.glob("p[0-9]*.py"))] == list(range(1, 20))


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
