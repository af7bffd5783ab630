"""A dense product by the faster of the two libraries that torch carries.

torch multiplies float32 by MKL, which on AMD's processors leaves half of each AVX-512 register empty. oneDNN, which
torch uses for convolutions and for compiled linear layers, fills it and keeps float32 as well: half the time from a few
samples and some thousand weights on (``python bench/dense_products.py``).
"""

from functools import cache
from typing import Literal

import torch
from llvmlite import binding
from torch import Tensor
from torch.nn.functional import linear

FEWEST = 8  # samples
LEAST = 2**22  # multiplications, below which the fixed cost of oneDNN's call is more than it saves


def dense_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight' + bias`` for samples x (batch, in), without a graph; weight (out, in) may be a transposed view."""
    if not (_suits(x, weight) and onednn_is_faster()):
        return linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _suits(x: Tensor, weight: Tensor) -> bool:
    float32 = x.dtype is weight.dtype is torch.float32 and x.device.type == weight.device.type == "cpu"
    large = x.shape[0] >= FEWEST and x.shape[0] * weight.numel() >= LEAST
    return float32 and large and torch._C._get_mkldnn_enabled()  # which torch.backends.mkldnn.flags changes


def fastest_precision() -> Literal["medium", "highest"]:
    """The setting of torch.set_float32_matmul_precision under which dense products are fastest, and float32 still."""
    return "medium" if onednn_is_faster() else "highest"


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor of AMD's with AVX-512, and torch was built with oneDNN."""
    wide = binding.get_host_cpu_name().startswith("znver") and binding.get_host_cpu_features().get("avx512f", False)
    return wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")
