"""What optimizers refuse, and that a refusal leaves everything unchanged."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoints import identical
from tables import KINDS, everything, ours, parameter, rows_gradient, torchs
from torch import Tensor, nn

import sparsetrain as st


def trained(kind: str, **options: Any) -> tuple[list[nn.Parameter], Any]:
    """A table, a matrix and edges with a step behind them, and gradients for the next."""
    parameters = [parameter(4, 3), parameter(2, 3), parameter(5)]
    options = {"momentum": 0.9, **options} if kind in ("SGD", "RMSprop") else options
    optimizer = ours(kind, [(f"p{k}", p) for k, p in enumerate(parameters)], lr=0.1, **options)
    for step in range(2):
        parameters[0].grad = rows_gradient(parameters[0], [1, 1, 3], seed=step)
        for p in parameters[1:]:
            p.grad = torch.ones_like(p)
        if not step:
            optimizer.step()
    return parameters, optimizer


def refused(optimizer: Any, action: Callable[[], Any], kind: type[Exception], match: str) -> None:
    before, groups = everything(optimizer), len(optimizer.param_groups)
    with pytest.raises(kind, match=match):
        action()
    assert identical(everything(optimizer), before)
    assert len(optimizer.param_groups) == groups


# ---- options -----------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, "learning rate|lr >= 0"),
    ({"lr": torch.tensor(-1.0)}, "learning rate|lr >= 0"),
    ({"lr": float("nan")}, "learning rate|lr >= 0"),
    ({"lr": float("inf")}, "expected lr to be finite, got inf"),
    ({"lr": torch.tensor(float("inf"))}, "expected lr to be finite, got inf"),
    ({"l1": float("inf")}, "expected l1 to be finite, got inf"),
    ({"l1": torch.full((3, 2), float("inf"))}, "expected l1 to be finite"),
    ({"unused": "cold"}, "expected unused to be 'frozen' or 'dense', got 'cold'"),
    ({"l1": -0.1}, "expected l1 >= 0, got -0.1"),
    ({"l1": float("nan")}, "expected l1 >= 0, got nan"),
    ({"l1": torch.full((3, 2), -1.0)}, "expected l1 >= 0"),
    ({"l1": torch.ones(2, 3)}, r"expected l1 of the shape of its parameters, \(3, 2\), got \(2, 3\)"),
    ({"l1": torch.ones(2)}, r"expected l1 of the shape of its parameters, \(3, 2\), got \(2,\)"),
    ({"l1": 0.1, "unused": "dense", "weight_decay": 0}, "l1 would shrink unused rows"),
    ({"l1": torch.ones(3, 2), "unused": "dense", "weight_decay": 0}, "l1 would shrink unused rows"),
    ({"differentiable": True}, "differentiable=True is not supported"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [float("inf"), 1e39])
def test_what_makes_nan_of_zero_is_refused_in_a_step(kind: str, number: float) -> None:
    """Infinity times a gradient of zero is NaN, and 1e39 is infinite in float32."""
    optimizer = ours(kind, [parameter(3, 2)], lr=0.1)
    (p,) = optimizer.param_groups[0]["params"]
    p.data = p.data.float()
    p.grad = torch.sparse_coo_tensor([[0, 2]], torch.zeros(2, 2), (3, 2), check_invariants=False)
    optimizer.step()
    for option in ("lr", "weight_decay", "eps", "lr_decay", "momentum", "dampening"):
        if option in optimizer.param_groups[0]:
            before, optimizer.param_groups[0][option] = optimizer.param_groups[0][option], number
            refused(optimizer, optimizer.step, ValueError, f"expected {option} .*(finite|torch.float32 can hold)")
            optimizer.param_groups[0][option] = before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("x", TypeError, "expected {} to be a number, got 'x'"),
        ("0.1", TypeError, "expected {} to be a number, got '0.1'"),
        (None, TypeError, "expected {} to be a number, got None"),
        (torch.ones(2), TypeError, r"expected {} to be a number, got tensor\(\[1., 1.\]\)"),
        (-1, ValueError, "expected {} >= 0, got -1.0"),
        (float("nan"), ValueError, "expected {} >= 0, got nan"),
    ],
)
def test_what_is_set_between_steps_is_checked_as_at_first(kind: str, value: Any, error: Any, match: str) -> None:
    p = parameter(3, 2)
    optimizer = ours(kind, [p], lr=0.1)
    (group,) = optimizer.param_groups
    p.grad = rows_gradient(p, [0, 2])
    for option in ("lr", "weight_decay", "eps", "lr_decay", "momentum", "alpha", "l1"):
        if option in group and not (option == "l1" and isinstance(value, torch.Tensor)):
            before, group[option] = group[option], value
            refused(optimizer, optimizer.step, error, f"^{kind}: {match.format(option)}")
            group[option] = before
    if "betas" in group:
        for betas, expected in (
            ((0.9, "x"), TypeError),
            (None, TypeError),
            ((0.9, 1.0), ValueError),
            ((0.9,), TypeError),
        ):
            group["betas"] = betas
            refused(optimizer, optimizer.step, expected, f"^{kind}: expected betas")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)])
def test_a_warm_up_may_start_at_zero(kind: str, lr: Any) -> None:
    p = parameter(3, 2)
    before = p.detach().clone()
    optimizer = ours(kind, [p], lr=lr)
    p.grad = rows_gradient(p, [0, 2])
    optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize(
    ("options", "match"), BAD, ids=lambda value: None if isinstance(value, str) else str(next(iter(value.items())))[:40]
)
@pytest.mark.parametrize("kind", KINDS)
def test_options_out_of_range(kind: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ours(kind, [parameter(3, 2)], **options)
    optimizer = ours(kind, [parameter(2)], lr=0.1)
    group = {"params": [parameter(3, 2)], **options}
    refused(optimizer, lambda: optimizer.add_param_group(group), ValueError, match.replace("learning rate|", ""))


@pytest.mark.parametrize("kind", ["RMSprop", "Adam", "AdamW"])
def test_bias_correction_and_capturable(kind: str) -> None:
    for options, match in (
        ({"bias_correction": "rows"}, "expected bias_correction to be .* got 'rows'"),
        ({"capturable": True}, "capturable=True is not supported"),
    ):
        with pytest.raises(ValueError, match=f"{kind}: {match}"):
            ours(kind, [parameter(3, 2)], **options)
    if kind == "RMSprop":
        with pytest.raises(ValueError, match='bias_correction="row" counts the steps'):
            ours(kind, [parameter(3, 2)], bias_correction="row", unused="dense")


@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_refuses_is_refused(kind: str) -> None:
    p = parameter(3, 2)
    with pytest.raises(ValueError, match="empty parameter list"):
        ours(kind, [])
    with pytest.raises(ValueError, match="weight_decay"):
        ours(kind, [p], weight_decay=-1.0)
    with pytest.raises(ValueError, match="more than one parameter group"):
        ours(kind, [{"params": [p]}, {"params": [p]}])
    with pytest.raises(TypeError, match="should be an iterable"):
        ours(kind, p)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_may_lower_lr_to_zero(kind: str) -> None:
    (p, *_), optimizer = trained(kind)
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.detach().clone()
    optimizer.step()
    assert p.equal(before)


# ---- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    ("number", "got"), [(float("nan"), "NaN"), (float("inf"), "infinity"), (-float("inf"), "infinity")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite(kind: str, number: float, got: str, which: int) -> None:
    parameters, optimizer = trained(kind, check_finite=True)
    grad = parameters[which].grad
    assert grad is not None
    (grad._values() if grad.is_sparse else grad).view(-1)[-1] = number
    refused(
        optimizer, optimizer.step, ValueError, rf"gradient of p{which} to be finite \(check_finite=True\), got {got}"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_without_check_finite_it_goes_where_it_goes(kind: str) -> None:
    (p, *_), optimizer = trained(kind)
    assert p.grad is not None
    p.grad._values()[-1] = float("nan")
    optimizer.step()
    assert p.isnan().all(1).tolist() == [False, False, False, True]


def invalid(ids: list[int], p: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.tensor([ids]), torch.ones(len(ids), *p.shape[1:], dtype=p.dtype), p.shape, check_invariants=False
    )


@pytest.mark.parametrize(("ids", "got"), [([0, 4], 4), ([1, -1], -1), ([2**40], 2**40)])
@pytest.mark.parametrize("unused", ["frozen", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_out_of_range(kind: str, unused: str, ids: list[int], got: int) -> None:
    (p, *_), optimizer = trained(kind, unused=unused, weight_decay=0)
    optimizer.flush()
    p.grad = invalid(ids, p)
    before = [(q.detach().clone(), copy.deepcopy(optimizer.state[q])) for q in optimizer.param_groups[0]["params"]]
    with pytest.raises(IndexError, match=f"gradient of p0 to name rows from 0 to 3, got {got}. Nothing was changed"):
        optimizer.step()
    after = [(q.detach().clone(), optimizer.state[q]) for q in optimizer.param_groups[0]["params"]]
    assert identical(after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_of_another_form(kind: str) -> None:
    (p, *_), optimizer = trained(kind)
    p.grad = None
    p.grad = torch.ones(4, 3, dtype=torch.float64)
    p.data = torch.ones(4, 2, dtype=torch.float64)  # resized after its backward pass
    with pytest.raises(ValueError, match=r"gradient of p0 to have its shape \(4, 2\), got \(4, 3\). Nothing"):
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_gradient_in_csr(kind: str) -> None:
    _, optimizer = trained(kind)
    p = nn.Parameter(torch.ones(2, 3, dtype=torch.float64).to_sparse_csr())
    before = everything(optimizer)
    optimizer.add_param_group({"params": [("csr", p)]})
    p.grad = p.detach().clone()
    with pytest.raises(TypeError, match=r"gradient of csr to be dense or sparse COO, got torch\.sparse_csr"):
        optimizer.step()
    optimizer.param_groups.pop()
    assert identical(everything(optimizer), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    _, optimizer = trained(kind)
    p = nn.Parameter(torch.ones(3, 2, dtype=dtype))
    optimizer.add_param_group({"params": [("half", p)]})
    p.grad = rows_gradient(p, [1])
    refused(optimizer, optimizer.step, TypeError, f"half .*float32 or float64.*got {re.escape(str(dtype))}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_is_not_contiguous(kind: str) -> None:
    _, optimizer = trained(kind)
    p = nn.Parameter(parameter(2, 3).detach().t())
    optimizer.add_param_group({"params": [("columns", p)]})
    p.grad = rows_gradient(p, [1])
    refused(optimizer, optimizer.step, ValueError, "columns to be .*contiguous.* Nothing was changed")


ROW_BY_ROW = [("RMSprop", {"bias_correction": "row"}), ("Adagrad", {"rowwise": True})]


@pytest.mark.parametrize(("kind", "options"), ROW_BY_ROW)
def test_a_dense_gradient_of_a_matrix_that_is_not_contiguous(kind: str, options: dict[str, Any]) -> None:
    """Stepped row by row: right, or refused; not silently passed over."""
    p, q = nn.Parameter(parameter(2, 3).detach().t()), nn.Parameter(parameter(2, 3).detach().t().contiguous())
    mine, twin = (ours(kind, [each], **options) for each in (p, q))
    for each in (p, q):
        each.grad = torch.ones(3, 2, dtype=torch.float64)
    twin.step()
    before = p.detach().clone()
    try:
        mine.step()
    except ValueError:
        assert p.equal(before)
        return
    assert p.equal(q)


@pytest.mark.parametrize(("kind", "options"), ROW_BY_ROW)
def test_a_dense_gradient_in_half_precision_where_rows_count(kind: str, options: dict[str, Any]) -> None:
    """Stepped, or refused with nothing changed: not after the parameters before it were stepped."""
    _, optimizer = trained(kind, **options)
    p = nn.Parameter(torch.ones(3, 2, dtype=torch.bfloat16))
    optimizer.add_param_group({"params": [("half", p)]})
    p.grad = torch.ones_like(p)
    before = everything(optimizer)
    try:
        optimizer.step()
    except TypeError:
        assert identical(everything(optimizer), before)
        return
    assert not p.equal(torch.ones_like(p))


@pytest.mark.parametrize(("kind", "options"), [("Adam", {}), ("RMSprop", {"bias_correction": "row"})])
def test_another_number_of_sparse_dimensions(kind: str, options: dict[str, Any]) -> None:
    (p, *_), optimizer = trained(kind, **options)
    p.grad = torch.ones(4, 3, dtype=torch.float64).to_sparse()
    refused(optimizer, optimizer.step, ValueError, "sparse in another way than before. Nothing was changed")


def test_parameters_without_names_are_numbered() -> None:
    p, q, r = parameter(2), parameter(2), parameter(2)
    optimizer = ours("SGD", [{"params": [p]}, {"params": [q, r]}], check_finite=True)
    r.grad = torch.full_like(r, float("nan"))
    refused(optimizer, optimizer.step, ValueError, "gradient of parameter 1 of group 1")


# ---- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["ours", "torch"])
@pytest.mark.parametrize(("kind", "other"), [(k, o) for k in KINDS for o in KINDS if k != o])
def test_the_state_of_another_optimizer(kind: str, other: str, source: str) -> None:
    _, optimizer = trained(kind)
    make = ours if source == "ours" else torchs
    foreign = make(other, [parameter(4, 3), parameter(2, 3), parameter(5)])
    state = foreign.state_dict()
    refused(
        optimizer,
        lambda: optimizer.load_state_dict(state),
        ValueError,
        f"{kind}: expected the state of Adam|{kind}: expected the state of {kind}",
    )
    for p in foreign.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    foreign.step()
    state = foreign.state_dict()
    refused(optimizer, lambda: optimizer.load_state_dict(state), ValueError, f"{kind}: expected")


@pytest.mark.parametrize("kind", ["RMSprop", "Adagrad", "Adam", "AdamW", "SGD"])
def test_the_state_of_a_table_of_another_size(kind: str) -> None:
    _, optimizer = trained(kind)
    options = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
    big = [parameter(5, 3), parameter(2, 3), parameter(5)]
    foreign = ours(kind, big, **options)
    big[0].grad = rows_gradient(big[0], [1])
    foreign.step()
    state = foreign.state_dict()
    refused(
        optimizer,
        lambda: optimizer.load_state_dict(state),
        ValueError,
        r"of parameter 0 to have shape \(4, 3\), got \(5,( 3)?",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_other_groups(kind: str) -> None:
    _, optimizer = trained(kind)
    for parts in ([[parameter(4, 3)], [parameter(2, 3), parameter(5)]], [[parameter(4, 3)]]):
        state = ours(kind, [{"params": part} for part in parts]).state_dict()
        sizes = re.escape(f"sizes [3], got {[len(part) for part in parts]}")
        refused(optimizer, lambda s=state: optimizer.load_state_dict(s), ValueError, sizes)  # type: ignore[misc]


def test_a_rowwise_state_is_no_state_by_numbers() -> None:
    _, optimizer = trained("Adagrad")
    rowwise, by_row = trained("Adagrad", rowwise=True)
    state, ours_state = by_row.state_dict(), optimizer.state_dict()
    refused(
        optimizer, lambda: optimizer.load_state_dict(state), ValueError, r"sum of parameter 0 to have shape \(4, 3\)"
    )
    refused(
        by_row, lambda: by_row.load_state_dict(ours_state), ValueError, r"sum of parameter 0 to have shape \(4, 1\)"
    )
    assert len(rowwise) == 3


def test_a_loaded_state_that_claims_a_table_of_another_optimizer() -> None:
    p = parameter(4, 3)
    owner = ours("AdamW", [p], unused="dense")
    sharing = ours("AdamW", [p])
    state = ours("AdamW", [parameter(4, 3)], unused="dense", lr=0.7).state_dict()
    refused(sharing, lambda: sharing.load_state_dict(state), ValueError, "a AdamW has taken")
    assert owner.param_groups[0]["unused"] == "dense"


def test_backends_have_names() -> None:
    with pytest.raises(ValueError, match="use_backend"), st.ops.use_backend("cuda"):
        pass


def test_a_centered_first_step_has_no_variance_to_correct() -> None:
    with pytest.raises(ValueError, match="one gradient has no variance"):
        ours("RMSprop", [parameter(2)], centered=True, bias_correction="row")
