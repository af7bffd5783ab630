"""Layers made of what users bring: named edges, matrices with weights."""

from collections.abc import Hashable, Sequence
from typing import Any, Self

import torch

from ..constrain.words import by_word
from ..dtypes import FLOATS
from ..edges.frames import labels
from ..edges.module import EdgeModule
from ..structure.csr import compressed
from ..structure.edge_list import check_finite, edge_list, edge_weights
from ..structure.topology import Topology
from .constraint_words import constraint_words, with_signs
from .unconnected import Unused, report_unconnected
from .weight_matrix import check_finite_entries, entries


class FromData(EdgeModule):
    """The constructors of SparseLinear for edges and matrices."""

    @classmethod
    def from_edges(
        cls,
        edges: Any,
        *,
        inputs: Sequence[Hashable] | None = None,
        outputs: Sequence[Hashable] | None = None,
        bias: bool = True,
        sparse_grad: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        unconnected: Unused = "warn",
    ) -> Self:
        """A layer over the edges (source, target) = (input, output) between named nodes; it keeps the names.

        Args:
            edges: pairs, or a data frame with columns ``source`` and ``target``. A column ``weight`` gives the values;
                without it they are drawn as usual. A column ``constraint`` says of an edge that its value stays
                ``"positive"``, ``"negative"`` or ``"fixed"``, see constrain.by_word; where it is missing the edge is
                free. Values that are drawn take the sign that is asked for.
            inputs, outputs: names of all inputs and outputs, in order, see Topology.from_edges.
            unconnected: what happens where a name has no edge: a UserWarning (``"warn"``), a ValueError (``"error"``)
                or nothing (``"allow"``).
            bias, sparse_grad, generator, device, dtype: as in SparseLinear.

        Raises:
            ValueError: there are neither edges nor names, a name is unknown or missing, two names read alike, an edge
                is given twice, a weight is missing or infinite, a constraint is unknown or contradicts the weight, or
                comes with sparse_grad.
            TypeError: edges can't be iterated over.

        Example:
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear.from_edges([("TP53", "apoptosis"), ("MYC", "cycle"), ("TP53", "cycle")])
            >>> layer.topology.inputs, layer.topology.outputs
            (('TP53', 'MYC'), ('apoptosis', 'cycle'))
        """
        where = "SparseLinear.from_edges"
        given = edge_list(where, edges)
        weights, words = edge_weights(where, given), constraint_words(where, given)
        if not given.sources and (inputs is None or outputs is None) and given.inputs is None:
            raise ValueError(
                f"{where}: expected edges, or the names of all inputs and outputs, got neither. Pass both, inputs= "
                "and outputs=, for a layer without edges."
            )
        t, order = Topology.linked(where, given, inputs, outputs)
        report_unconnected(where, t.unconnected._asdict(), {"inputs": t.shape[1], "outputs": t.shape[0]}, unconnected)
        layer = cls(
            t.shape[1], t.shape[0], bias, topology=t, sparse_grad=sparse_grad, generator=generator, device=device,
            dtype=dtype,
        )  # fmt: skip
        if weights is not None:
            numbers = torch.from_numpy(weights).to(layer.values.dtype)
            check_finite(where, numbers.double().numpy(), given)  # of the narrower type as well
            layer.values.data.copy_(numbers[order])
        if words is None:
            return layer
        in_order = [words[k] for k in order.tolist()]
        if weights is None:
            layer.values.data.copy_(with_signs(layer.values.data, in_order))
        return by_word(layer, in_order)

    @classmethod
    def from_matrix(
        cls,
        matrix: Any,
        bias: bool = True,
        *,
        inputs: Sequence[Hashable] | None = None,
        outputs: Sequence[Hashable] | None = None,
        sparse_grad: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """A layer with the weights of a matrix: its stored entries, or those of a dense one that are not zero.

        Args:
            matrix: shape ``(out, in)``: scipy.sparse of any format, a torch COO, CSR or CSC tensor, a dense matrix, or
                a data frame of one.
            inputs, outputs: names of the columns and of the rows. Without them, the labels of a data frame that has
                others than 0, 1, 2, ..., else none.
            dtype: of the parameters; by default the matrix's own where that is float32 or float64.
            bias, sparse_grad, generator, device: as in SparseLinear.

        Raises:
            ValueError: it is no matrix, an entry is stored twice, a weight is infinite or NaN, or two names read alike.
            TypeError: it does not hold real numbers.

        Example:
            >>> from scipy.sparse import eye_array
            >>> from sparsetrain.nn import SparseLinear
            >>> layer = SparseLinear.from_matrix(2 * eye_array(3), bias=False)
            >>> layer(torch.ones(3, dtype=torch.float64)).tolist()
            [2.0, 2.0, 2.0]
        """
        where = "SparseLinear.from_matrix"
        row, col, weights, shape = entries(where, matrix)
        crow_col = compressed(where, row, col, shape, "error", "Sum or drop the repeats before.")
        rows, columns = labels(matrix)
        t = Topology(
            *crow_col, shape, inputs=columns if inputs is None else inputs, outputs=rows if outputs is None else outputs
        )
        own = weights.dtype if weights.dtype in FLOATS else None
        layer = cls(
            shape[1], shape[0], bias, topology=t, sparse_grad=sparse_grad, generator=generator, device=device,
            dtype=dtype or own,
        )  # fmt: skip
        numbers = weights.to(layer.values)
        check_finite_entries(where, row, col, numbers)  # of the narrower type as well
        layer.values.data[t.position(row, col)] = numbers
        return layer
