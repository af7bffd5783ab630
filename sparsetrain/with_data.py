"""Structures have data wherever they are made: they are shapes of nothing else."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily


@contextmanager
def with_data() -> Iterator[None]:
    """Tensors made inside have data, also under torch.device("meta") and FakeTensorMode, where only parameters and
    activations are without. Also a decorator."""
    with unset_fake_temporarily(), torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
        yield
