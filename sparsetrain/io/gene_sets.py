"""Edges from sets of genes to the sets: dictionaries, and GMT files."""

import re
from collections.abc import Hashable, Iterable, Mapping
from os import PathLike
from typing import Any

from .. import checks
from ..extras import needed
from ..structure.edge_list import WEIGHT
from ..structure.names import plain
from .text_lines import fields

WEIGHTED = re.compile(r"(.*\S)\s*,\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?)")


def from_sets(sets: Mapping[Hashable, Iterable[Hashable]]) -> Any:
    """Edges (member, set): the source of each is a member, the target the set that has it, once.

    Args:
        sets: the members of each set, by its name.

    Returns:
        A data frame with columns source and target, in the order of the sets and of their members; a Python set's,
        which have none, by their text.

    Raises:
        ValueError: a set has no members. TypeError: it is no dict, or a set is text or can't be iterated over.
        ModuleNotFoundError: pandas is not installed.

    Example:
        >>> from_sets({"apoptosis": ["TP53", "BAX"], "cycle": ["TP53"]}).values.tolist()
        [['TP53', 'apoptosis'], ['BAX', 'apoptosis'], ['TP53', 'cycle']]
    """
    where = "io.from_sets"
    if not isinstance(sets, Mapping):
        raise TypeError(f"{where}: expected a dict from sets to their members, got {type(sets).__name__}.")
    return _frame(where, {name: _each_once(where, name, members) for name, members in sets.items()})


def _each_once(where: str, name: Hashable, members: Iterable[Hashable]) -> list[Hashable]:
    listed = None if isinstance(members, str) else checks.listed(members)
    if listed is None:
        raise TypeError(f"{where}: expected the members of {name!r} in a list, got {members!r}.")
    listed = list(map(plain, listed))
    if isinstance(members, set | frozenset):
        return sorted(listed, key=str)
    try:
        return list(dict.fromkeys(listed))
    except TypeError:
        raise TypeError(f"{where}: expected text or numbers as members of {name!r}, got {members!r}.") from None


def read_gmt(path: str | PathLike[str], *, weights: bool | None = None) -> Any:
    """Edges (gene, set) of a GMT file: on each line a set, a description and its genes, separated by tabs.

    A gene that a line names twice is in the set once. Descriptions are left out. Some libraries write a weight behind
    each gene, as in ``TP53,1.0``.

    Args:
        path: of the file, which may end in .gz.
        weights: whether genes have weights. By default all do if any of them ends in a comma and a number; False keeps
            that in the names.

    Returns:
        A data frame with columns source (gene), target (set) and, where genes have weights, weight, in the order of the
        file.

    Raises:
        FileNotFoundError: no such file. ModuleNotFoundError: pandas is not installed.
        ValueError: a line has no genes or no name, some genes have weights and others none, a gene has two, or a set
            occurs twice; the message names the line.

    Source: the GMT format of GSEA and MSigDB.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "sets.gmt")
        ...     _ = path.write_text("apoptosis\\tsome text\\tTP53\\tBAX\\ncycle\\t\\tTP53\\n")
        ...     read_gmt(path).values.tolist()
        [['TP53', 'apoptosis'], ['BAX', 'apoptosis'], ['TP53', 'cycle']]
    """
    where = "io.read_gmt"
    sets: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for number, (name, *rest) in fields(where, path):
        genes = [gene for gene in rest[1:] if gene]  # lines may end in tabs
        if not name or not genes:
            raise ValueError(
                f"{where}: expected a set, a description and genes, separated by tabs, got {[name, *rest][:3]} in line "
                f"{number} of {str(path)!r}. The file may be cut off there, or of another kind."
            )
        if name in lines:
            raise ValueError(
                f"{where}: expected each set once, got {name!r} in lines {lines[name]} and {number} of {str(path)!r}."
            )
        sets[name], lines[name] = list(dict.fromkeys(genes)), number
    found = any(WEIGHTED.fullmatch(gene) for genes in sets.values() for gene in genes)
    if weights is False or not (weights or found):
        return _frame(where, sets)
    parted = {name: _parted(where, genes, f"line {lines[name]} of {str(path)!r}") for name, genes in sets.items()}
    frame = _frame(where, {name: list(members) for name, members in parted.items()})
    frame[WEIGHT] = [weight for members in parted.values() for weight in members.values()]
    return frame


def _parted(where: str, genes: list[str], place: str) -> dict[str, float]:
    """The weights of genes that are written with them."""
    found: dict[str, float] = {}
    for gene in genes:
        match = WEIGHTED.fullmatch(gene)
        if match is None:
            raise ValueError(
                f"{where}: expected a weight behind every gene, as in 'TP53,1.0', or behind none, got {gene!r} in "
                f"{place}. Pass weights=False if commas and numbers are parts of names."
            )
        name, weight = match.groups()
        if found.setdefault(name, float(weight)) != float(weight):
            raise ValueError(f"{where}: expected one weight of {name!r} in {place}, got two. Drop one.")
    return found


def _frame(where: str, sets: Mapping[Any, list[Any]]) -> Any:
    pandas = needed(where, "pandas")
    empty = next((name for name, members in sets.items() if not members), None)
    if empty is not None:
        raise ValueError(f"{where}: expected members in every set, got none in {empty!r}. Leave it out.")
    pairs = [(member, name) for name, members in sets.items() for member in members]
    return pandas.DataFrame(pairs, columns=["source", "target"])
