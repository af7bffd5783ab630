"""Clipping of dense and row-sparse gradients together."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from .. import ranks
from ..backends.row_steps import coalesced
from ..edges.spread_rows import Shard, shard_of


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    r"""Scale all gradients by :math:`\min(1, c / (\|g\| + 10^{-6}))`, with the norm taken over all of them together.

    Rows that occur more than once in a sparse gradient are summed first. For a table that is sharded over ranks, the
    norm includes the rows of all ranks, and all ranks of its group must call this.

    Args:
        parameters: one or many; those without a gradient are passed over.
        max_norm: c.
        norm_type: p of the p-norm, inf for the largest magnitude.
        error_if_nonfinite: raise where the norm is NaN or infinite.
        foreach: as in ``torch.nn.utils.clip_grad_norm_``.

    Returns:
        The norm before, without dimensions.

    Raises:
        RuntimeError: the norm is not finite, with error_if_nonfinite; nothing has been scaled.

    Source: ``torch.nn.utils.clip_grad_norm_``, which refuses sparse gradients on a CPU.

    Example:
        >>> import torch
        >>> table = torch.nn.Embedding(10, 2, sparse=True)
        >>> table(torch.tensor([1, 1, 3])).sum().backward()
        >>> clip_grad_norm_(table.parameters(), 1.0).square().item()  # (2, 2) and (1, 1)
        10.0
    """
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    total = _total_norm(parameters, norm_type, error_if_nonfinite, foreach)
    numbers = _numbers(parameters)
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for gradient in numbers:
        gradient.mul_(scale.to(gradient))
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None) -> None:
    """Clamp all gradients elementwise to [-clip_value, clip_value], after duplicate rows are summed.

    Args:
        parameters: one or many; those without a gradient are passed over.
        clip_value: the largest magnitude.
        foreach: accepted for torch's sake.

    Source: ``torch.nn.utils.clip_grad_value_``, which refuses sparse gradients on a CPU.

    Example:
        >>> import torch
        >>> table = torch.nn.Embedding(10, 2, sparse=True)
        >>> table(torch.tensor([1, 1, 3])).sum().backward()
        >>> clip_grad_value_(table.parameters(), 1.5)
        >>> table.weight.grad.to_dense()[[1, 3]].tolist()
        [[1.5, 1.5], [1.0, 1.0]]
    """
    for gradient in _numbers(parameters):
        gradient.clamp_(-float(clip_value), float(clip_value))


def _total_norm(parameters: list[Tensor], norm_type: float, error_if_nonfinite: bool, foreach: bool | None) -> Tensor:
    """The norm of all gradients, of all rows of tables that are spread over ranks."""
    parts: dict[Shard | None, list[Tensor]] = {}
    for p in parameters:
        parts.setdefault(shard_of(p), []).append(p)
    if parts.keys() <= {None}:
        return get_total_norm(_numbers(parameters), norm_type, error_if_nonfinite, foreach)
    norms = []
    for shard, some in parts.items():
        norm = get_total_norm(_numbers(some), norm_type, foreach=foreach).to(some[0].device)
        norms.append(norm if shard is None else _over_ranks(norm, norm_type, shard))
    return get_total_norm([torch.stack(norms)], norm_type, error_if_nonfinite, foreach)


def _over_ranks(norm: Tensor, norm_type: float, shard: Shard) -> Tensor:
    """The norm of the rows of all ranks."""
    largest = math.isinf(norm_type)
    power = norm if largest else norm.double() ** norm_type
    with ranks.all_answer("clip_grad_norm_", shard.group):
        dist.all_reduce(power, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, shard.group)
    if largest:
        return power
    return (power ** (1 / norm_type)).to(norm.dtype)


def _numbers(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """The numbers of every gradient, to be changed in place. A sparse one is replaced by its sums first, in memory of
    its own: what autograd gives may be the gradient of something else."""
    numbers = []
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        if p.grad is not None:
            if p.grad.is_sparse:
                p.grad = coalesced(p.grad)
            numbers.append(p.grad._values() if p.grad.is_sparse else p.grad.detach())
    return numbers
