"""A dense product by the faster of the two libraries that torch carries.

torch multiplies float32 by MKL, which on AMD's processors leaves half of each AVX-512 register empty. oneDNN, which
torch uses for convolutions and for compiled linear layers, fills it: half the time from a few samples and some thousand
weights on, in float32 too, with about twice the rounding error (``python bench/dense_products.py``).
"""

from functools import cache
from typing import Any, Literal

import torch
from llvmlite import binding
from torch import Tensor
from torch.nn.functional import linear

FEWEST = 8  # samples
LEAST = 2**22  # multiplications, below which the fixed cost of oneDNN's call is more than it saves


def dense_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x weight' + bias`` for samples x (batch, in), without a graph; weight (out, in) may be a transposed view."""
    if torch_is_as_fast() or not _suits(x, weight, bias):
        return linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the operands are float32, large, and laid out as the unchecked call below needs them."""
    float32 = all(t.dtype is torch.float32 and t.device.type == "cpu" for t in (x, weight, bias) if t is not None)
    large = x.shape[0] >= FEWEST and x.shape[0] * weight.numel() >= LEAST
    plain = bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous())  # it never looks at its strides
    fits = plain and _is_block(x) and _is_block(weight)
    return float32 and large and fits and torch._C._get_mkldnn_enabled()  # which torch.backends.mkldnn.flags changes


def _is_block(matrix: Tensor) -> bool:
    """Whether this is a block of rows or of columns, whose entries lie side by side and not upon each other."""
    (rows, columns), (down, along) = matrix.shape, matrix.stride()
    return (along == 1 and down >= columns) or (down == 1 and along >= rows)


def fastest_precision() -> Literal["medium", "highest"]:
    """The setting of torch.set_float32_matmul_precision under which dense products are fastest, and float32 still."""
    return "medium" if onednn_is_faster() else "highest"


def torch_is_as_fast() -> bool:
    """Whether torch's own products are as fast as any. Who has set its precision to "medium" gets oneDNN from torch, by
    a call that takes transposed operands as they are and is up to a tenth faster than the one here."""
    return not onednn_is_faster() or _torch_takes_onednn()


# by its newer names, which follow the older ones: torch built for CUDA warns whoever reads those
def _torch_takes_onednn() -> bool:
    backend: Any = torch.backends.mkldnn
    return bool(backend.matmul.fp32_precision == "bf16")


def tf32_is_allowed() -> bool:
    """Whether products of float32 on CUDA may be in TF32, by either of torch's two settings."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


@cache
def onednn_is_faster() -> bool:
    """Whether this is a processor of AMD's with AVX-512, and torch was built with oneDNN."""
    wide = binding.get_host_cpu_name().startswith("znver") and binding.get_host_cpu_features().get("avx512f", False)
    return wide and hasattr(torch.ops.mkldnn, "_linear_pointwise")
