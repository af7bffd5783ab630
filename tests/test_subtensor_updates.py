"""Shared variables, and updates that are applied at once: apply_updates and function."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsetrain.subtensor import Shared, apply_updates, function, grad, inc_subtensor, set_subtensor, shared


class TestShared:
    def test_it_copies_unless_it_borrows(self) -> None:
        array = np.ones(3)
        own, lent = shared(array), shared(array, borrow=True)
        array[0] = 7
        assert (own.tolist(), lent.tolist()) == ([1, 1, 1], [7, 1, 1])
        apply_updates([(own, inc_subtensor(own[[0]], 2.0)), (lent, inc_subtensor(lent[[0]], 2.0))])
        assert array.tolist() == [9, 1, 1]

    def test_it_borrows_tensors(self) -> None:
        tensor = torch.zeros(2)
        table = shared(tensor, borrow=True)
        apply_updates([(table, table + 1)])
        assert tensor.tolist() == [1, 1]
        assert not tensor.requires_grad

    def test_get_value(self) -> None:
        table = shared([1, 2])
        copied, lent = table.get_value(), table.get_value(borrow=True)
        apply_updates([(table, inc_subtensor(table[[0]], 4))])
        assert (copied.tolist(), lent.tolist()) == ([1, 2], [5, 2])
        assert type(copied) is type(lent) is Tensor

    def test_set_value(self) -> None:
        table, array = shared([1.0, 2.0]), np.zeros(3)
        table.set_value(array)
        array += 1
        assert table.tolist() == [0, 0, 0]
        table.set_value(array, borrow=True)
        array += 1
        assert table.tolist() == [2, 2, 2]
        table.set_value([5, 6])  # a list has no dtype of its own
        assert (table.tolist(), table.dtype, table.requires_grad) == ([5, 6], torch.float64, True)

    @pytest.mark.parametrize("value", [np.zeros(2, dtype=np.float32), np.zeros((2, 1)), [[0.0]], [1j]])
    def test_set_value_of_another_type(self, value: Any) -> None:
        table = shared([1.0, 2.0])
        with pytest.raises(TypeError, match=r"set_value: expected 1 dimensions of torch.float64"):
            table.set_value(value)
        assert table.tolist() == [1, 2]

    def test_a_graph_from_before_set_value_is_stale(self) -> None:
        table = shared([1.0, 2.0])
        cost = (table**2).sum()
        table.set_value([3.0, 4.0])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            grad(cost, table)

    def test_memory_that_cannot_be_borrowed(self) -> None:
        frozen = np.zeros(2)
        frozen.flags.writeable = False
        for value, reason in (
            (frozen, "it is read-only"),
            (np.zeros((2, 2))[:, 0], "it is not contiguous"),
            (torch.zeros(2).expand(2, 2), "it is not contiguous"),
            ([1.0], "a list has none"),
        ):
            with pytest.raises(ValueError, match=f"shared: expected memory that can be borrowed, but {reason}"):
                shared(value, borrow=True)
            assert shared(value).is_contiguous()

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("a", "expected the value to be"),
            (np.zeros(2, dtype=np.uint16), "got torch.uint16"),
            (torch.eye(2).to_sparse(), r"got layout torch.sparse_coo. Convert with .to_dense\(\)"),
        ],
    )
    def test_not_a_table(self, value: Any, message: str) -> None:
        with pytest.raises(TypeError, match=f"shared: .*{message}"):
            shared(value)

    def test_it_is_a_variable_of_any_expression(self) -> None:
        w, x = shared([[1.0, 2.0]]), torch.tensor([3.0, 4.0], dtype=torch.float64)
        assert (w @ x).tolist() == [11]
        assert grad((w @ x).sum() + (w**2).sum(), w).tolist() == [[5, 8]]

    def test_copies_and_pickles_are_shared_variables_of_their_own(self) -> None:
        table = shared([1.0, 2.0])
        inc_subtensor(table[[0]], 1.0)
        for other in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
            assert isinstance(other, Shared)
            apply_updates([(other, other + 1)])
            assert (table.tolist(), other.tolist()) == ([1, 2], [2, 3])
        twice = copy.deepcopy([table, table])
        assert twice[0] is twice[1]


class TestGrad:
    def test_one_row_for_each_occurrence(self) -> None:
        x = shared(np.arange(12.0).reshape(4, 3))
        subset = x[[1, 1, 3]]
        cost = (subset * torch.tensor([[1.0], [10.0], [100.0]])).sum()
        assert grad(cost, subset).tolist() == [[1] * 3, [10] * 3, [100] * 3]
        assert grad(cost, x).tolist() == [[0] * 3, [11] * 3, [0] * 3, [100] * 3]

    def test_several_at_once_and_again(self) -> None:
        a, b = shared([1.0, 2.0]), shared(3.0)
        subset = a[[0]]
        cost = (subset * b).sum()
        by_subset, by_b = grad(cost, [subset, b])
        assert (by_subset.tolist(), by_b.item(), grad(cost, b).item()) == ([3], 1, 1)

    def test_gradient_of_a_gradient(self) -> None:
        subset = shared([2.0, 3.0])[[1, 1]]
        slope = grad((subset**3).sum(), subset, create_graph=True)
        assert slope.tolist() == [27, 27]
        assert grad(slope.sum(), subset).tolist() == [18, 18]

    def test_complex_tables(self) -> None:
        subset = shared([1 + 2j])[[0, 0]]
        assert grad(subset.abs().square().sum(), subset).tolist() == [2 + 4j, 2 + 4j]

    def test_indexing_again_is_another_variable(self) -> None:
        table, ids = shared(np.ones((4, 3))), [1, 1, 3]
        subset = table[ids]
        cost = (subset**2).sum()
        with pytest.raises(
            ValueError, match=r"does not depend on this Subset.*Every table\[index\] is a new variable.*one subset"
        ):
            grad(cost, table[ids])

    def test_costs_and_variables_that_have_no_gradient(self) -> None:
        table = shared([1.0, 2.0])
        subset = table[[0]]
        with pytest.raises(TypeError, match=r"cost must be a scalar, got shape \(1,\)"):
            grad(subset, subset)
        with pytest.raises(TypeError, match="cost must be a scalar, got float"):
            grad(1.0, subset)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"floating point, got torch.int64"):
            grad(subset.sum(), shared([1])[[0]])
        with pytest.raises(ValueError, match="does not depend on this Shared of shape"):
            grad(subset.sum(), shared(1.0))
        with pytest.raises(ValueError, match="cost depends on no variable"):
            grad(subset.detach().sum(), subset)
        with torch.no_grad():
            constant = table[[0]]
        with pytest.raises(ValueError, match=r"computed under torch.no_grad"):
            grad(subset.sum(), constant)


class TestApplyUpdates:
    def test_all_values_are_old_ones(self) -> None:
        a, b = shared([1.0]), shared([2.0])
        apply_updates([(a, b), (b, a)])
        assert (a.tolist(), b.tolist()) == ([2], [1])

    def test_values_that_look_at_other_targets(self) -> None:
        a, b, c = shared([1, 2]), shared([10, 20]), shared([0, 0])
        updates = {
            a: inc_subtensor(a[[0]], b[[1]]),
            b: inc_subtensor(a[[0]], 100),  # a changed, and given to b
            c: b.get_value(borrow=True).flip(0)[:2] + a,
        }
        apply_updates(updates)
        assert (a.tolist(), b.tolist(), c.tolist()) == ([21, 2], [101, 2], [21, 12])

    def test_views_of_targets(self) -> None:
        a, b = shared([[1, 2], [3, 4]]), shared([[0, 0], [0, 0]])
        apply_updates([(a, a.get_value(borrow=True).t()), (b, a.get_value(borrow=True))])
        assert (a.tolist(), b.tolist()) == ([[1, 3], [2, 4]], [[1, 2], [3, 4]])

    def test_one_new_table_for_two_targets(self) -> None:
        a, b = shared([1, 2]), shared([0, 0])
        new = inc_subtensor(a[[0]], 5)
        apply_updates([(a, new), (b, new)])
        assert a.tolist() == b.tolist() == [6, 2]

    def test_a_changed_change(self) -> None:
        a = shared([1, 2, 3])
        first = inc_subtensor(a[[0, 0]], 5)
        apply_updates([(a, set_subtensor(first[[1]], 0))])
        assert a.tolist() == [11, 0, 3]

    def test_a_new_table_that_was_read_and_changed(self) -> None:
        a = shared([1, 2])
        new = inc_subtensor(a[[0]], 5)
        new.add_(1)
        apply_updates([(a, new)])
        assert a.tolist() == [7, 3]

    def test_memory_stays(self) -> None:
        a = shared(np.zeros((5, 2)))
        place = a.data_ptr()
        apply_updates([(a, a + 1)])
        apply_updates([(a, inc_subtensor(a[[1, 1]], 1.0))])
        assert a.data_ptr() == place
        assert a.tolist() == [[1, 1], [3, 3], [1, 1], [1, 1], [1, 1]]
        assert a.grad_fn is None

    def test_numbers_become_values(self) -> None:
        count, lr = shared(3), shared(0.5)
        apply_updates([(count, 0), (lr, np.float64(0.25))])
        assert (count.item(), lr.item()) == (0, 0.25)

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda a, b: [(a, a + 1), (a, a + 2)], ValueError, "already has an update expression"),
            (
                lambda a, b: [(a, a + 1), (torch.zeros(2), b)],
                TypeError,
                "target must be a shared variable, got Tensor at 1",
            ),
            (lambda a, b: [(b, b + 1), (a[[0]], b)], TypeError, "target must be a shared variable, got Subset at 1"),
            (
                lambda a, b: [(b, b + 1), (a, a.float())],
                TypeError,
                r"same type as the original.*got \(2,\), torch.float32",
            ),
            (lambda a, b: [(b, b + 1), (a, torch.zeros(3).double())], TypeError, r"same type.*expected shape \(2,\)"),
            (lambda a, b: [(b, b + 1), (a, inc_subtensor(shared(0.0)[...], 1.0))], TypeError, "same type"),
            (lambda a, b: [(b, b + 1), (a, a.to("meta"))], TypeError, "on cpu, got .* on meta"),
            (lambda a, b: [(b, b + 1), (a, "a")], TypeError, "expected a new value to be"),
            (lambda a, b: [(b, b + 1), a], TypeError, r"pairs \(shared variable, new value\), got Shared at 1"),
        ],
    )
    def test_refused_and_nothing_changed(self, make: Any, error: type[Exception], message: str) -> None:
        a, b = shared([1.0, 2.0]), shared([3.0, 4.0])
        with pytest.raises(error, match=message):
            apply_updates(make(a, b))
        assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])

    def test_a_graph_from_before_is_stale(self) -> None:
        a = shared([1.0, 2.0])
        cost = (a**2).sum()
        apply_updates([(a, inc_subtensor(a[[0]], 1.0))])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            grad(cost, a)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation makes outside the memory of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.elements, self.home = 0, table.untyped_storage().data_ptr()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() != self.home:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("index", [[5, 5, 7], (slice(None), [1]), ([5, 5, 7], [0, 1, 0]), slice(2, 5)])
def test_nothing_of_the_tables_size_is_made_by_a_step(index: Any) -> None:
    table = shared(torch.zeros(100, 8))
    with Largest(table) as seen:
        for _ in range(3):
            subset = table[index]
            g = grad(((subset - 1) ** 2).sum(), subset)
            inc_subtensor(subset, g)  # neither read nor applied nor kept
            new = inc_subtensor(subset, -0.1 * g)
            apply_updates([(table, new)])
            apply_updates([(table, set_subtensor(table[index], table[index] * 2))])
        assert seen.elements <= 100  # one column
        inc_subtensor(subset, 1.0).sum()  # read before it is applied: the whole new table
        assert seen.elements == 800


class TestFunction:
    def test_outputs_are_old_values(self) -> None:
        a, b = shared(1.0), shared(2.0)

        @function
        def swap() -> Any:
            return [a, b], [(a, b), (b, a)]

        assert [v.item() for v in swap()] == [1, 2]
        assert (a.item(), b.item()) == (2, 1)
        assert [v.item() for v in swap()] == [2, 1]

    def test_outputs_of_any_structure(self) -> None:
        table = shared([1.0, 2.0, 3.0])

        @function
        def step(ids: list[int]) -> Any:
            """Adds one."""
            subset = table[ids]
            new = inc_subtensor(subset, 1.0)
            return {"cost": subset.sum(), "rows": (subset, len(ids)), "new": new, "old": table.view(3, 1)}, [
                (table, new)
            ]

        assert (step.__name__, step.__doc__) == ("step", "Adds one.")
        out = step([0, 0])
        assert out["cost"].item() == 2
        assert not out["cost"].requires_grad
        assert (out["rows"][0].tolist(), out["rows"][1]) == ([1, 1], 2)
        assert out["new"].tolist() == table.tolist() == [3, 2, 3]
        assert out["old"].tolist() == [[1], [2], [3]]

    def test_used_with_and_without_parentheses(self) -> None:
        count = shared(0)
        for decorate in (function, function()):
            decorate(lambda: (None, [(count, count + 1)]))()
        assert count.item() == 2

    def test_updates_of_every_call(self) -> None:
        a, b, count = shared(1), shared(2), shared(0)

        @function(updates=[(count, lambda: count + 1), (b, a)])
        def step(n: int) -> Any:
            return a * n, [(a, b)]

        assert [step(10).item(), step(100).item()] == [10, 200]
        assert (a.item(), b.item(), count.item()) == (1, 2, 2)

    def test_a_value_computed_once_is_refused(self) -> None:
        count = shared(0)
        with pytest.raises(TypeError, match="which are read at each call, got Tensor, computed once"):
            function(updates=[(count, count + 1)])

    @pytest.mark.parametrize("returned", [1.0, (1, [], 2), [1, []]])
    def test_what_is_not_outputs_and_updates(self, returned: Any) -> None:
        with pytest.raises(TypeError, match=r"function: expected the step to return \(outputs, updates\)"):
            function(lambda: returned)()

    @pytest.mark.parametrize(
        ("arguments", "options"),
        [([[1], 2], {}), ([[1]], {}), ([], {"inputs": [1], "outputs": 2}), ([abs, 2], {}), ([abs], {"givens": {}})],
        ids=str,
    )
    def test_arguments_of_theanos_function(self, arguments: Any, options: Any) -> None:
        with pytest.raises(TypeError, match=r"got arguments as of theano\.function\. .* write @function over a Python"):
            function(*arguments, **options)

    def test_a_refused_update_changes_nothing(self) -> None:
        a, b = shared(1.0), shared(2.0)
        step = function(lambda twice: (a, [(a, a + 1), (a if twice else b, b + 1)]), updates=[])
        with pytest.raises(ValueError, match="already has an update expression"):
            step(True)
        assert (a.item(), b.item()) == (1, 2)
        step(False)
        assert (a.item(), b.item()) == (2, 3)

        with pytest.raises(ValueError, match="already has an update expression"):
            function(updates=[(a, b)])(lambda: (None, [(a, a)]))()  # one here, one there
        assert a.item() == 2
