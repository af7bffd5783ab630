"""Generated CSR structures and dense operands, for every test that needs them."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Array = npt.NDArray[Any]


class Structure(NamedTuple):
    """Canonical CSR arrays of a matrix (rows, columns)."""

    rows: int
    columns: int
    crow: Array
    col: Array

    @property
    def row(self) -> Array:
        return np.repeat(np.arange(self.rows), np.diff(self.crow))

    def dense(self, values: Array) -> Array:
        """The matrix in float64."""
        matrix = np.zeros((self.rows, self.columns))
        matrix[self.row, self.col] = values
        return matrix


def structure_of(mask: Array, index: Any = np.int32) -> Structure:
    row, col = np.nonzero(mask)
    crow = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=mask.shape[0]))])
    return Structure(*mask.shape, crow.astype(index), col.astype(index))


@st.composite
def structures(draw: st.DrawFn, most: int = 40) -> Structure:
    """Any structure: empty, one row, one column, empty rows, full density."""
    rows, columns = draw(st.integers(0, most)), draw(st.integers(0, most))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    seed = draw(st.integers(0, 2**32 - 1))
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    if rows and draw(st.booleans()):
        mask[draw(st.integers(0, rows - 1))] = False
    return structure_of(mask)


def laid_out(matrix: Array, layout: str) -> Array:
    """The same matrix (features, batch) in another memory layout."""
    if layout == "feature-major":
        return np.ascontiguousarray(matrix)
    if layout == "row-major":
        return np.asfortranarray(matrix)
    wide = np.zeros((2 * matrix.shape[0] + 1, 3 * matrix.shape[1] + 2), matrix.dtype)
    view = wide[1::2, 2::3]
    view[:] = matrix
    return view


LAYOUTS = ["row-major", "feature-major", "strided"]
