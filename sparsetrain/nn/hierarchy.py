"""A network whose wiring is a directed acyclic graph of named nodes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import Tensor, nn

from .. import tracing
from ..edges.frames import Unknown, aligned
from ..edges.module import EdgeModule
from ..extras import needed
from ..structure.names import checked, text
from .columns import Columns
from .sparse_linear import SparseLinear


class Hierarchy(nn.Module):
    r"""A network of named nodes in levels, :math:`h_t = \phi(b_t + \sum_{s \to t} w_{st} h_s)`.

    Level 0 contains the inputs. Each further level has a layer, which computes its nodes from nodes of any earlier
    levels. Outputs are the sums, without the activation. Created by convert.from_hierarchy.

    Args:
        levels: layers with names, each of which reads inputs and nodes of earlier layers; in each the nodes that are
            read on come first.
        inputs, outputs: names in the order in which they come and are returned.
        activation: makes the module :math:`\phi` of a level, for instance the class nn.Tanh.

    Shape:
        ``(..., len(inputs))`` to ``(..., len(outputs))``.

    Attributes:
        levels: the layers, in a ModuleList; ``levels[0]`` computes level 1.
        inputs, outputs: tuples of names.

    Raises:
        ValueError: a layer has no names, reads what no earlier one computes or computes what there is already, or the
            outputs of a level are not last.
        TypeError: an activation that is a module already, as its parameters would be shared.

    Example:
        >>> import torch
        >>> first = SparseLinear.from_edges([("TP53", "apoptosis"), ("MYC", "cycle")])
        >>> second = SparseLinear.from_edges([("apoptosis", "cell"), ("cycle", "cell"), ("TP53", "cell")])
        >>> model = Hierarchy([first, second], inputs=["TP53", "MYC"], outputs=["cell"])
        >>> model(torch.ones(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        levels: Sequence[SparseLinear],
        inputs: Iterable[Any],
        outputs: Iterable[Any],
        activation: Callable[[], nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__()
        where = "Hierarchy"
        if isinstance(activation, nn.Module) or not callable(activation):
            raise TypeError(
                f"{where}: expected activation to make a module for each level, such as the class nn.Tanh, got "
                f"{activation!r}. For one with options pass lambda: nn.LeakyReLU(0.2)."
            )
        self.inputs, self.outputs = checked(where, "inputs", inputs), checked(where, "outputs", outputs)
        self._places = {name: (0, k) for k, name in enumerate(self.inputs)}  # which tensor, which column
        self._widths = [len(self.inputs)]
        self._level_of = dict.fromkeys(self.inputs, 0)
        reads = []
        for level in levels:
            names = level.topology
            if names.inputs is None or names.outputs is None:
                raise ValueError(
                    f"{where}: expected layers with names, got {level!r} without. Make it with from_edges."
                )
            reads.append(self._columns(where, names.inputs))
            self._add_level(where, names.outputs)
        self._wiring = [(level.topology.inputs, level.topology.outputs) for level in levels]
        self.levels = nn.ModuleList(levels)
        self.activation = nn.ModuleList(activation() if width else nn.Identity() for width in self._widths[1::2])
        self.reads = nn.ModuleList(reads)
        self.returns = self._columns(where, self.outputs)

    def _add_level(self, where: str, names: tuple[str, ...]) -> None:
        """A level makes two tensors: of the nodes that are read on, and of outputs."""
        last = set(self.outputs)
        hidden = [name for name in names if name not in last]
        if list(names[: len(hidden)]) != hidden:
            raise ValueError(f"{where}: expected outputs to be the last nodes of their level, got {names[:10]}.")
        twice = next((name for name in names if name in self._places), None)
        if twice is not None:
            raise ValueError(f"{where}: expected each node to be computed once, got {twice!r} again.")
        tensor = len(self._widths)
        self._places |= {name: (tensor, k) for k, name in enumerate(hidden)}
        self._places |= {name: (tensor + 1, k) for k, name in enumerate(names[len(hidden) :])}
        self._widths += [len(hidden), len(names) - len(hidden)]
        self._level_of |= dict.fromkeys(names, (tensor + 1) // 2)

    def _columns(self, where: str, names: Sequence[str]) -> Columns:
        unknown = [name for name in names if name not in self._places]
        if unknown:
            shown = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ValueError(f"{where}: expected names of inputs or of nodes on earlier levels, got {shown}.")
        return Columns([self._places[name] for name in names], self._widths)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, shape (..., outputs), for inputs of shape (..., inputs), each in the order of its names."""
        if tracing.is_symbolic(x):
            return cast(Tensor, tracing.as_leaf(self, x))
        y = cast(Tensor, self.returns(self._tensors(x)))
        sharded = any(getattr(level, "_agreed", None) is not None for level in self.levels)
        return y.clone() if sharded else y  # as fully_shard wants no view from what it is called with

    def activations(self, x: Tensor, nodes: Iterable[Any]) -> Tensor:
        """Activations of chosen nodes of any level for these inputs; of an output, its sum.

        Args:
            x: shape ``(..., len(inputs))``.
            nodes: names.

        Returns:
            shape ``(..., len(nodes))``.

        Raises:
            ValueError: there is no such node.

        Example:
            >>> import torch
            >>> model = Hierarchy([SparseLinear.from_edges([("a", "b")])], inputs=["a"], outputs=["b"])
            >>> model.activations(torch.ones(3, 1), ["a"]).tolist()
            [[1.0], [1.0], [1.0]]
        """
        names = checked("Hierarchy.activations", "nodes", nodes)
        if not names:
            raise ValueError("Hierarchy.activations: expected names of nodes, got none.")
        columns = self._columns("Hierarchy.activations", names)
        return cast(Tensor, columns.to(x.device)(self._tensors(x)))

    __prepare_scriptable__ = tracing.refuse_script

    def _tensors(self, x: Tensor) -> list[Tensor]:
        if x.shape[-1:] != (len(self.inputs),):
            raise ValueError(
                f"Hierarchy: expected {len(self.inputs)} input features, got x of shape {tuple(x.shape)}. "
                "align(frame) puts the columns of a data frame in order."
            )
        tensors = [x]
        for layer, read, activation, names in zip(self.levels, self.reads, self.activation, self._wiring, strict=True):
            if isinstance(layer, EdgeModule) and (layer.topology.inputs, layer.topology.outputs) != names:
                raise ValueError(
                    "Hierarchy: expected layers with the names that they were wired by, got others, as from "
                    'io.load(..., topology="adopt"). Make a new Hierarchy of these layers.'
                )
            sums = layer(read(tensors))
            hidden = self._widths[len(tensors)]
            tensors += [activation(sums[..., :hidden]), sums[..., hidden:]]
        return tensors

    def level_of(self, node: Any) -> int:
        """The level of a node, 0 for an input: the longest path from an input to it. ValueError: no such node."""
        if text(node) not in self._level_of:
            raise ValueError(f"Hierarchy.level_of: expected the name of a node, got {node!r}.")
        return self._level_of[text(node)]

    def layer(self, level: int | str) -> SparseLinear:
        """The layer that computes a level, counted from 1, or the node of this name.

        Raises:
            IndexError: no such level. ValueError: no such node, or it is an input.
        """
        number = self.level_of(level) if isinstance(level, str) else level
        if isinstance(level, str) and number == 0:
            raise ValueError(f"Hierarchy.layer: expected a node that is computed, got the input {level!r}.")
        if not 1 <= number <= len(self.levels):
            raise IndexError(f"Hierarchy.layer: expected a level from 1 to {len(self.levels)}, got {number}.")
        return cast(SparseLinear, self.levels[number - 1])

    def align(self, frame: Any, unknown: Unknown = "drop") -> Any:
        """The columns of a data frame in the order of the inputs; see SparseLinear.align for what is refused."""
        return aligned("Hierarchy.align", frame, self.inputs, unknown)

    def edges(self) -> Any:
        """A data frame of all edges: source, target and weight, level by level.

        convert.from_hierarchy takes it, unless all edges into some node have been dropped: the node, a constant here,
        would be an input there, and is named.
        """
        pandas = needed("Hierarchy.edges", "pandas")
        frame = pandas.concat([cast(SparseLinear, layer).edges() for layer in self.levels], ignore_index=True)
        frame.attrs = {"inputs": self.inputs, "outputs": self.outputs}
        return frame

    def extra_repr(self) -> str:
        edges = sum(level.topology.nnz for level in self.levels if isinstance(level, EdgeModule))
        return f"inputs={len(self.inputs)}, outputs={len(self.outputs)}, nodes={len(self._places)}, edges={edges}"
