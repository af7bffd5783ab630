"""torch_sparse.SparseTensor, in and out."""

from typing import Any

import torch
from torch import Tensor

from ..extras import needed
from ..structure.topology import Topology


def from_torch_sparse(tensor: Any) -> tuple[Topology, Tensor | None]:
    """The edges of a torch_sparse.SparseTensor, and the value of each, or None where it has no values.

    Rows are outputs and columns inputs, as in torch_sparse.matmul. The values keep their graph.

    Args:
        tensor: shape ``(out, in)``, with a number at each entry or none at all.

    Returns:
        Topology, and values of shape ``(nnz,)`` in its order.

    Raises:
        TypeError: it is no SparseTensor. ValueError: it has several numbers at an entry, or an entry twice.

    Example:
        >>> t = Topology.from_mask([[1, 0], [1, 1]])
        >>> from_torch_sparse(to_torch_sparse(t, torch.ones(3)))  # doctest: +SKIP
        (Topology(shape=(2, 2), nnz=3, density=0.75), tensor([1., 1., 1.]))
    """
    where = "io.from_torch_sparse"
    if not all(hasattr(tensor, name) for name in ("csr", "sparse_sizes")):
        raise TypeError(f"{where}: expected a torch_sparse.SparseTensor, got {type(tensor).__name__}.")
    crow, col, values = tensor.csr()
    if values is not None and values.ndim != 1:
        raise ValueError(
            f"{where}: expected one value at each entry, got values of shape {tuple(values.shape)}. Choose one column "
            "with tensor.set_value(values[:, k], layout='coo')."
        )
    shape = tuple(int(size) for size in tensor.sparse_sizes())
    try:
        return Topology(crow, col, shape), values
    except ValueError as error:
        raise ValueError(f"{where}: {error} tensor.coalesce() joins entries that are stored twice.") from None


def to_torch_sparse(topology: Topology, values: Tensor | None = None) -> Any:
    """The torch_sparse.SparseTensor with these edges, rows being outputs; its values keep their graph.

    Args:
        topology: of the edges.
        values: shape ``(nnz,)``, or None for a tensor without values.

    Raises:
        ModuleNotFoundError: torch_sparse is not installed. ValueError: another number of values.

    Example:
        >>> t = Topology.from_mask([[1, 0], [1, 1]])
        >>> to_torch_sparse(t, torch.ones(3)) @ torch.eye(2)  # doctest: +SKIP
        tensor([[1., 0.],
                [1., 1.]])
    """
    where = "io.to_torch_sparse"
    torch_sparse = needed(where, "torch_sparse")
    if values is not None and values.shape != (topology.nnz,):
        raise ValueError(f"{where}: expected {topology.nnz} values, got shape {tuple(values.shape)}.")
    return torch_sparse.SparseTensor(
        rowptr=topology.crow.to(torch.int64), col=topology.col.to(torch.int64), value=values,
        sparse_sizes=topology.shape, is_sorted=True, trust_data=True,
    )  # fmt: skip
