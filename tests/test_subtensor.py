"""inc_subtensor and set_subtensor: what each index selects, what is written, what is refused. Literal in, literal out.

x is 0..11 in four rows of three.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsetrain.subtensor import Shared, Subset, apply_updates, grad, inc_subtensor, set_subtensor, shared

ROW_0, ROW_1, ROW_2, ROW_3 = [0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0], [9.0, 10.0, 11.0]
X = [ROW_0, ROW_1, ROW_2, ROW_3]


@pytest.fixture
def x() -> Shared:
    return shared(np.arange(12.0).reshape(4, 3))


class TestNames:
    def test_a_name_stands_for_the_numbers_and_in_messages(self) -> None:
        table, other = shared(np.zeros((3, 2)), name="W"), shared([1.0])
        assert repr(table) == "Shared(W, shape=(3, 2), dtype=torch.float64)"
        assert (table.name, other.name) == ("W", None)
        assert "1." in repr(other)
        with pytest.raises(ValueError, match=r"the target of update 1, W of shape \(3, 2\), comes twice"):
            apply_updates([(table, table), (table, table)])
        with pytest.raises(TypeError, match=r"the original shared variable W: expected shape \(3, 2\)"):
            apply_updates([(table, other)])

    def test_copies_keep_it(self) -> None:
        table = shared([1.0, 2.0], name="W")
        for again in (copy.deepcopy(table), pickle.loads(pickle.dumps(table))):
            assert (again.name, again.tolist(), type(again)) == ("W", [1.0, 2.0], Shared)

    def test_theanos_second_argument_is_the_name(self) -> None:
        with pytest.raises(TypeError, match=r"expected borrow to be a bool, got 'W'\. A name is given as name='W'"):
            shared([1.0], "W")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected name to be text or None, got 3"):
            shared([1.0], name=3)  # type: ignore[arg-type]


class TestWhatIsReturned:
    def test_the_whole_new_table_and_the_old_one_is_unchanged(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1)
        assert new.tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]
        assert x.tolist() == X

    def test_a_tensor_of_the_tables_type(self, x: Shared) -> None:
        new = set_subtensor(x[[0]], 1)
        assert isinstance(new, Tensor)
        assert (new.shape, new.dtype, new.ndim, len(new)) == (x.shape, x.dtype, 2, 4)

    @pytest.mark.parametrize(
        ("read", "expected"),
        [
            (lambda new: new.sum().item(), 69.0),
            (lambda new: (new * 2)[0, 0].item(), 2.0),
            (lambda new: (100 - new)[0, 0].item(), 99.0),
            (lambda new: np.asarray(new.detach())[0, 2], 3.0),
            (lambda new: torch.stack([new, new])[1, 0, 0].item(), 1.0),
            (lambda new: torch.zeros(4, 3).copy_(new)[0, 1].item(), 2.0),
            (lambda new: next(row.tolist() for row in new), [1.0, 2.0, 3.0]),
            (lambda new: torch.tensor(new.tolist())[0, 0].item(), 1.0),
            (lambda new: str(new.detach()[0]), "tensor([1., 2., 3.], dtype=torch.float64)"),
            (lambda new: torch.vmap(torch.sum)(new)[0].item(), 6.0),
        ],
    )
    def test_it_can_be_read_as_any_tensor(self, x: Shared, read: Callable[[Tensor], Any], expected: Any) -> None:
        assert read(inc_subtensor(x[[0]], 1)) == expected

    def test_what_torch_reads_from_below_is_the_table_too(self, x: Shared) -> None:
        with pytest.warns(UserWarning, match="copy construct"):
            assert torch.tensor(inc_subtensor(x[[0]], 1)).tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]

    def test_an_autograd_function_reads_it_from_below_with_its_gradient(self, x: Shared) -> None:
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, table: Tensor) -> Tensor:
                return table * 2

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
                return gradient * 2

        y = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
        for change, by_y, by_row_1 in ((inc_subtensor, [[6], [6]], 2), (set_subtensor, [[0], [6]], 0)):
            doubled = Double.apply(change(x[[1, 1]], y))
            assert grad(doubled.sum(), y).tolist() == by_y
            assert grad(doubled.sum(), x)[:2].tolist() == [[2] * 3, [by_row_1] * 3]

    def test_a_change_of_a_changed_table(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1.0)
        newer = set_subtensor(new[:, 0], inc_subtensor(new[:, 0], 5.0)[:, 0])
        assert newer.tolist() == [[6, 2, 3], [8, 4, 5], [11, 7, 8], [14, 10, 11]]
        assert new.tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]


class TestDuplicates:
    def test_inc_accumulates(self, x: Shared) -> None:
        assert inc_subtensor(x[[1, 1, 3]], 1.0).tolist() == [ROW_0, [5, 6, 7], ROW_2, [10, 11, 12]]

    def test_inc_that_ignores_duplicates(self, x: Shared) -> None:
        new = inc_subtensor(x[[1, 1, 3]], 1.0, ignore_duplicates=True)
        assert new.tolist() == [ROW_0, [4, 5, 6], ROW_2, [10, 11, 12]]

    def test_inc_that_ignores_duplicates_adds_the_last(self, x: Shared) -> None:
        new = inc_subtensor(x[[1, 1, 3]], [[1.0], [20.0], [0.0]], ignore_duplicates=True)
        assert new.tolist() == [ROW_0, [23, 24, 25], ROW_2, ROW_3]

    def test_set_keeps_the_last(self, x: Shared) -> None:
        new = set_subtensor(x[[1, 1, 3]], [[10] * 3, [20] * 3, [30] * 3])
        assert new.tolist() == [ROW_0, [20] * 3, ROW_2, [30] * 3]

    def test_set_keeps_the_last_of_many(self) -> None:
        # enough entries for torch to work on several threads
        ids = torch.randint(50, (100_000,), generator=torch.Generator().manual_seed(0))
        new = set_subtensor(shared(torch.zeros(50))[ids], torch.arange(100_000.0))
        assert new.tolist() == [float(np.flatnonzero(ids.numpy() == row)[-1]) for row in range(50)]

    def test_the_two_forms_of_an_update_differ(self, x: Shared) -> None:
        # Theano and PyTensor 3.0 rewrite the second into the first, in some modes
        subset = x[[1, 1, 3]]
        g = grad((subset**2).sum(), subset)
        assert inc_subtensor(subset, g * -0.1)[1].tolist() == pytest.approx([1.8, 2.4, 3.0], abs=1e-15)
        assert set_subtensor(subset, subset + g * -0.1)[1].tolist() == pytest.approx([2.4, 3.2, 4.0], abs=1e-15)


class TestIndices:
    def test_two_dimensional_inc(self, x: Shared) -> None:
        assert inc_subtensor(x[[[1, 1], [3, 1]]], 1.0).tolist() == [ROW_0, [6, 7, 8], ROW_2, [10, 11, 12]]

    def test_two_dimensional_set_keeps_the_last_in_c_order(self, x: Shared) -> None:
        new = set_subtensor(x[[[1, 1], [3, 1]]], np.arange(12).reshape(2, 2, 3))
        assert new.tolist() == [ROW_0, [9, 10, 11], ROW_2, [6, 7, 8]]

    def test_columns(self, x: Shared) -> None:
        assert inc_subtensor(x[:, [0, 0, 2]], 1.0).tolist() == [[2, 1, 3], [5, 4, 6], [8, 7, 9], [11, 10, 12]]

    def test_columns_with_values_of_their_own(self, x: Shared) -> None:
        y = [[1.0, 10.0, 100.0]] * 4
        assert inc_subtensor(x[:, [0, 0, 2]], y)[0].tolist() == [11, 1, 102]
        assert set_subtensor(x[:, [0, 0, 2]], y)[0].tolist() == [10, 1, 100]

    def test_pairs(self, x: Shared) -> None:
        assert inc_subtensor(x[[0, 0], [1, 1]], 5.0).tolist() == [[0, 11, 2], ROW_1, ROW_2, ROW_3]

    def test_slice(self, x: Shared) -> None:
        assert inc_subtensor(x[::2, 1], 100.0).tolist() == [[0, 101, 2], ROW_1, [6, 107, 8], ROW_3]

    def test_slices_of_rows(self, x: Shared) -> None:
        assert inc_subtensor(x[1:3], 100.0).tolist() == [ROW_0, [103, 104, 105], [106, 107, 108], ROW_3]
        assert set_subtensor(x[::-1], [[1.0], [2.0], [3.0], [4.0]])[:, 0].tolist() == [4, 3, 2, 1]

    def test_negative_indices_meet_positive_ones(self, x: Shared) -> None:
        assert inc_subtensor(x[[-1, 3]], 1.0).tolist() == [ROW_0, ROW_1, ROW_2, [11, 12, 13]]

    def test_mask_of_elements(self, x: Shared) -> None:
        assert inc_subtensor(x[x > 6], 100.0).tolist() == [ROW_0, ROW_1, [6, 107, 108], [109, 110, 111]]

    def test_mask_of_rows(self, x: Shared) -> None:
        new = inc_subtensor(x[[True, False, True, False]], 100.0)
        assert new.tolist() == [[100, 101, 102], ROW_1, [106, 107, 108], ROW_3]

    @pytest.mark.parametrize(
        "empty", [[], np.array([], dtype=np.int64), torch.empty(0, dtype=torch.int32), slice(2, 2)]
    )
    def test_empty_index(self, x: Shared, empty: Any) -> None:
        assert x[empty].shape == (0, 3)
        assert inc_subtensor(x[empty], 1.0).tolist() == X
        assert set_subtensor(x[empty], 1.0).tolist() == X

    def test_one_row_one_element_everything(self, x: Shared) -> None:
        assert inc_subtensor(x[1], [10.0, 20.0, 30.0])[1].tolist() == [13, 24, 35]
        assert set_subtensor(x[-1, 2], 0.0)[3].tolist() == [9, 10, 0]
        assert set_subtensor(x[...], 7.0).tolist() == [[7] * 3] * 4
        assert inc_subtensor(x[:], x).tolist() == (2 * x).tolist()

    @pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.uint8)])
    def test_ids_of_any_type(self, x: Shared, kind: Callable[[list[int]], Any]) -> None:
        assert x[kind([3, 0])].tolist() == [ROW_3, ROW_0]
        assert x[:, kind([2, 0])][1].tolist() == [5, 3]

    def test_tables_of_other_dimensions(self) -> None:
        scalar = shared(3.0)
        assert inc_subtensor(scalar[...], 1.0).item() == 4
        cube = shared(torch.zeros(2, 3, 2))
        assert inc_subtensor(cube[:, [1, 1]], 1.0).tolist() == [[[0, 0], [2, 2], [0, 0]]] * 2
        assert inc_subtensor(cube[1, :, [0, 0]], 1.0).tolist() == [[[0, 0]] * 3, [[2, 0]] * 3]

    def test_the_index_is_remembered_as_it_was(self, x: Shared) -> None:
        ids, y = torch.tensor([0]), torch.ones(1, 3, dtype=torch.float64)
        new = inc_subtensor(x[ids], y)
        ids.fill_(3)
        y.fill_(9)
        assert new.tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]


class TestShapesOfY:
    def test_a_row_for_every_row(self, x: Shared) -> None:
        assert inc_subtensor(x[[0, 2]], [1.0, 2.0, 3.0]).tolist() == [[1, 3, 5], ROW_1, [7, 9, 11], ROW_3]

    def test_one_number_for_each_row(self, x: Shared) -> None:
        assert inc_subtensor(x[[0, 2]], [[1.0], [2.0]]).tolist() == [[1, 2, 3], ROW_1, [8, 9, 10], ROW_3]

    def test_one_row_in_two_dimensions(self, x: Shared) -> None:
        # PyTensor's outcome depends on the mode: here it broadcasts, as in numpy
        assert inc_subtensor(x[[0, 2]], np.ones((1, 3))).tolist() == [[1, 2, 3], ROW_1, [7, 8, 9], ROW_3]

    @pytest.mark.parametrize("change", [inc_subtensor, set_subtensor])
    def test_too_many_rows(self, x: Shared, change: Callable[..., Tensor]) -> None:
        with pytest.raises(
            ValueError, match=r"y is not broadcastable to the correct shape: expected \(2, 3\), got \(3, 3\)"
        ):
            change(x[[0, 2]], np.ones((3, 3)))

    def test_too_many_dimensions(self, x: Shared) -> None:
        with pytest.raises(TypeError, match="Trying to increment a 2-dimensional subtensor with a 3-dimensional value"):
            inc_subtensor(x[[0]], np.ones((1, 1, 3)))
        with pytest.raises(TypeError, match="Trying to set a 0-dimensional subtensor with a 1-dimensional value"):
            set_subtensor(x[0, 0], [1.0])

    def test_another_device(self, x: Shared) -> None:
        with pytest.raises(ValueError, match="expected y on cpu, where the table is, got meta"):
            inc_subtensor(x[[0]], torch.ones(3, device="meta"))


class TestKindsOfNumbers:
    def test_the_table_keeps_its_dtype(self) -> None:
        new = inc_subtensor(shared(np.zeros(2, dtype=np.float32))[[0]], np.float64(0.1))
        assert new.dtype == torch.float32
        assert new.tolist() == [np.float32(0.1), 0]

    @pytest.mark.parametrize("change", [inc_subtensor, set_subtensor])
    def test_what_the_dtype_cannot_hold_is_refused(self, change: Callable[..., Tensor]) -> None:
        table = shared(np.arange(3))
        with pytest.raises(TypeError, match=r'table\'s torch.int64, got torch.float64.*casting="unsafe"'):
            change(table[[1]], 0.7)

    def test_unsafe_casting_is_theanos(self) -> None:
        table = shared(np.arange(1, 4))
        assert inc_subtensor(table[[1]], 0.7, casting="unsafe").tolist() == [1, 2, 3]
        assert set_subtensor(table[[1]], 0.7, casting="unsafe").tolist() == [1, 0, 3]
        with pytest.raises(ValueError, match='expected casting to be "same_kind" or "unsafe", got \'safe\''):
            set_subtensor(table[[1]], 0, casting="safe")  # type: ignore[arg-type]

    def test_masks_and_integers_as_tables(self) -> None:
        assert set_subtensor(shared([True, True])[[0]], False).tolist() == [False, True]
        assert inc_subtensor(shared(np.array([250], dtype=np.uint8))[[0, 0]], 2).tolist() == [254]


class TestRefused:
    @pytest.mark.parametrize("spoil", [lambda s: s * 1.0, lambda s: s.clone(), lambda s: s.detach(), lambda s: s[0]])
    @pytest.mark.parametrize("change", [inc_subtensor, set_subtensor])
    def test_not_a_subset(self, x: Shared, change: Callable[..., Tensor], spoil: Callable[[Tensor], Tensor]) -> None:
        with pytest.raises(TypeError, match="x must be the result of a subtensor operation"):
            change(spoil(x[[0, 1]]), 1)
        with pytest.raises(TypeError, match="x must be the result of a subtensor operation"):
            change(x * 2, 1)

    @pytest.mark.parametrize("ids", [[0.0, 1.0], np.array([1.0]), torch.tensor([1.0]), 1.0, (slice(None), [0.5])])
    def test_float_index(self, x: Shared, ids: Any) -> None:
        with pytest.raises(TypeError, match=r"index must be integers or a boolean mask, got torch\.float"):
            x[ids]

    @pytest.mark.parametrize("index", [True, np.True_, torch.tensor(True), (0, False)])
    def test_a_single_boolean(self, x: Shared, index: Any) -> None:
        with pytest.raises(TypeError, match="index must be integers or a boolean mask, got a single boolean"):
            x[index]

    @pytest.mark.parametrize("index", ["a", [["a"]], [[0, 1], [2]], [slice(2)]])
    def test_not_numbers(self, x: Shared, index: Any) -> None:
        with pytest.raises(TypeError, match=r"table\[index\]: expected an index to be"):
            x[index]

    @pytest.mark.parametrize("index", [[0, 9], 9, (slice(None, None, 2), [9, 0]), ([9, 0], [0, 1])])
    def test_out_of_range(self, x: Shared, index: Any) -> None:
        with pytest.raises(IndexError, match="index 9 is out of bounds"):
            x[index]

    def test_the_first_that_is_out_of_range(self, x: Shared) -> None:
        with pytest.raises(IndexError, match=r"index 4 is out of bounds for dimension 0 of size 4"):
            x[[3, 4]]
        with pytest.raises(IndexError, match=r"index -4 is out of bounds for dimension 1 of size 3"):
            x[:, [-3, -4]]

    @pytest.mark.parametrize("mask", [[True, False, True], np.ones((4, 2), dtype=bool)])
    def test_wrong_mask(self, x: Shared, mask: Any) -> None:
        with pytest.raises(IndexError, match="boolean index did not match"):
            x[mask]

    def test_too_many_indices(self, x: Shared) -> None:
        with pytest.raises(IndexError, match="too many indices"):
            x[0, 0, 0]

    def test_pairs_of_other_lengths(self, x: Shared) -> None:
        with pytest.raises(IndexError, match="could not be broadcast"):
            x[[0, 1], [0, 1, 2]]

    def test_assignment(self, x: Shared) -> None:
        with pytest.raises(TypeError, match=r"changed by updates.*set_subtensor"):
            x[0] = 1.0

    def test_a_subset_of_a_table_that_has_other_sizes_by_now(self, x: Shared) -> None:
        subset = x[[3]]
        x.set_value(np.zeros((2, 3)))
        with pytest.raises(ValueError, match=r"shape \(4, 3\) that the subset was taken of, got \(2, 3\)"):
            inc_subtensor(subset, 1.0)


class TestReadingLater:
    """A new table holds what it described, whenever it is read."""

    def test_after_the_table_was_updated_otherwise(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1.0)
        apply_updates([(x, set_subtensor(x[[0, 1]], 0.0))])
        assert new.tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]

    def test_after_the_table_was_set(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1.0)
        x.set_value(np.zeros((1, 3)))
        assert new.tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]

    def test_after_it_was_applied(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1.0)
        apply_updates([(x, new)])
        assert new.tolist() == x.tolist() == [[1, 2, 3], ROW_1, ROW_2, ROW_3]
        apply_updates([(x, x * 0)])
        assert new[0].tolist() == [1, 2, 3]

    def test_after_it_was_applied_and_the_table_went_on(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1.0)
        apply_updates([(x, new)])
        apply_updates([(x, inc_subtensor(x[[0]], 1.0))])  # makes no copy for the sake of the first
        with pytest.raises(RuntimeError, match="had become the table by an update: read the table"):
            new.sum()
        assert x[0].tolist() == [2, 3, 4]

    def test_without_gradients_it_still_records_what_was_recorded(self, x: Shared) -> None:
        y = torch.ones(3, dtype=torch.float64, requires_grad=True)
        new = inc_subtensor(x[[0, 0]], y)
        with torch.no_grad():
            assert new[0].tolist() == [2, 3, 4]
            constant = inc_subtensor(x[[0, 0]], y)
        assert grad(new.sum(), y).tolist() == [2, 2, 2]
        assert not constant.requires_grad

    def test_after_a_change_behind_the_tables_back(self, x: Shared) -> None:
        new = inc_subtensor(x[[0]], 1.0)
        with torch.no_grad():
            x.mul_(2)
        with pytest.raises(RuntimeError, match="changed in place before this new table was read"):
            new.sum()
        with pytest.raises(RuntimeError, match="changed in place before this new table was read"):
            apply_updates([(x, new)])
        assert x[1].tolist() == [6, 8, 10]


def test_a_subset_is_a_copy(x: Shared) -> None:
    subset, column = x[1:3], x[:, 0]
    apply_updates([(x, x * 0)])
    assert (subset.tolist(), column.tolist()) == ([ROW_1, ROW_2], [0, 3, 6, 9])
    assert isinstance(subset, Subset)
