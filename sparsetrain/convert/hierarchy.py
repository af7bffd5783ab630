"""A model made of the edges of a hierarchy."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from torch import nn

from ..nn import Hierarchy, SparseLinear
from ..nn.constraint_words import constraint_words
from ..nn.unconnected import Unused, report_unconnected
from ..structure.edge_list import EdgeList, edge_list, edge_weights
from ..structure.names import checked, numbered, plain, text
from .swap import some

WHERE = "convert.from_hierarchy"
MOST_SHOWN = 10  # nodes of a cycle


def from_hierarchy(
    edges: Any,
    *,
    inputs: Sequence[Hashable] | None = None,
    outputs: Sequence[Hashable] | None = None,
    activation: Callable[[], nn.Module] = nn.Tanh,
    bias: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    unconnected: Unused = "warn",
) -> Hierarchy:
    r"""A model wired as a directed acyclic graph of named nodes, :math:`h_t = \phi(b_t + \sum_{s \to t} w_{st} h_s)`.

    The level of a node is the longest path from an input to it, so that a node reads earlier levels alone, and may skip
    some. One SparseLinear for each level keeps the names of what it reads and of what it computes. Nodes without
    outgoing edges are the outputs, on whatever level; they are returned as they are summed, without the activation.

    Args:
        edges: pairs (source, target), or a data frame with columns ``source`` and ``target``, and ``weight`` and
            ``constraint`` as in SparseLinear.from_edges.
        inputs: names of all inputs, in order: every node without incoming edges. By default in order of appearance.
        outputs: names of all outputs, in order: every node without outgoing edges. By default in order of appearance.
        activation: makes the module for each level, such as the class nn.Tanh.
        bias: every node that is computed has one.
        generator, device, dtype: as in SparseLinear.
        unconnected: what happens where an input has no edge, see SparseLinear.from_edges.

    Raises:
        ValueError: there is a cycle, whose nodes are named, an edge from a node to itself, or one that is given twice;
            an input has incoming edges, or a node without them is not among the inputs; a name is missing, or two read
            alike as text; a weight or a constraint is wrong.
        TypeError: edges are no edges, or the activation is a module.

    Example:
        >>> edges = [("TP53", "apoptosis"), ("MYC", "cycle"), ("apoptosis", "cell"), ("MYC", "cell")]
        >>> model = from_hierarchy([*edges, ("cycle", "cell")])
        >>> model.inputs, model.outputs, model.level_of("cycle")
        (('TP53', 'MYC'), ('cell',), 1)
        >>> x = torch.ones(3, 2)
        >>> model(x).shape, model.activations(x, ["apoptosis", "cycle"]).shape
        (torch.Size([3, 1]), torch.Size([3, 2]))
    """
    graph, nodes = _named(edge_list(WHERE, edges))
    edge_weights(WHERE, graph)
    constraint_words(WHERE, graph)
    level_of = _levels(graph)
    sources, targets = set(graph.sources), set(graph.targets)
    given = (graph.inputs if inputs is None else inputs, graph.outputs if outputs is None else outputs)
    first = _ends("inputs", "incoming", given[0], nodes, targets)
    last = _ends("outputs", "outgoing", given[1], nodes, sources)
    alone = [name for name in first if name not in sources]
    report_unconnected(WHERE, {"inputs": alone}, {"inputs": len(first)}, unconnected)
    options: dict[str, Any] = {"bias": bias, "generator": generator, "device": device, "dtype": dtype}
    model = Hierarchy(_layers(graph, nodes, level_of, first, options), first, last, activation)
    return model if device is None else model.to(device)


def _layers(
    graph: EdgeList, nodes: tuple[str, ...], level_of: dict[str, int], first: tuple[str, ...], options: dict[str, Any]
) -> list[SparseLinear]:
    """A layer for each level, whose inputs are in the order of levels."""
    last = set(nodes).difference(graph.sources)
    members, edges_of = defaultdict(list), defaultdict(list)
    for name in nodes:
        members[level_of[name]].append(name)
    for k, target in enumerate(graph.targets):
        edges_of[level_of[target]].append(k)
    place = {name: k for k, name in enumerate(first)}
    layers = []
    for level in range(1, len(members)):
        names = sorted(members[level], key=last.__contains__)  # outputs come last
        part = graph.take(edges_of[level])
        reads = sorted(set(part.sources), key=place.__getitem__)
        layers.append(SparseLinear.from_edges(part, inputs=reads, outputs=names, **options))
        place |= {name: len(place) + k for k, name in enumerate(names)}
    return layers


def _named(graph: EdgeList) -> tuple[EdgeList, tuple[str, ...]]:
    """The edges and all their nodes as text."""
    if not graph.sources:
        raise ValueError(f"{WHERE}: expected edges, got none.")
    ends = {"sources": graph.sources, "targets": graph.targets}
    for side, labels in ends.items():
        numbered(WHERE, side, labels, None, None)
    nodes = checked(WHERE, "the nodes", dict.fromkeys(map(plain, [*graph.sources, *graph.targets])))
    return replace(graph, **{side: list(map(text, labels)) for side, labels in ends.items()}), nodes


def _levels(graph: EdgeList) -> dict[str, int]:
    """The longest path to each node."""
    reads: dict[str, list[str]] = defaultdict(list)
    for source, target in zip(graph.sources, graph.targets, strict=True):
        if source == target:
            raise ValueError(f"{WHERE}: expected edges between two nodes, got one from {source!r} to itself. Drop it.")
        reads[target].append(source)
    edge, times = Counter(zip(graph.sources, graph.targets, strict=True)).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{WHERE}: expected distinct edges, got {edge} more than once. Drop the repeats.")
    level: dict[str, int] = {}
    try:
        for node in TopologicalSorter(reads).static_order():
            level[node] = max((level[source] + 1 for source in reads.get(node, ())), default=0)
    except CycleError as error:
        cycle: list[str] = error.args[1]
        shown = cycle if len(cycle) <= MOST_SHOWN else [*cycle[:MOST_SHOWN], "..."]
        raise ValueError(
            f"{WHERE}: expected edges without a cycle, got {' -> '.join(shown)} ({len(cycle) - 1} nodes). Drop one of "
            "its edges."
        ) from None
    return level


def _ends(
    side: str, direction: str, given: Sequence[Hashable] | None, nodes: tuple[str, ...], others: set[str]
) -> tuple[str, ...]:
    """Names of all nodes without edges in a direction, in the order given, else of appearance; others have some."""
    needed = [name for name in nodes if name not in others]
    if given is None:
        return tuple(needed)
    names = checked(WHERE, side, given)
    wrong = [name for name in names if name in others]
    if wrong:
        raise ValueError(f"{WHERE}: expected {side} without {direction} edges, got some at {some(wrong)}. Drop either.")
    missing = set(needed).difference(names)
    if missing:
        found = some(name for name in needed if name in missing)
        raise ValueError(
            f"{WHERE}: expected all nodes without {direction} edges in {side}, {len(missing)} are missing: {found}. "
            "Add them, or drop their edges."
        )
    unknown = set(names).difference(needed) if side == "outputs" else ()
    if unknown:
        raise ValueError(f"{WHERE}: expected {side} that edges lead to, got also {some(sorted(unknown))}. Drop them.")
    return names
