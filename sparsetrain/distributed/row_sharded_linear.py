"""A linear layer over edges of which each rank holds some output rows."""

from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from .. import checks, ranks, tracing
from ..edges.spread_rows import Shard, register
from ..nn.sparse_linear import SparseLinear
from ..ops.verbs import SPARSE
from ..structure.topology import Topology
from .same_batch import check_batch

WHERE = "RowShardedLinear"


class RowShardedLinear(nn.Module):
    r"""A SparseLinear whose output rows are spread over the ranks of a group, :math:`y = x W^T + b`.

    For a layer that no rank holds alone. All ranks are given the same batch; each computes the outputs of its own rows,
    in a SparseLinear, and all gather them. So :math:`y`, the loss and the gradient of :math:`x`, a sum over ranks, are
    the same everywhere, and to rounding what one SparseLinear of all rows gives. It is differentiable any number of
    times.

    The SparseLinear is a submodule named after its rows, such as ``rows_0``: names of parameters differ between
    ranks, so that torch.distributed.checkpoint keeps each, for as many ranks, and DistributedDataParallel over the same
    group refuses them. ``optim.clip_grad_norm_`` takes the norm over all ranks, torch's that of the rows here.

    Args:
        in_features, out_features: of the whole layer.
        group: a process group, or None for all processes; where none was made, one rank holds all rows.
        density: of each rank's rows, drawn at random; the first rank's generator counts.
        topology: of this rank's rows alone, shape (own rows, in_features), in place of density. Rank r has rows
            :math:`r k` to :math:`(r + 1) k - 1` with :math:`k = \lceil out / ranks \rceil`, the last ones less.
        bias, device, dtype: as in SparseLinear.
        generator: of edges and values.

    Shape:
        x ``(*, in_features)`` to ``(*, out_features)``.

    Raises:
        ValueError: ranks make it with other sizes, a topology is not of this rank's rows, or ranks are given batches of
        other shapes, dtypes or, at the first pass, numbers, by more than rounding. RuntimeError: a rank does not take
        part within the timeout of the group.

    Example:
        >>> layer = RowShardedLinear(100, 60, density=0.1)  # on each rank
        >>> layer(torch.ones(2, 100)).shape
        torch.Size([2, 60])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        group: Any = None,
        *,
        density: float | None = None,
        topology: Topology | None = None,
        bias: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, checks.count(WHERE, "out_features", out_features)
        self.shard = Shard(WHERE, self.out_features, group)
        seed = int(torch.randint(2**62, (), generator=checks.generator(WHERE, generator), device="cpu"))
        number = torch.get_default_dtype() if dtype is None else dtype
        said = ranks.gathered(WHERE, (seed, in_features, out_features, bias, number), group)
        if any(each[1:] != said[0][1:] for each in said):
            raise ValueError(
                f"{WHERE}: expected the same (in_features, out_features, bias, dtype) on all ranks, got "
                f"{', '.join(f'{each[1:]} on rank {rank}' for rank, each in enumerate(said))}."
            )
        rows = self.shard.count
        if isinstance(topology, Topology) and topology.shape != (rows, in_features):
            raise ValueError(
                f"{WHERE}: expected a topology of shape {(rows, in_features)} on rank {self.shard.rank}, of its rows "
                f"from {self.first_row} on, got {topology.shape}."
            )
        own_stream = torch.Generator().manual_seed(said[0][0] + self.shard.rank)
        self._name = f"rows_{self.first_row}" if rows else f"no_rows_{self.shard.rank}"
        self.add_module(
            self._name,
            SparseLinear(
                in_features, rows, bias, density=density, topology=topology, generator=own_stream, device=device,
                dtype=dtype,
            ),
        )  # fmt: skip
        self._compared = False  # whether all ranks had the same numbers in their first batch
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]
        self._register()

    def _register(self) -> None:
        """Clipping, wrappers and optimizers know the parameters as spread, before and after others take their place."""
        for parameter in self.own.parameters():
            register(parameter, self.shard, in_rows=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._register()
        return self

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()  # of a copy

    @property
    def own(self) -> SparseLinear:
        """The layer of this rank's rows."""
        layer: SparseLinear = self._modules[self._name]  # type: ignore[assignment]
        return layer

    @property
    def first_row(self) -> int:
        """Of ``own``, in the whole layer."""
        return self.shard.first

    @tracing.outside_of_graphs
    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b``: x (..., in) gives (..., out), on all ranks."""
        if self.shard.ranks == 1:
            return self.own(x)  # type: ignore[no-any-return]
        self._register()  # of constraints that came since
        if isinstance(x, Tensor):  # of anything else the layer of the own rows says what it is
            x = x.to_dense() if x.layout in SPARSE else x  # as that does
            check_batch(WHERE, x, self.shard.group, numbers=not self._compared)
            self._compared = True
        own = self.own(Copied.apply(x, self.shard))  # type: ignore[no-untyped-call]
        y: Tensor = Gathered.apply(own, self.shard)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


def _loaded(layer: RowShardedLinear, _: Any) -> None:
    layer._register()  # other Parameters, with assign=True


# What is the same on all ranks has the same gradient on all. Copied and Summed are each other's derivative, and so are
# Gathered and Own.


class Copied(Function):
    """x, the same on all ranks; its gradient is the sum of what ranks contribute."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, None]:
        return Summed.apply(dy, ctx.shard), None  # type: ignore[no-untyped-call]


class Summed(Function):
    """The sum of what ranks hold, the same on all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        total = x.clone(memory_format=torch.contiguous_format)
        with ranks.all_answer(WHERE, shard.group):
            dist.all_reduce(total, group=shard.group)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, None]:
        return Copied.apply(dy, ctx.shard), None  # type: ignore[no-untyped-call]


class Gathered(Function):
    """The columns of all ranks, of which each holds some, the same on all."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        filled = functional.pad(own, (0, shard.each - shard.count)).contiguous()  # gloo gathers equal sizes
        every = [torch.empty_like(filled) for _ in range(shard.ranks)]
        with ranks.all_answer(WHERE, shard.group):
            dist.all_gather(every, filled, group=shard.group)
        return torch.cat(every, -1)[..., : shard.rows].contiguous()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, None]:
        return Own.apply(dy, ctx.shard), None  # type: ignore[no-untyped-call]


class Own(Function):
    """The columns of this rank, of what is the same on all."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return y.narrow(-1, shard.first, shard.count).contiguous()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, None]:
        return Gathered.apply(dy, ctx.shard), None  # type: ignore[no-untyped-call]
