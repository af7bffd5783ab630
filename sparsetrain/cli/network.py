"""The network of an implementation."""

from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from ..nn import MaskedLinear, SparseLinear
from ..nn.masked import Form
from .setting import Setting

Kind = Literal["sparse", "masked", "dense"]
KINDS: tuple[Kind, ...] = ("sparse", "masked", "dense")
FORMS: tuple[Form, ...] = ("forward", "step")  # of masked, see MaskedLinear


def network(kind: Kind, form: Form, setting: Setting) -> nn.Sequential:
    """Linear layers of one kind with ReLU between; sparse and masked start from the same numbers."""
    generator = torch.Generator().manual_seed(setting.seed)
    torch.manual_seed(setting.seed)  # nn.Linear takes no generator
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(setting.sizes):
        layers += [_linear(kind, form, setting, inputs, outputs, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _linear(
    kind: Kind, form: Form, setting: Setting, inputs: int, outputs: int, generator: torch.Generator
) -> nn.Module:
    dtype = setting.torch_dtype
    if kind == "dense":
        return nn.Linear(inputs, outputs, dtype=dtype)
    sparse = SparseLinear(inputs, outputs, density=setting.start_density, generator=generator, dtype=dtype)
    return sparse if kind == "sparse" else MaskedLinear.from_sparse(sparse, form=form).to(dtype)
