"""Linear layers that keep their weight transposed: Conv1D of the package transformers, which its GPT-2 is made of."""

from typing import Any

from torch import Tensor, nn

from ..nn.linear_views import linear_view
from .swap import kind_of

OWN = {"weight", "bias"}


def is_transposed(module: nn.Module) -> bool:
    """A Conv1D, ``x W + b`` with W of shape (in, out). Whoever made it has imported transformers: we need not."""
    kind = kind_of(module)
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def as_linear(module: Any) -> nn.Linear:
    """The nn.Linear over the same memory."""
    return linear_view(module, (module.nf, module.nx), ("weight", Tensor.t), ("bias", None), OWN)


def of_linear(kind: type[nn.Module], linear: nn.Linear) -> nn.Module:
    """The Conv1D that computes what a linear layer does, with its bias."""
    module: Any = kind.__new__(kind)
    nn.Module.__init__(module)
    module.nf, module.nx = linear.out_features, linear.in_features
    module.weight = nn.Parameter(linear.weight.detach().t().contiguous(), linear.weight.requires_grad)
    module.bias = linear.bias
    module.train(linear.training)
    return module  # type: ignore[no-any-return]
