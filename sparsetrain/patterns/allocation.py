"""How one density for a whole network is shared out over its layers."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from .. import checks

Shape = tuple[int, ...]


def allocate(
    shapes: Sequence[Sequence[int]], density: float, method: Literal["uniform", "er", "erk"] = "uniform"
) -> list[float]:
    r"""One density for each layer, such that density * (positions of all layers) edges exist in total, up to rounding.

    ``"uniform"`` gives every layer the same density. The others give small layers more of it, in proportion to

    .. math:: \frac{n_{in} + n_{out}}{n_{in} \, n_{out}} \ \text{for "er"}, \qquad
              \frac{\sum_k d_k}{\prod_k d_k} \ \text{for "erk"}

    over all dimensions :math:`d_k` of the layer, which for matrices is the same. A layer whose share would exceed 1
    becomes dense, and the others get what it leaves, until none exceeds 1.

    Args:
        shapes: ``(out, in)`` of each layer, or ``(out, in, ...)`` of convolutions: kernel sizes count for "erk" only.
        density: edges of all layers / positions of all layers.
        method: ``"uniform"``, ``"er"`` (Erdős-Rényi) or ``"erk"`` (Erdős-Rényi kernel).

    Raises:
        TypeError: shapes is not a list of shapes.
        ValueError: a shape has fewer than two dimensions, the density lies outside 0..1, or the method is unknown.

    Source: Mocanu et al. (2018), Scalable training of artificial neural networks with adaptive sparse connectivity;
    Evci et al. (2020), Rigging the lottery: making all tickets winners.

    Example:
        >>> allocate([(200, 200), (50, 50)], density=0.1, method="er")  # 3400 and 850 edges, 8.5 per node
        [0.085, 0.34]
    """
    where = "patterns.allocate"
    density = checks.density(where, density)
    if not isinstance(method, str) or method not in _WEIGHTS:
        raise ValueError(f"{where}: expected method to be one of {list(_WEIGHTS)}, got {method!r}.")
    layers = _layers(where, shapes)
    return _water_fill([math.prod(shape) for shape in layers], [_WEIGHTS[method](shape) for shape in layers], density)


def _layers(where: str, shapes: Sequence[Sequence[int]]) -> list[Shape]:
    expected = "shapes to be a list of layer shapes (out, in, ...)"
    listed = checks.listed(shapes)
    if listed is None:
        raise TypeError(f"{where}: expected {expected}, got {shapes!r}.")
    layers = [checks.sizes(where, expected, shape) for shape in listed]
    for shape in layers:
        if len(shape) < 2:
            raise ValueError(f"{where}: expected {expected}, got {shape} among them, which has too few dimensions.")
    return layers


_WEIGHTS: dict[str, Callable[[Shape], float]] = {
    "uniform": lambda shape: 1.0,
    "er": lambda shape: sum(shape[:2]) / (math.prod(shape[:2]) or 1),  # without positions any density will do
    "erk": lambda shape: sum(shape) / (math.prod(shape) or 1),
}


def _water_fill(sizes: list[int], weights: list[float], density: float) -> list[float]:
    """Densities in proportion to the weights, none above 1, with density * sum(sizes) edges in all."""
    dense: set[int] = set()
    while True:
        sparse = [i for i in range(len(sizes)) if i not in dense]
        edges = density * sum(sizes) - sum(sizes[i] for i in dense)
        scale = edges / (sum(weights[i] * sizes[i] for i in sparse) or 1.0)
        too_dense = {i for i in sparse if scale * weights[i] > 1.0}
        if not too_dense:
            return [1.0 if i in dense else scale * weights[i] for i in range(len(sizes))]
        dense |= too_dense
