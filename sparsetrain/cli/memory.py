"""Bytes: what a process has used at most, and what a model keeps."""

import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from .. import nn as sparse_nn

STATUS = Path("/proc/self/status")


def peak() -> int:
    """The most memory that this process has had resident so far, in bytes."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def parameters(model: nn.Module) -> int:
    """Bytes of all trainable numbers."""
    return _bytes(model.parameters())


def state(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of everything that an optimizer remembers between steps."""
    values = (value for held in optimizer.state.values() for value in held.values())
    return _bytes(value for value in values if isinstance(value, torch.Tensor))


def indices(model: nn.Module) -> int:
    """Bytes that say which edges exist: of all that a Topology keeps, or of the masks."""
    topologies = {id(m.topology): m.topology for m in model.modules() if isinstance(m, sparse_nn.SparseLinear)}
    masks = (m.mask for m in model.modules() if isinstance(m, sparse_nn.MaskedLinear))
    return sum(topology.nbytes for topology in topologies.values()) + _bytes(masks)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
