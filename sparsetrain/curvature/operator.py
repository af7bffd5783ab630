"""Curvature matrices as linear operators over trainable entries."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .entries import Entries
from .passes import CurvedPass

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class CurvatureOperator:
    r"""A symmetric matrix :math:`C` over trainable entries, known by its products :math:`C v`.

    Its rows and columns are the numbers of ``entries``, one entry after the other: parameters, values of edges, and of
    tables the rows that the batch used. It keeps the graph of one forward pass, at the parameters as they were, of
    which used rows are copies. A product after the others changed in place is refused by autograd.

    Attributes:
        entries: an Entry for each parameter, with ``name``, ``shape``, ``rows``, ``start`` and ``stop``.
            ``entries.split(v)`` gives the parts of a vector by name, ``entries.join(parts)`` the vector.
        shape: ``(n, n)``.
        loss: of the batch.
        dtype: of vectors: float32, or float64 where an entry has that.

    Example:
        >>> from sparsetrain.curvature import ggn
        >>> from sparsetrain.nn import LookupTable
        >>> model = torch.nn.Sequential(LookupTable(1000, 2), torch.nn.Linear(2, 3))
        >>> batch = torch.tensor([4, 7, 7]), torch.tensor([0, 2, 1])
        >>> operator = ggn(model, torch.nn.CrossEntropyLoss(), batch)
        >>> [(entry.name, entry.shape) for entry in operator.entries]
        [('0.weight', (2, 2)), ('1.weight', (3, 2)), ('1.bias', (3,))]
        >>> operator.entries[0].rows.tolist(), operator.shape
        ([4, 7], (13, 13))
        >>> operator.matvec(torch.ones(13)).shape
        torch.Size([13])
    """

    def __init__(self, run: CurvedPass, entries: Entries) -> None:
        self._run, self.entries, self.loss = run, entries, run.loss
        self.dtype, self.device = entries.dtype, entries[0].parameter.device

    def gradient(self) -> Tensor:
        """Of the loss with respect to the entries, shape ``(n,)``."""
        return self._run.gradient(self.entries)

    @property
    def shape(self) -> tuple[int, int]:
        return self.entries.size, self.entries.size

    def matvec(self, v: Tensor) -> Tensor:
        """:math:`C v` for v of shape ``(n,)``.

        Raises:
            ValueError: v has another shape. TypeError: it is no tensor of this dtype.
        """
        if not isinstance(v, Tensor) or v.dtype is not self.dtype:
            got = v.dtype if isinstance(v, Tensor) else type(v).__name__
            raise TypeError(f"matvec: expected a vector that is a tensor of {self.dtype}, got {got}.")
        if v.shape != (self.entries.size,):
            raise ValueError(f"matvec: expected a vector of shape ({self.entries.size},), got {tuple(v.shape)}.")
        return self._run.product(self.entries, v.detach().to(self.device))

    __call__ = matvec
    __matmul__ = matvec

    def to_dense(self) -> Tensor:
        """The matrix, shape ``(n, n)``, by n products."""
        unit = torch.eye(self.entries.size, dtype=self.dtype, device=self.device)
        return torch.stack([self.matvec(v) for v in unit], 1)

    def to_scipy(self) -> "LinearOperator":
        """As scipy's LinearOperator over numpy vectors, for its eigensolvers and iterative solvers.

        Example:
            >>> from scipy.sparse.linalg import eigsh
            >>> from sparsetrain.curvature import ggn
            >>> layer = torch.nn.Linear(3, 1)
            >>> operator = ggn(layer, torch.nn.MSELoss(), (torch.eye(3), torch.zeros(3, 1)))
            >>> bool(eigsh(operator.to_scipy(), k=1)[0][0] > 0)
            True
        """
        from scipy.sparse.linalg import LinearOperator

        def product(v: Any) -> Any:
            return self.matvec(torch.as_tensor(v).reshape(-1).to(self.dtype)).cpu().numpy()

        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=product, rmatvec=product, dtype=dtype)

    def __reduce__(self) -> Any:
        raise TypeError(
            "CurvatureOperator: expected no copy and no pickle, as it holds the graph of a pass. Make another one from "
            "the model, or keep to_dense()."
        )

    def __repr__(self) -> str:
        return f"CurvatureOperator(shape={self.shape}, entries={[entry.name for entry in self.entries]})"
