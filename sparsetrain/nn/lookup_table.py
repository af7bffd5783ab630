"""A table of which each step reads and trains a few rows."""

from operator import index
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import checks
from ..ops.autograd import transforming
from ..ops.lookup import lookup, pooled_lookup
from ..rows import bring_up_to_date

Pool = Literal["sum", "mean"]
FLOATS = (torch.float32, torch.float64)


class LookupTable(nn.Module):
    r"""A table whose rows are looked up by ids, :math:`y = W_{ids}`; its gradient names the used rows alone.

    What nn.Embedding and nn.EmbeddingBag are with ``sparse=True``, and a table that sparsetrain.optim may owe steps
    (``unused="dense"``): rows are brought up to date before they are read, saved or copied. Optimizers of
    sparsetrain.optim step the used rows alone; of torch's, SGD, Adagrad and SparseAdam take such gradients. In
    torch.compile and torch.func the gradient is dense, and a compiled graph can't bring rows up to date: call
    ``optimizer.flush()`` before it runs.

    Args:
        rows: how many rows, the ids 0 to rows - 1.
        dim: numbers of each.
        columns: ids name columns of a matrix (dim, rows), and the result is that matrix's ``[:, ids]``. The table is
            stored by columns, ``weight`` having one in each row, so that it trains as fast.
        padding_idx: an id whose row gets no gradient, starts at zero, and does not count in a pool.
        max_norm, norm_type: rows of a larger norm are scaled to it when they are read, as in nn.Embedding.
        pool: return the ``"sum"`` or the ``"mean"`` of the rows of each bag, as nn.EmbeddingBag does.
        generator: of the initial values.
        device, dtype: of the table.

    Shape:
        ids ``(*)`` to ``(*, dim)``, or ``(dim, *)`` with columns. With a pool: ids ``(bags, length)``, or ``(k,)`` and
        offsets ``(bags,)`` where each bag begins, to ``(bags, dim)``, or ``(dim, bags)`` with columns.

    Attributes:
        weight: shape ``(rows, dim)``; N(0, 1) at first. Under ``unused="dense"`` read it after ``optimizer.flush()``.

    Raises:
        TypeError: ids that are not int32 or int64. IndexError: an id out of range, negative ones included.
        ValueError: a shape or an option that does not fit.

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
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where = "LookupTable"
        self.rows, self.dim = checks.count(where, "rows", rows), checks.count(where, "dim", dim)
        padding_idx = None if padding_idx is None else index(padding_idx)
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(f"{where}: expected padding_idx from {-rows} to {rows - 1}, got {padding_idx}.")
        if pool not in (None, "sum", "mean"):
            raise ValueError(f"{where}: expected pool to be None, 'sum' or 'mean', got {pool!r}.")
        for name, number in (("max_norm", max_norm), ("norm_type", norm_type)):
            if number is not None and not number > 0:
                raise ValueError(f"{where}: expected {name} > 0, got {number}.")
        self.columns, self.pool, self.max_norm, self.norm_type = columns, pool, max_norm, norm_type
        self.padding_idx = None if padding_idx is None else padding_idx % rows
        self.weight = nn.Parameter(torch.empty(rows, dim, device=device, dtype=dtype))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the table anew from N(0, 1); the row of padding is zero."""
        bring_up_to_date(self.weight)
        self.weight.normal_(generator=checks.generator("LookupTable", generator))
        if self.padding_idx is not None:
            self.weight[self.padding_idx] = 0

    def forward(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """The rows of the ids; with a pool of each bag's, times ``per_sample_weights`` (shape of ids) where given."""
        traced = torch.compiler.is_compiling() or transforming()
        if not traced:
            self._check(ids, offsets, per_sample_weights)
        bring_up_to_date(self.weight, None if traced or per_sample_weights is not None else ids)
        if offsets is None and self.pool is not None:
            bags, length = ids.shape
            offsets = torch.arange(0, ids.numel(), length, device=ids.device) if length else ids.new_zeros(bags)
        flat = ids.reshape(-1)
        if traced or per_sample_weights is not None or self.weight.dtype not in FLOATS:
            y = self._by_torch(flat, offsets, per_sample_weights, sparse=not traced)
        else:
            if self.max_norm is not None:
                torch.embedding_renorm_(self.weight.detach(), flat, self.max_norm, self.norm_type)
            if offsets is None or self.pool is None:
                y = lookup(flat, self.weight, self.padding_idx)
            else:
                y = pooled_lookup(flat, self.weight, offsets.to(flat), self.pool, self.padding_idx)
        y = y if self.pool else y.view(*ids.shape, y.shape[-1])
        return y.movedim(-1, 0) if self.columns else y

    def _by_torch(self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None, sparse: bool) -> Tensor:
        """By torch's own embeddings: traced, weighted, or of a dtype that rows are not stepped in."""
        norm: dict[str, Any] = {"max_norm": self.max_norm, "norm_type": self.norm_type, "sparse": sparse}
        if offsets is None or self.pool is None:
            return functional.embedding(ids, self.weight, self.padding_idx, **norm)
        weights = None if weights is None else weights.reshape(-1)
        return functional.embedding_bag(
            ids, self.weight, offsets.to(ids), mode=self.pool, per_sample_weights=weights,
            padding_idx=self.padding_idx, **norm,
        )  # fmt: skip

    def _check(self, ids: Tensor, offsets: Tensor | None, per_sample_weights: Tensor | None) -> None:
        where = "LookupTable"
        if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise TypeError(f"{where}: expected ids to be a tensor of int64 or int32, got {got}. Convert with .long().")
        if ids.numel():
            low, high = (int(bound) for bound in torch.aminmax(ids))
            rows = self.weight.shape[0]  # not self.rows: the weight may have been tied, replaced or resized
            if low < 0 or high >= rows:
                place = ((ids < 0) | (ids >= rows)).nonzero()[0].tolist()
                hint = " An id can't count from the end here; in sparsetrain.subtensor it can." if low < 0 else ""
                raise IndexError(
                    f"{where}: expected ids from 0 to {rows - 1}, got {int(ids[tuple(place)])} at position "
                    f"{place[0] if len(place) == 1 else tuple(place)}.{hint}"
                )
        if self.pool is None:
            if offsets is not None or per_sample_weights is not None:
                raise ValueError(f"{where}: offsets and per_sample_weights are for a table with pool='sum' or 'mean'.")
        elif ids.ndim != (2 if offsets is None else 1):
            raise ValueError(
                f"{where}: expected ids of shape (bags, length), or (k,) with offsets (bags,), got ids of shape "
                f"{tuple(ids.shape)} with{'out' if offsets is None else ''} offsets."
            )
        elif offsets is not None:
            self._check_offsets(ids, offsets)

    def _check_offsets(self, ids: Tensor, offsets: Tensor) -> None:
        """Where each bag begins: torch reads out of bounds where they are wrong."""
        where = "LookupTable"
        if not isinstance(offsets, Tensor) or offsets.dtype not in (torch.int32, torch.int64) or offsets.ndim != 1:
            got = f"{offsets.dtype} of shape {tuple(offsets.shape)}" if isinstance(offsets, Tensor) else repr(offsets)
            raise TypeError(f"{where}: expected offsets to be a tensor (bags,) of int64 or int32, got {got}.")
        if not offsets.numel():
            if ids.numel():
                raise ValueError(f"{where}: expected offsets of one bag at least for {ids.numel()} ids, got none.")
        elif int(offsets[0]) != 0 or int(offsets[-1]) > ids.numel() or bool((offsets.diff() < 0).any()):
            raise ValueError(
                f"{where}: expected offsets that begin at 0 and rise to {ids.numel()}, the number of ids, at most, got "
                f"{offsets.tolist() if offsets.numel() < 10 else offsets}."
            )

    @property
    def matrix(self) -> Tensor:
        """The table as the user's matrix, up to date, (rows, dim), or (dim, rows) with columns. A view of weight."""
        bring_up_to_date(self.weight)
        return self.weight.t() if self.columns else self.weight

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        bring_up_to_date(self.weight)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any) -> None:
        bring_up_to_date(self.weight)  # what was owed was owed to the old numbers
        super()._load_from_state_dict(*args)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        bring_up_to_date(self.weight)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

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
