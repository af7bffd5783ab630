"""What HessianFree and curvature refuse, and that nothing has changed then; and steps that are broken off."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import identical
from interrupts import PressedAt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsetrain as st
from sparsetrain.nn import LookupTable
from sparsetrain.optim import HessianFree, hessian_free

X, Y = torch.linspace(-1, 1, 12).view(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
IDS = torch.tensor([1, 3, 3, 1, 0, 4])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = LookupTable(6, 2), nn.Linear(2, 2)

    def forward(self, ids: Tensor = IDS) -> Tensor:
        return self.out(self.table(ids) + X[: len(ids)])


def loss(z: Tensor) -> Tensor:
    return cross_entropy(z, Y[: len(z)])


def trained() -> tuple[Model, HessianFree]:
    model = Model()
    optimizer = HessianFree(model.parameters())
    optimizer.step(model, loss)
    return model, optimizer


def standing(model: nn.Module, optimizer: HessianFree) -> Any:
    return copy.deepcopy((dict(model.state_dict()), optimizer.state_dict(), optimizer.report))


NONE = torch.zeros(0, dtype=torch.int64)
STEPS: dict[str, tuple[Callable[[Model], Any], Callable[[Any], Any], type[Exception], str]] = {
    "no scalar": (
        lambda m: m(), lambda z: z, ValueError,
        "HessianFree: expected a loss that is a real scalar tensor, got a tensor of shape (6, 2). Take its mean or sum.",
    ),
    "no tensor": (lambda m: m(), lambda z: loss(z).item(), ValueError, "expected a loss that is a real scalar tensor, got float"),
    "complex": (lambda m: m(), lambda z: loss(z) * 1j, ValueError, "expected a loss that is a real scalar tensor"),
    "not finite": (lambda m: m(), lambda z: loss(z) / 0, ValueError, "HessianFree: expected a finite loss, got inf. Nothing has changed."),
    "no number": (lambda m: m(), lambda z: loss(z) * torch.nan, ValueError, "expected a finite loss, got nan"),
    "gradient not finite": (
        lambda m: m(), lambda z: (z - z.detach()).square().sum().sqrt(), ValueError,
        "expected a finite gradient, got one that is not for parameter 0 of group 0. Nothing has changed.",
    ),
    "outputs without graph": (lambda m: m().detach(), loss, ValueError, "expected outputs that depend on trainable parameters"),
    "loss without graph": (lambda m: m(), lambda z: loss(z.detach()), ValueError, "expected a loss with a graph"),
    "no rows": (
        lambda m: m.table(NONE), lambda z: z.square().sum(), ValueError,
        "HessianFree: expected a loss that depends on trainable entries, got one that depends on none",
    ),
    "ids out of range": (lambda m: m(IDS + 3), loss, IndexError, "LookupTable: expected ids from 0 to 5, got 6"),
    "an error of its own": (lambda m: 1 / 0, loss, ZeroDivisionError, "division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_refused_changes_nothing(name: str) -> None:
    forward, of_outputs, kind, message = STEPS[name]
    model, optimizer = trained()
    before = standing(model, optimizer)
    with pytest.raises(kind, match=re.escape(message)):
        optimizer.step(lambda: forward(model), of_outputs)
    assert identical(standing(model, optimizer), before)
    if name in ("no rows", "gradient not finite"):
        return
    with pytest.raises(kind, match=re.escape(message)):  # also of the batch of the curvature
        optimizer.step(model, loss, curvature_batch=(lambda: forward(model), of_outputs))
    assert identical(standing(model, optimizer), before)


def test_a_batch_without_rows_trains_the_rest() -> None:
    model, optimizer = trained()
    table, bias = model.table.weight.detach().clone(), model.out.bias.detach().clone()
    optimizer.step(lambda: (model.table(NONE).sum(), model.out(X)), lambda z: z[0] + loss(z[1]))
    assert torch.equal(model.table.weight, table)
    assert not torch.equal(model.out.bias, bias)


def test_parameters_that_are_not_used_stay() -> None:
    model, idle = Model(), nn.Linear(2, 2)
    optimizer = HessianFree([*model.parameters(), *idle.parameters()])
    before = idle.weight.detach().clone()
    optimizer.step(model, loss)
    assert torch.equal(idle.weight, before)
    assert idle.weight not in optimizer.state


def test_errors_and_losses_that_are_not_finite_while_steps_are_tried() -> None:
    model, optimizer = trained()
    before = standing(model, optimizer)
    calls = 0

    def failing() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError("no room")
        return model()

    with pytest.raises(MemoryError, match="no room"):
        optimizer.step(failing, loss)
    assert identical(standing(model, optimizer), before)
    # a wall close by: steps shrink until they are on this side of it
    w = nn.Parameter(torch.ones(1))
    optimizer = HessianFree([w], damping=1e-9)
    optimizer.step(lambda: w, lambda z: -(z - 0.9).log().sum() + 20 * z.square().sum())
    assert optimizer.report is not None
    assert 0 < optimizer.report.rate <= 1
    assert optimizer.report.after < optimizer.report.before
    assert float(w.detach()) > 0.9


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "damping 0": ({"damping": 0.0}, "HessianFree: expected a finite damping > 0, got 0.0"),
    "damping < 0": ({"damping": -1}, "expected a finite damping > 0, got -1"),
    "damping infinite": ({"damping": float("inf")}, "expected a finite damping > 0, got inf"),
    "damping NaN": ({"damping": float("nan")}, "expected a finite damping > 0, got nan"),
    "damping no number": ({"damping": "much"}, "expected a finite damping > 0, got 'much'"),
    "damping None": ({"damping": None}, "expected a finite damping > 0, got None"),
    "curvature": ({"curvature": "fisher"}, "expected curvature to be 'ggn' or 'hessian', got 'fisher'"),
    "iterations": ({"iterations": 0}, "expected iterations to be an integer of at least 1, got 0"),
    "probes": ({"probes": 1.5}, "expected probes to be an integer of at least 0, got 1.5"),
    "tolerance": ({"tolerance": -1e-3}, "expected tolerance from 0 to inf, got -0.001"),
    "tolerance None": ({"tolerance": None}, "expected tolerance from 0 to inf, got None"),
    "decay": ({"decay": 1.5}, "expected decay from 0 to 1.0, got 1.5"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_out_of_range(name: str) -> None:
    options, message = OPTIONS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        HessianFree(Model().parameters(), **options)
    optimizer = HessianFree(Model().parameters())
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], **options})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0].update(options)
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.step(lambda: next(iter(optimizer.param_groups[0]["params"])), lambda z: z.square().sum())


def test_groups_share_all_but_the_damping() -> None:
    optimizer = HessianFree(Model().parameters())
    with pytest.raises(ValueError, match="expected iterations = 250 in all groups, got 3: they are stepped together"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "iterations": 3})
    with pytest.raises(ValueError, match="HessianFree: expected parameters with requires_grad, got none"):
        HessianFree([nn.Parameter(torch.ones(1), requires_grad=False)]).step(lambda: torch.ones(1), lambda z: z.sum())


@pytest.mark.parametrize("batch", [lambda: None, (1, 2), (X, Y), (len,)])
def test_a_batch_of_curvature_is_two_functions(batch: Any) -> None:
    model, optimizer = trained()
    with pytest.raises(TypeError, match=re.escape("HessianFree: expected curvature_batch to be (forward, loss)")):
        optimizer.step(model, loss, curvature_batch=batch)


def test_functions_are_called_and_not_their_results() -> None:
    model, optimizer = trained()
    with pytest.raises(TypeError, match=re.escape("HessianFree.step: expected functions forward and loss, got Tensor")):
        optimizer.step(model(), loss)
    with pytest.raises(TypeError, match=re.escape("HessianFree.step: expected functions forward and loss, got Tensor")):
        optimizer.step(model, loss(model()))  # type: ignore[arg-type]


def test_states_that_do_not_fit() -> None:
    model, optimizer = trained()
    before = standing(model, optimizer)
    good = optimizer.state_dict()
    adam = torch.optim.Adam(Model().parameters())

    def changed(**numbers: Any) -> dict[str, Any]:
        state = copy.deepcopy(good)
        state["state"][0].update(numbers)
        return state

    for state, message in (
        (adam.state_dict(), "expected the state of HessianFree, got one without ['adapt_damping', 'curvature'"),
        (HessianFree([nn.Parameter(torch.ones(1))]).state_dict(), "expected a state of parameter groups of sizes [3], got [1]"),
        (changed(direction=torch.ones(3, 2)), "expected the direction of parameter 0 to have shape (4, 2), got (3, 2)"),
        (changed(rows=torch.tensor([0, 1, 3, 6])), "expected rising rows below 6 of parameter 0"),
        (changed(rows=torch.tensor([0, 3, 1, 4])), "expected rising rows below 6 of parameter 0"),
        (changed(rows=torch.tensor([0.0, 1, 3, 4])), "expected rising rows below 6 of parameter 0"),
        ({**good, "param_groups": [{**good["param_groups"][0], "damping": 0.0}]}, "expected a finite damping > 0, got 0.0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)):
            optimizer.load_state_dict(state)
        assert identical(standing(model, optimizer), before)


# ---- products --------------------------------------------------------------------------------------------------------


def test_products_of_vectors_that_do_not_fit() -> None:
    operator = st.curvature.ggn(Model(), nn.CrossEntropyLoss(), (IDS, Y))
    n = operator.shape[0]
    with pytest.raises(ValueError, match=re.escape(f"matvec: expected a vector of shape ({n},), got ({n - 1},)")):
        operator.matvec(torch.ones(n - 1))
    with pytest.raises(TypeError, match=r"expected a vector that is a tensor of torch.float32, got torch.float64"):
        operator.matvec(torch.ones(n, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"expected a vector that is a tensor of torch.float32, got ndarray"):
        operator.matvec(np.ones(n))  # type: ignore[arg-type]


MODELS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "no module": (lambda x: x, (X, Y), TypeError, "expected an nn.Module, got function"),
    "no pair": (Model(), IDS, TypeError, "expected a batch (x, y), got Tensor"),
    "frozen": (Model().requires_grad_(False), (IDS, Y), ValueError, "expected a model with trainable parameters"),
    "meta": (
        nn.Linear(2, 2, device="meta"), (X.to("meta"), Y.to("meta")), ValueError,
        "expected tensors with numbers, got a loss on the meta device",
    ),
    "no rows": (LookupTable(6, 2), (NONE, Y[:0]), ValueError, "expected a finite loss, got nan"),
    "ids out of range": (Model(), (IDS + 3, Y), IndexError, "LookupTable: expected ids from 0 to 5, got 6"),
    "offsets": (
        nn.EmbeddingBag(6, 2), ((IDS, torch.arange(1, 7)), Y), ValueError, "embedding_bag: expected rising offsets from 0 to the number of ids, 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("matrix", [st.curvature.ggn, st.curvature.hessian, st.curvature.fisher])
def test_models_and_batches_that_have_no_matrix(name: str, matrix: Any) -> None:
    model, batch, kind, message = MODELS[name]
    with pytest.raises(kind, match=re.escape(message)):
        matrix(model, nn.CrossEntropyLoss(), batch)


def test_functions_of_leaves_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match=r"functional: expected an nn\.Module, got function"):
        st.curvature.functional(lambda x: x, X)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="functional: expected outputs that depend on trainable parameters"):
        st.curvature.functional(Model().requires_grad_(False), IDS)
    with pytest.raises(
        ValueError, match=r"functional: expected a loss that depends on|functional: expected outputs that"
    ):
        st.curvature.functional(LookupTable(6, 2), NONE)
    f, leaves = st.curvature.functional(Model(), IDS)
    leaves.pop("out.bias")
    with pytest.raises(ValueError, match=r"functional: expected leaves .*'out.bias'.*, got"):
        f(leaves)


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_step_is_whole_or_has_not_begun() -> None:
    folder = hessian_free.__file__.removesuffix("__init__.py")

    def step(pressed: PressedAt) -> tuple[bool, Any]:
        model = Model()
        optimizer = HessianFree(model.parameters(), iterations=3, probes=1)
        came = pressed.during(lambda: optimizer.step(model, loss))
        return came, standing(model, optimizer)

    pressed = PressedAt(0, folder)
    came, whole = step(pressed)
    lines = -pressed.left
    assert not came
    model = Model()
    begun = standing(model, HessianFree(model.parameters(), iterations=3, probes=1))
    seen = set()
    for line in [*range(1, lines - 90, 61), *range(lines - 90, lines + 1, 5)]:
        came, found = step(PressedAt(line, folder))
        assert came
        assert identical(found, begun) or identical(found, whole), line
        seen.add(identical(found, whole))
    assert seen == {True, False}
