"""A lookup table of which each rank holds some rows."""

from itertools import count
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from .. import checks, ranks, tracing
from ..curvature.used_rows import in_recorded_pass
from ..dtypes import widen_loaded, widened
from ..edges.pending import bring_up_to_date
from ..edges.spread_rows import Shard, register
from ..nn.lookup_table import LookupTable, Pool
from ..ops.lookup import lookup, most_of_bags, pooled_lookup, weighted_lookup
from .exchange import Exchange, MeanOverRanks, route_of

WHERE = "ShardedLookupTable"
BLOCK = 1024  # rows of initial values from one seed, so that they do not depend on the number of ranks
_numbers = count()  # of tables that this process has made


class ShardedLookupTable(LookupTable):
    r"""A LookupTable whose rows are spread over the ranks of a group; each looks up any ids, :math:`y = W_{ids}`.

    A rank sends each distinct id of its batch to the one that holds that row, which sends the row back; gradients go
    the same way, once for each id. So what is sent follows from the ids, not from the table, and no rank ever holds
    more than its own rows. Optimizers step the rows that a rank holds, with every option that they have for a
    LookupTable.

    **Beside a LookupTable.** Rows that are read are its rows to the bit. The gradient is that of the mean of the ranks'
    losses, as under DistributedDataParallel: each rank adds up what its own ids contribute and divides by the number of
    ranks, and these sums are added in the order of ranks. So training agrees to rounding with a LookupTable that sees
    the joined batch; to the bit where there are two ranks that never read the same row, one rank, or no group at all.
    It is differentiable any number of times.

    **All ranks take part** in each forward and backward pass, as often and in the same order, also with no ids at all.
    DistributedDataParallel leaves the table alone by itself, and ``no_sync`` does not change what the table does.
    Compiled graphs break at it.

    **States.** ``state_dict`` holds the weight as a DTensor, and that of an optimizer of sparsetrain.optim what it
    keeps for each row. torch.distributed.checkpoint saves them, and loads them on any number of ranks. The whole weight
    of a LookupTable or nn.Embedding loads as well; each rank takes its rows.

    Args:
        rows: how many rows all ranks hold together, the ids 0 to rows - 1. Each holds
            :math:`\lceil rows / ranks \rceil`, the last ones less.
        dim: numbers of each.
        group: a process group, or None for all processes.
        columns, padding_idx, max_norm, norm_type, pool, include_last_offset, device, dtype: as in LookupTable, and the
            same on all ranks.
        generator: of the initial values; the first rank's counts. They are the same for any number of ranks.

    Shape:
        As of LookupTable, on each rank for its own ids.

    Attributes:
        weight: shape ``(own rows, dim)``, of which row k is row ``first_row + k`` of the whole table.

    Raises:
        ValueError: ranks make it with different arguments, or this one is not in the group. TypeError, IndexError,
        ValueError: ids do not fit, as in LookupTable; other ranks raise RuntimeError, which names the rank.
        RuntimeError: ranks read tables in different orders, or one does not take part within the timeout of the group.
        NotImplementedError: under transforms of torch.func, and in sparsetrain.curvature.

    Source: row-wise sharding as in TorchRec.

    Example:
        >>> table = ShardedLookupTable(1000, 4)  # on each rank, after torch.distributed.init_process_group
        >>> table(torch.tensor([[3, 7], [7, 7]])).sum().backward()
        >>> table.weight.grad.coalesce().indices().tolist()
        [[3, 7]]
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        group: Any = None,
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
        self._shard = Shard(WHERE, checks.count(WHERE, "rows", rows), group)
        super().__init__(
            rows, dim, columns=columns, padding_idx=padding_idx, max_norm=max_norm, norm_type=norm_type, pool=pool,
            include_last_offset=include_last_offset, generator=generator, device=device, dtype=dtype,
        )  # fmt: skip
        self._number = self._agreed_number()
        register(self.weight, self._shard)

    def _agreed_number(self) -> int:
        """The number of this table, which the first rank gives; all ranks must make the same table."""
        names = ("rows", "dim", "columns", "padding_idx", "max_norm", "norm_type", "pool")
        options = {name: getattr(self, name) for name in names} | {"dtype": self.weight.dtype}
        said = ranks.gathered(WHERE, (next(_numbers), options), self._shard.group)
        for rank, (_, other) in enumerate(said):
            for name in options:
                if other[name] != said[0][1][name]:
                    raise ValueError(
                        f"{WHERE}: expected the same table on all ranks, got {name}={other[name]} on rank {rank} "
                        f"and {name}={said[0][1][name]} on rank 0."
                    )
        number: int = said[0][0]
        return number

    @property
    def first_row(self) -> int:
        """``weight[k]`` is row ``first_row + k``."""
        return self._shard.first

    def _stored_rows(self) -> int:
        return self._shard.count

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the table anew from N(0, 1), on all ranks together; the row of padding is zero."""
        bring_up_to_date(self.weight)
        seed = torch.randint(2**62, (), generator=checks.generator(WHERE, generator), device="cpu")
        seed = ranks.sent_by_first(WHERE, int(seed), self._shard.group)
        if self.weight.is_meta:
            return
        first, end = self._shard.first, self._shard.first + self._shard.count
        for begin in range(first - first % BLOCK, end, BLOCK):
            stream = torch.Generator().manual_seed(seed + begin // BLOCK)
            drawn = torch.randn(BLOCK, self.dim, generator=stream, dtype=self.weight.dtype)
            low, high = max(first, begin), min(end, begin + BLOCK)
            self.weight[low - first : high - first] = drawn[low - begin : high - begin]
        padding = self._own_padding()
        if padding is not None:
            self.weight[padding] = 0

    def _own_padding(self) -> int | None:
        """Where the row of padding is in the weight, if it is there."""
        place = -1 if self.padding_idx is None else self.padding_idx - self._shard.first
        return place if 0 <= place < self._shard.count else None

    # ---- forward -----------------------------------------------------------------------------------------------------

    @tracing.outside_of_graphs
    def _rows(self, ids: Tensor, offsets: Tensor | None, weights: Tensor | None) -> Tensor:
        if self._shard.ranks == 1:
            return super()._rows(ids, offsets, weights)
        self._refuse_transforms(ids)
        try:
            self._check(ids, offsets, weights)
        except (TypeError, IndexError, ValueError) as error:
            nothing = torch.empty(0, dtype=torch.int64, device=self.weight.device)
            route_of(nothing, self._shard, self._number, error)  # so that no rank waits for this one
        if self.pool is None:
            flat = ids.reshape(-1)
        else:
            flat, offsets = self._bags(ids, offsets, True)
        wanted, places = torch.unique(flat.long(), return_inverse=True)
        rows = self._fetched(wanted)
        if self.pool is None:
            return rows.index_select(0, places).view(*ids.shape, self.dim)
        padding = (wanted == self.padding_idx).nonzero().flatten().tolist() if self.padding_idx is not None else []
        weights = None if weights is None else widened(weights).reshape(-1)
        return self._pools(rows, places, cast(Tensor, offsets), weights, padding[0] if padding else None)

    def _refuse_transforms(self, ids: Tensor) -> None:
        """All ranks would have to take part in each pass of a transformed function."""
        readable = not isinstance(ids, Tensor) or tracing.readable(self.weight, ids)
        if in_recorded_pass() or tracing.transforming() or not readable:
            raise NotImplementedError(
                f"{WHERE}: expected a call outside of torch.func, sparsetrain.curvature, traces and fake tensors, "
                "which see one rank alone. Use a LookupTable there."
            )

    def _fetched(self, wanted: Tensor) -> Tensor:
        """The rows of these ids, which rise, from those who hold them."""
        asked, route = route_of(wanted, self._shard, self._number)
        bring_up_to_date(self.weight, asked)
        self._limit_norms(asked)
        rows = lookup(asked, self.weight, self._own_padding())
        rows = MeanOverRanks.apply(rows, self._shard.ranks)  # type: ignore[no-untyped-call]
        fetched: Tensor = Exchange.apply(rows, route)  # type: ignore[no-untyped-call]
        return fetched

    def _pools(
        self, rows: Tensor, places: Tensor, offsets: Tensor, weights: Tensor | None, padding: int | None
    ) -> Tensor:
        if self.pool == "max":
            return most_of_bags(rows.index_select(0, places), places, offsets, padding)
        if weights is not None:
            return weighted_lookup(places, rows, offsets, weights, padding)
        return pooled_lookup(places, rows, offsets, str(self.pool), padding)

    def _known_rows(self, where: str) -> int:
        expected = (self._shard.count, self.dim)
        if tuple(self.weight.shape) != expected:
            raise ValueError(f"{where}: expected a weight of shape {expected}, the own rows, got {self.weight.shape}.")
        return self.rows

    # ---- states ------------------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._shard.ranks > 1:
            destination[prefix + "weight"] = self._shard.whole(self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        key, errors = prefix + "weight", rest[-1]
        if isinstance(state_dict.get(key), Tensor):
            try:
                state_dict[key] = self._shard.own(state_dict[key], (self.dim,))
            except ValueError as error:
                errors.append(f"{f'{WHERE} {prefix}'.rstrip('. ')}: {error}")
                return
            widen_loaded(state_dict, key)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        register(self.weight, self._shard)  # another Parameter, with assign=True

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        register(self.weight, self._shard)
        return self

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        register(self.weight, self._shard)  # of a copy

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "weight" and isinstance(value, nn.Parameter):
            register(value, self._shard)

    def extra_repr(self) -> str:
        here = f"rows {self._shard.first} to {self._shard.first + self._shard.count - 1} here"
        return super().extra_repr() + (f", {here}" if self._shard.ranks > 1 else "")
