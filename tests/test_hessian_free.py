"""Steps of HessianFree: what they solve, how far they go, and what they leave alone."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from word_model import CLASSES, IDS, LABELS, ROWS, Words, stepped

import sparsetrain as st
from sparsetrain.nn import LookupTable
from sparsetrain.optim import HessianFree

F64 = torch.float64


def parameter(*numbers: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(numbers, dtype=F64))


# ---- what is solved --------------------------------------------------------------------------------------------------


def test_a_damped_step_is_that_of_the_whole_table_on_used_rows() -> None:
    model, whole = Words(), Words(by_rows=False)
    before = model.table.weight.detach().clone()
    for each in (model, whole):
        optimizer = HessianFree(each.parameters(), damping=0.1, tolerance=0.0, iterations=30)
        for _ in range(2):
            stepped(each, optimizer)
    for a, b in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8)
    unused = [row for row in range(ROWS) if row not in IDS]
    assert torch.equal(model.table.weight[unused], before[unused])
    assert not torch.equal(model.table.weight[1], before[1])


@pytest.mark.parametrize("probes", [0, 4])
def test_the_step_is_the_solution_of_the_damped_system(probes: int) -> None:
    model = Words()
    operator = st.curvature.ggn(model, nn.CrossEntropyLoss(), (IDS, LABELS))
    damped = operator.to_dense() + 0.5 * torch.eye(operator.shape[0], dtype=F64)
    expected = operator.entries.numbers() + torch.linalg.solve(damped, -operator.gradient())
    optimizer = HessianFree(model.parameters(), damping=0.5, tolerance=0.0, iterations=60, probes=probes)
    assert float(stepped(model, optimizer)) == float(operator.loss)
    assert optimizer.report is not None
    assert optimizer.report.rate == 1.0
    torch.testing.assert_close(operator.entries.numbers(), expected, rtol=0, atol=1e-8)
    assert optimizer.report.after == pytest.approx(cross_entropy(model(IDS), LABELS).item(), rel=1e-12)
    assert optimizer.report.entries == operator.shape[0]


def test_unused_rows_make_the_whole_matrix_singular() -> None:
    restricted = st.curvature.ggn(LookupTable(ROWS, 2, dtype=F64), nn.MSELoss(), (IDS, torch.zeros(6, 2, dtype=F64)))
    weight = torch.zeros(ROWS, 2, dtype=F64)
    whole = torch.func.hessian(lambda w: mse_loss(w[IDS], torch.zeros(6, 2, dtype=F64)))(weight).reshape(18, 18)
    assert torch.linalg.matrix_rank(whole) == 8 < len(whole)
    assert torch.linalg.matrix_rank(restricted.to_dense()) == restricted.shape[0] == 8


def test_groups_have_their_own_damping() -> None:
    a, b = parameter(1.0, 2.0), parameter(3.0)
    optimizer = HessianFree([{"params": [a], "damping": 2.0}, {"params": [b]}], damping=0.5, probes=0)
    optimizer.step(lambda: torch.cat([a, b]), lambda z: z.square().sum())
    # the loss is its quadratic: x = -2 w / (2 + damping)
    torch.testing.assert_close(torch.cat([a, b]), torch.tensor([0.5, 1.0, 3 * 0.2], dtype=F64), rtol=0, atol=1e-14)
    assert [group["damping"] for group in optimizer.param_groups] == [2.0 / 1.5, 0.5 / 1.5]


def test_rows_of_either_batch_are_trained() -> None:
    table = LookupTable(ROWS, 2, dtype=F64)
    before = table.weight.detach().clone()
    optimizer = HessianFree(table.parameters(), damping=10.0, probes=0, tolerance=0.0)
    of_gradient, of_curvature = torch.tensor([0, 1]), torch.tensor([1, 2])

    def loss(z: Tensor) -> Tensor:
        return z.square().sum()

    optimizer.step(lambda: table(of_gradient), loss, curvature_batch=(lambda: table(of_curvature), loss))
    assert optimizer.report is not None
    assert optimizer.report.entries == 6
    moved = table.weight.detach() / before
    # a row without curvature goes down the gradient by 1 / damping; one without gradient stays
    torch.testing.assert_close(moved[0], torch.full((2,), 1 - 2 / 10, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(moved[1], torch.full((2,), 1 - 2 / 12, dtype=F64), rtol=0, atol=1e-12)
    assert torch.equal(table.weight[2:], before[2:])


def test_a_row_of_padding_stays() -> None:
    model = Words(padding=4)
    stepped(model, HessianFree(model.parameters()))
    assert not model.table.weight[4].any()


# ---- how far ---------------------------------------------------------------------------------------------------------


def hyperbola(z: Tensor) -> Tensor:
    return (1 + z.square()).sqrt().sum()


@pytest.mark.parametrize(
    ("start", "factor"), [(0.01, 1 / 1.5), (0.6, 1.0), (3.0, 1.5)], ids=["as promised", "half of it", "none of it"]
)
def test_the_damping_follows_what_was_promised(start: float, factor: float) -> None:
    w = parameter(start)
    optimizer = HessianFree([w], damping=1e-6, probes=0)
    before = hyperbola(w).item()
    assert float(optimizer.step(lambda: w, hyperbola)) == before
    report = optimizer.report
    assert report is not None
    assert optimizer.param_groups[0]["damping"] == pytest.approx(1e-6 * factor)
    assert report.damping == 1e-6
    gradient, curvature = start / (1 + start**2) ** 0.5, (1 + start**2) ** -1.5
    step = -gradient / (curvature + 1e-6)
    reached = (1 + (start + step) ** 2) ** 0.5
    promised = gradient * step + 0.5 * curvature * step**2
    assert report.ratio == pytest.approx((reached - before) / promised, rel=1e-4)
    assert report.after == hyperbola(w).item() < before
    assert (report.rate < 1) == (reached >= before)
    fixed = HessianFree([w], damping=1e-6, adapt_damping=False)
    fixed.step(lambda: w, hyperbola)
    assert fixed.param_groups[0]["damping"] == 1e-6


def test_negative_curvature_is_left_downwards() -> None:
    w = parameter(0.5, 0.01)

    def saddle(z: Tensor) -> Tensor:
        return z[0] ** 2 - z[1] ** 2 + 0.25 * z[1] ** 4

    optimizer = HessianFree([w], damping=0.1, curvature="hessian")
    found = []
    for _ in range(30):
        before = float(optimizer.step(lambda: w, saddle))
        assert optimizer.report is not None
        assert optimizer.report.after <= before
        found.append(optimizer.report.negative_curvature)
    assert found[0]
    assert not found[-1]
    assert saddle(w).item() == pytest.approx(-1.0, abs=1e-6)


def test_nothing_changes_where_no_step_helps() -> None:
    """A gradient that points uphill, as a wrong function of autograd has it."""
    w = parameter(1.0, -2.0)
    before = w.detach().clone()
    optimizer = HessianFree([w], damping=1.0)
    optimizer.step(lambda: w, lambda z: (2 * z.detach() - z).square().sum() * 1.0)
    report = optimizer.report
    assert report is not None
    assert report.rate == 0.0
    assert report.after == report.before
    assert torch.equal(w, before)
    assert not optimizer.state[w]["direction"].any()
    assert optimizer.param_groups[0]["damping"] == 1.5


def test_a_minimum_is_left_alone() -> None:
    w = nn.Parameter(torch.zeros(2))
    optimizer = HessianFree([w])
    for _ in range(3):
        optimizer.step(lambda: w, lambda z: z.square().sum())
        assert optimizer.param_groups[0]["damping"] == 1.0  # it would grow as long as training stands still
    assert not w.any()
    optimizer.step(lambda: w, lambda z: (z - 1).square().sum())
    assert w[0].item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_the_loss_falls(dtype: torch.dtype, curvature: str) -> None:
    model = Words(dtype=dtype)
    optimizer = HessianFree(model.parameters(), damping=0.1, curvature=curvature, iterations=10)
    losses = [float(stepped(model, optimizer)) for _ in range(6)]
    assert all(after <= before for before, after in pairwise(losses))
    assert losses[-1] < 0.65  # two ids have two labels each: 4/6 log 2 = 0.46 remains
    assert all(p.dtype == dtype for p in model.parameters())


def test_types_of_numbers_may_differ() -> None:
    torch.manual_seed(0)
    table, out = LookupTable(ROWS, 4), nn.Linear(4, CLASSES, dtype=F64)
    optimizer = HessianFree([table.weight, *out.parameters()])
    losses = [
        float(optimizer.step(lambda: out(table(IDS).double()), lambda z: cross_entropy(z, LABELS))) for _ in range(4)
    ]
    assert losses[-1] < 0.7 * losses[0]
    assert table.weight.dtype == torch.float32


# ---- random numbers and other state of a model -----------------------------------------------------------------------


def test_dropout_is_one_function_within_a_step_and_another_in_the_next() -> None:
    torch.manual_seed(0)
    drawn: list[Tensor] = []
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    model[1].register_forward_hook(lambda _, given, y: drawn.append((y != 0) | (given[0] == 0)))
    x, y = torch.randn(6, 4), torch.randint(2, (6,))
    optimizer = HessianFree(model.parameters())
    state = torch.get_rng_state()
    with torch.random.fork_rng():
        model(x)
        expected = torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), state)
    drawn.clear()
    optimizer.step(lambda: model(x), lambda z: cross_entropy(z, y))
    assert torch.equal(torch.get_rng_state(), expected)  # as after one pass
    assert len(drawn) > 2
    assert all(torch.equal(each, drawn[0]) for each in drawn)
    first = drawn[0]
    drawn.clear()
    optimizer.step(lambda: model(x), lambda z: cross_entropy(z, y))
    assert not torch.equal(drawn[0], first)


def test_statistics_of_batches_are_updated_at_each_evaluation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    optimizer = HessianFree(model.parameters(), iterations=5)
    optimizer.step(lambda: model(x), lambda z: cross_entropy(z, y))
    assert int(model[1].num_batches_tracked) > 1
    model.eval()
    before = model[1].running_mean.clone()
    optimizer.step(lambda: model(x), lambda z: cross_entropy(z, y))
    assert torch.equal(model[1].running_mean, before)


def test_compiled_models_run_as_they_are_written() -> None:
    models = [Words(), Words()]
    runs: list[Callable[..., Any]] = [models[0], torch.compile(models[1], backend="aot_eager")]
    for model, run in zip(models, runs, strict=True):
        run(IDS)
        optimizer = HessianFree(model.parameters(), iterations=5)
        for _ in range(2):
            optimizer.step(lambda run=run: run(IDS), lambda z: cross_entropy(z, LABELS))  # type: ignore[misc]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
