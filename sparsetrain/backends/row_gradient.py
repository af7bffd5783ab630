"""A row-sparse gradient in the one form that row steps take.

A gradient is sparse over the leading dimensions of its parameter; what they address together is a *row*, of ``dim``
numbers. Rows of a table, edges of a value array (dim 1) and single entries of a matrix are all of this form.
"""

import math
from functools import cached_property

import numpy as np
import torch
from sparsetrain_kernels import rows as kernels
from sparsetrain_kernels.jit import COMPILES
from torch import Tensor

from ..arrays import Array, array


class RowGradient:
    """``ids`` (k,) in any order, with duplicates unless ``distinct``; ``rows`` of the table; ``values`` (k, dim), or
    any number of them where ``places`` (k,) says which is whose."""

    rising = False  # whether the ids are known to rise, each once: nothing is to be sorted

    def __init__(
        self, ids: Tensor | None, values: Tensor, rows: int, dim: int, distinct: bool, places: Tensor | None = None
    ) -> None:
        self._given, self.values, self.rows, self.dim, self.distinct = ids, values, rows, dim, distinct
        self.places = places

    @classmethod
    def of_sparse(cls, gradient: Tensor) -> "RowGradient":
        """A sparse COO gradient; its duplicates stay as they are."""
        shape, leading = gradient.shape, gradient.sparse_dim()
        indices = gradient._indices()
        ids = indices[0]
        for size, index in zip(shape[1:leading], indices[1:], strict=True):
            ids = ids * size + index
        rows, dim = math.prod(shape[:leading]), math.prod(shape[leading:])
        return cls(ids, gradient._values().reshape(ids.numel(), dim), rows, dim, gradient.is_coalesced())

    @classmethod
    def of_dense(cls, gradient: Tensor, rows: int) -> "RowGradient":
        """A dense gradient: every row is used."""
        dim = gradient.numel() // max(1, rows)
        g = cls(None, gradient.reshape(rows, dim), rows, dim, distinct=True)
        g.rising = True
        return g

    @cached_property
    def ids(self) -> Tensor:
        """The row of each gradient; of a dense one made when somebody asks, as it takes twice the memory of numbers."""
        return torch.arange(self.rows, device=self.values.device) if self._given is None else self._given

    @cached_property
    def groups(self) -> kernels.Groups:
        """The distinct rows and their places in ``values``, as arrays: on a CPU."""
        if self._given is None:  # they rise: nothing is to be sorted
            nothing = np.empty(0, np.int32)
            return kernels.Groups(self._ids, nothing, nothing)
        places = None if self.places is None else array(self.places)
        return kernels.group(self._ids, self.rows, torch.get_num_threads(), places)

    @cached_property
    def _ids(self) -> Array:
        return array(self.ids)

    @cached_property
    def used(self) -> Tensor:
        """The distinct rows, ascending."""
        if self.ids.device.type == "cpu" and COMPILES:
            # where the ids rise they are the rows, and no array over them may outlive the call
            return self.ids if self.groups.rows is self._ids else torch.from_numpy(self.groups.rows)
        return self.ids if self.distinct else torch.unique(self.ids)


def sparse_rows(ids: Tensor, values: Tensor, shape: torch.Size, leading: int = 1) -> Tensor:
    """The sparse gradient that has these values in rising rows of a tensor of this shape, each once."""
    indices = ids[None] if leading == 1 else torch.stack(torch.unravel_index(ids, shape[:leading]))
    values = values.reshape(ids.numel(), *shape[leading:]) if ids.numel() else values.new_empty(0, *shape[leading:])
    if not ids.numel():  # autograd adds to it in place, which memory that arrays have shared does not allow
        indices = torch.empty(leading, 0, dtype=torch.int64, device=values.device)
    return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=True, check_invariants=False)
