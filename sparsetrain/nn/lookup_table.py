"""A table of which each step reads and trains a few rows."""

from operator import index
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import checks, tracing
from ..dtypes import FLOATS, HALVES, accepted, keeping_wide, wide, widen_loaded, widened
from ..edges.pending import bring_up_to_date
from ..edges.sharded import is_sharded, row_sparse_refused
from ..ops import lookup_operators
from ..ops.lookup import lookup, most_of_bags, pooled_lookup, weighted_lookup
from ..ops.pools import pooled, rows_read
from .arguments import by_either_name
from .bags import check_lookup, rows_of

Pool = Literal["sum", "mean", "max"]


class LookupTable(nn.Module):
    r"""A table whose rows are looked up by ids, :math:`y = W_{ids}`; its gradient contains only the used rows.

    What nn.Embedding and nn.EmbeddingBag are with ``sparse=True``, and a table that sparsetrain.optim may update lazily
    (``unused="dense"``): rows are brought up to date before they are read, saved or copied. Optimizers of
    sparsetrain.optim step the used rows alone; of torch's, SGD, Adagrad and SparseAdam take such gradients. It is
    differentiable any number of times; under torch.func and forward mode gradients are dense, and max_norm scales what
    is read but not the table. A compiled or traced graph neither checks ids nor brings rows up to date: call
    ``optimizer.flush()`` before it runs.

    Args:
        rows: how many rows, the ids 0 to rows - 1.
        dim: numbers of each.
        columns: ids name columns of a matrix (dim, rows), and the result is that matrix's ``[:, ids]``. The table is
            stored by columns, ``weight`` having one in each row, so that it trains as fast.
        padding_idx: an id whose row gets no gradient, starts at zero, and does not count in a pool.
        max_norm, norm_type: rows of a larger norm are scaled to it when they are read, as in nn.Embedding.
        pool: return the ``"sum"``, the ``"mean"`` or the largest numbers (``"max"``) of the rows of each bag, as
            nn.EmbeddingBag does.
        include_last_offset: offsets have one number more, which is the number of ids, as pointers of CSR have.
        generator: of the initial values.
        device: of the table.
        dtype: of what is returned. The table itself is float64 where that is, and float32 otherwise: in half precision
            most updates are too small to change a number.

    Shape:
        ids ``(*)`` to ``(*, dim)``, or ``(dim, *)`` with columns. With a pool: ids ``(bags, length)``, or ``(k,)`` and
        offsets ``(bags,)`` where each bag begins, ``(bags + 1,)`` with include_last_offset, to ``(bags, dim)``, or
        ``(dim, bags)`` with columns.

    Attributes:
        output_dtype: float16 or bfloat16 where rows are returned in it, as after ``.to(torch.bfloat16)``, or None.
        weight: shape ``(rows, dim)``; N(0, 1) at first. Under ``unused="dense"`` read it after ``optimizer.flush()``.

    Raises:
        TypeError: ids that are not int32 or int64, or a dtype that is no floating-point one. IndexError: an id out of
        range, negative ones included. ValueError: a shape or an option that does not fit. RuntimeError, at a later
        call: ids or offsets on CUDA that are out of range, which the device asserts as for nn.Embedding, so that
        nothing waits for it.

    Source: torch.nn.Embedding, torch.nn.EmbeddingBag.

    Example:
        >>> table = LookupTable(1000, 4)
        >>> table(torch.tensor([[3, 7], [7, 7]])).sum().backward()
        >>> table.weight.grad.coalesce().indices().tolist()
        [[3, 7]]
        >>> LookupTable(1000, 4, pool="mean")(torch.tensor([3, 7, 7]), offsets=torch.tensor([0, 1])).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        columns: bool = False,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        pool: Pool | None = None,
        include_last_offset: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = type(self).__name__
        self.rows, self.dim = checks.count(where, "rows", rows), checks.count(where, "dim", dim)
        padding_idx = None if padding_idx is None else index(padding_idx)
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(f"{where}: expected padding_idx from {-rows} to {rows - 1}, got {padding_idx}.")
        if pool not in (None, *get_args(Pool)):
            raise ValueError(f"{where}: expected pool to be None, 'sum', 'mean' or 'max', got {pool!r}.")
        if include_last_offset and pool is None:
            raise ValueError(f"{where}: include_last_offset is for a table with a pool.")
        for name, number in (("max_norm", max_norm), ("norm_type", norm_type)):
            if number is not None and not number > 0:
                raise ValueError(f"{where}: expected {name} > 0, got {number}.")
        self.columns, self.pool, self.max_norm, self.norm_type = columns, pool, max_norm, norm_type
        self.include_last_offset = include_last_offset
        self.padding_idx = None if padding_idx is None else padding_idx % rows
        asked = accepted(where, dtype)
        self.output_dtype = asked if asked in HALVES else None
        self.weight = nn.Parameter(torch.empty(self._stored_rows(), dim, device=device, dtype=wide(asked)))
        self.reset_parameters(generator)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight" and is_sharded(value):
            raise row_sparse_refused(
                "LookupTable",
                "Leave the table out, fully_shard(model, ignored_params={table.weight}), as a "
                "sparsetrain.distributed.ShardedLookupTable, which spreads its rows itself, or take nn.Embedding.",
            )
        super().__setattr__(name, value)

    @classmethod
    def from_pretrained(cls, weight: Any, freeze: bool = False, **options: Any) -> Self:
        """Create a table from given weights, as nn.Embedding.from_pretrained; it is trainable unless ``freeze`` is set.

        Args:
            weight: a tensor or an array of shape (rows, dim), also with ``columns=True``. A contiguous tensor, float32
                or float64, is taken without a copy, so that training changes it; pass ``weight.clone()`` to keep it.
                Numbers in half precision are copied to float32, and rows are returned in their dtype.
            freeze: the table does not train.
            options: columns, padding_idx, max_norm, norm_type, pool and include_last_offset of the class. The row of
                padding stays as it is in ``weight``.

        Raises:
            TypeError: no numbers in floating point. ValueError: another number of dimensions, or an option.

        Source: torch.nn.Embedding.from_pretrained.

        Example:
            >>> table = LookupTable.from_pretrained(torch.eye(3), padding_idx=0)
            >>> table(torch.tensor([2, 0])).tolist()
            [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        """
        where = "LookupTable.from_pretrained"
        numbers = checks.numbers(where, "weight", weight)
        if numbers.ndim != 2:
            raise ValueError(f"{where}: expected weight of shape (rows, dim), got {tuple(numbers.shape)}.")
        table = cls(*numbers.shape, device="meta", dtype=accepted(where, numbers.dtype), **options)
        table.weight = nn.Parameter(widened(numbers).contiguous(), requires_grad=not freeze)
        return table

    def _stored_rows(self) -> int:
        """How many rows the weight is made with."""
        return self.rows

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the table anew from N(0, 1); the row of padding is zero."""
        bring_up_to_date(self.weight)
        self.weight.normal_(generator=checks.generator("LookupTable", generator))
        if self.padding_idx is not None:
            self.weight[self.padding_idx] = 0

    def forward(
        self,
        input: Tensor | None = None,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
        ids: Tensor | None = None,
    ) -> Tensor:
        """The rows of the ids; with a pool of each bag's, times ``per_sample_weights`` (shape of ids) where given. The
        first argument may be called ``ids`` or, as in nn.Embedding, ``input``."""
        if input is None or ids is not None:
            input = by_either_name("LookupTable", input, ids, "ids")
        if tracing.is_symbolic(input):
            return tracing.as_leaf(self, input, offsets, per_sample_weights)  # type: ignore[no-any-return]
        y = self._rows(input, offsets, per_sample_weights)
        if self.output_dtype is not None:
            y = y.to(self.output_dtype)
        return y.movedim(-1, 0) if self.columns else y

    def _rows(self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None) -> Tensor:
        given = [self.weight, ids, *([offsets] if isinstance(offsets, Tensor) else [])]
        checked = not isinstance(ids, Tensor) or tracing.readable(*given)
        if checked:
            self._check(ids, offsets, weights)
        bring_up_to_date(self.weight, ids if checked and weights is None else None)
        if self.pool is None:
            return self._looked_up(ids.reshape(-1)).view(*ids.shape, self.weight.shape[-1])
        flat, offsets = self._bags(ids, offsets, checked)
        return self._pooled(flat, offsets, None if weights is None else widened(weights).reshape(-1))

    def _bags(self, ids: Tensor, offsets: Tensor | None, checked: bool) -> tuple[Tensor, Tensor]:
        """Flat ids, and where each bag begins."""
        if offsets is None:
            bags, length = ids.shape
            offsets = torch.arange(0, ids.numel(), length, device=ids.device) if length else ids.new_zeros(bags)
        elif self.include_last_offset:
            offsets = offsets[:-1]
        flat = ids.reshape(-1)
        if checked and not offsets.numel():
            flat = flat[:0]  # ids of no bag
        return flat, offsets.to(flat)

    def _looked_up(self, ids: Tensor) -> Tensor:
        if tracing.transforming():
            return rows_read(ids, self.weight, self.padding_idx, self.max_norm, self.norm_type)
        if self.padding_idx is not None and self._in_operators():
            return lookup_operators.lookup(ids, self.weight, self.padding_idx)
        if self._by_torch(ids):
            norm = {"max_norm": self.max_norm, "norm_type": self.norm_type, "sparse": True}
            return functional.embedding(ids, self.weight, self.padding_idx, **norm)  # type: ignore[arg-type]
        self._limit_norms(ids)
        return lookup(ids, self.weight, self.padding_idx)

    def _pooled(self, ids: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        # torch's embedding_bag by maximum would be exported for one number of bags alone
        if tracing.transforming() or (self.pool == "max" and tracing.exporting()):
            return pooled(self._looked_up(ids), ids, offsets, str(self.pool), weights, self.padding_idx)
        if self.pool == "max":  # torch's has a gradient of the whole table, which the rows that are read bound here
            return most_of_bags(self._looked_up(ids), ids, offsets, self.padding_idx)
        if self.padding_idx is not None and weights is None and self._in_operators():
            return lookup_operators.pooled_lookup(ids, self.weight, offsets, str(self.pool), self.padding_idx)
        if self._by_torch(ids):
            return functional.embedding_bag(
                ids, self.weight, offsets, mode=str(self.pool), per_sample_weights=weights,
                padding_idx=self.padding_idx, max_norm=self.max_norm, norm_type=self.norm_type,
                sparse=True,
            )  # fmt: skip
        self._limit_norms(ids)
        if weights is not None:
            return weighted_lookup(ids, self.weight, offsets, weights, self.padding_idx)
        return pooled_lookup(ids, self.weight, offsets, self.pool, self.padding_idx)  # type: ignore[arg-type]

    def _in_operators(self) -> bool:
        """Whether a graph is compiled that our operators can be in: they are there for the gradient alone, and a graph
        that is exported without one is read by programs that do not have them."""
        without_gradient = tracing.exporting() and not torch.is_grad_enabled()
        return tracing.compiling() and self.max_norm is None and not without_gradient

    def _by_torch(self, ids: Tensor) -> bool:
        """Whether torch's own embeddings compute: traced, or of a dtype that rows are not stepped in."""
        if self.max_norm is not None and tracing.compiling() and torch.is_grad_enabled():
            raise NotImplementedError(
                "LookupTable: max_norm writes into the table, whose gradient torch.compile would make dense. Leave the "
                "table out of the graph: table.forward = torch.compiler.disable(table.forward)."
            )
        return tracing.watched(ids, self.weight) or self.weight.dtype not in FLOATS

    def _limit_norms(self, ids: Tensor) -> None:
        if self.max_norm is not None:
            torch.embedding_renorm_(self.weight.detach(), ids, self.max_norm, self.norm_type)

    def _check(self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None) -> None:
        where = type(self).__name__
        check_lookup(where, self, self._known_rows(where), ids, offsets, weights)

    def _known_rows(self, where: str) -> int:
        """Below which ids are: not ``rows``, as the weight may have been tied, replaced or resized."""
        return rows_of(where, self.weight, self.padding_idx)

    __prepare_scriptable__ = tracing.refuse_script

    @property
    def matrix(self) -> Tensor:
        """The table with pending updates applied, (rows, dim), or (dim, rows) with columns. A view of weight."""
        bring_up_to_date(self.weight)
        return self.weight.t() if self.columns else self.weight

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        bring_up_to_date(self.weight)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        bring_up_to_date(self.weight)  # pending updates belong to the old values
        widen_loaded(state_dict, prefix + "weight")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        bring_up_to_date(self.weight)
        asked = fn(self.weight.new_empty(0, dtype=self.output_dtype)).dtype
        self.output_dtype = asked if asked in HALVES else None
        return super()._apply(keeping_wide(fn), recurse)  # type: ignore[no-untyped-call,no-any-return]

    def __getstate__(self) -> Any:
        bring_up_to_date(self.weight)  # before a copy or a pickle of it is made
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        options = {
            "columns": self.columns,
            "padding_idx": self.padding_idx,
            "max_norm": self.max_norm,
            "pool": self.pool,
        }
        return ", ".join(
            [f"{self.rows}, {self.dim}", *(f"{k}={v}" for k, v in options.items() if v is not None and v is not False)]
        )
