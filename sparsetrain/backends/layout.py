"""Memory layouts. A dense operand (features, batch) is *row-major* when the features of a sample are contiguous, as
torch's batches are, and *feature-major* when the samples of a feature are."""

import torch
from torch import Tensor

BLOCK = 1024  # samples of a partial sum of the bias gradient


def is_feature_major(x: Tensor) -> bool:
    """Whether a matrix (features, batch) keeps the samples of a feature together, and not also the features."""
    between_features, between_samples = x.stride()
    return between_samples == 1 and between_features != 1


def empty_like_layout(x: Tensor, features: int, dtype: torch.dtype | None = None) -> Tensor:
    """A new matrix (features, batch) of x's batch, device, layout and, unless another is given, dtype."""
    batch = x.shape[1]
    strides = (batch, 1) if is_feature_major(x) else (1, features)
    return x.new_empty_strided((features, batch), strides, dtype=dtype or x.dtype)


def in_layout_of(x: Tensor, y: Tensor) -> Tensor:
    """y, a matrix of x's batch, in x's layout."""
    return y.contiguous() if is_feature_major(x) else y.t().contiguous().t()


def no_view(result: Tensor) -> Tensor:
    """The same memory in a tensor of its own: autograd lets nobody write into a result that is a view, as nn.ReLU does
    with ``inplace=True``."""
    return result.new_empty(0).set_(result) if result._is_view() else result  # type: ignore[call-overload]


def feature_major(x: Tensor) -> Tensor:
    """The same numbers, laid out so that the samples of a feature are contiguous: strides (1, N) for a batch of N.

    Sparse layers keep this layout, and point-wise operations do: a chain of them never transposes.

    Args:
        x: shape ``(..., features)``.

    Returns:
        A tensor equal to x, of its shape.

    Raises:
        ValueError: x has no dimension.

    Example:
        >>> import torch
        >>> feature_major(torch.ones(3, 2)).stride()
        (1, 3)
    """
    if x.ndim == 0:
        raise ValueError("feature_major: expected a tensor (..., features), got one without dimensions.")
    return x.reshape(-1, x.shape[-1]).t().contiguous().t().reshape(x.shape) if x.numel() else x


def sum_over_batch(dy: Tensor) -> Tensor:
    """The bias gradient, shape (features,), bitwise the same at any number of threads: torch splits a sum to one number
    by thread, so a single feature is summed in blocks first."""
    if dy.shape[0] != 1:
        return dy.sum(1)
    return torch.nn.functional.pad(dy, (0, -dy.shape[1] % BLOCK)).reshape(-1, BLOCK).sum(1).sum(0, keepdim=True)
