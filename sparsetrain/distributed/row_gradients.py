"""Gradients of rows, averaged over ranks while the backward pass waits.

DistributedDataParallel starts to average a gradient and computes the next ones meanwhile. For a sparse gradient on the
CPU that is gloo's ``all_reduce(gradient, async_op=True)``. In torch 2.13 it writes into freed memory where its process
computes at the same time, and a signal ends the process, there or later; with nn.Embedding(sparse=True) as well. The
same call without ``async_op`` is safe.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _register_comm_hook
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from .. import ranks


def average(group: dist.ProcessGroup, bucket: Any) -> torch.futures.Future[Tensor]:
    """A communication hook, of a dist.GradBucket: dense gradients as without a hook, sparse ones at once.

    Ranks fill buckets in the same order, so they wait for each other at the same ones.
    """
    gradient = bucket.buffer()
    if not gradient.is_sparse:
        return allreduce_hook(group, bucket)
    with ranks.all_answer("DistributedDataParallel", group):
        dist.all_reduce(gradient.div_(group.size()), group=group)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(gradient)
    return done


def use(wrapper: Any) -> None:
    """Have a DistributedDataParallel average by this hook, unless it has one that its user chose.

    RuntimeError: that is one of torch's own in C++, which don't wait for sparse gradients.
    """
    if wrapper._comm_hooks:
        return
    try:
        # not by wrapper.register_comm_hook, which would keep the group among what is pickled
        _register_comm_hook(wrapper.reducer, wrapper.process_group, average)
    except RuntimeError as error:  # there is one already, which the wrapper does not list
        raise RuntimeError(
            "DistributedDataParallel: expected a communication hook that waits for row-sparse gradients, or none, got "
            "one of _register_builtin_comm_hook, under which gloo writes them into freed memory. Wrap the model "
            "without it, or use register_comm_hook."
        ) from error
