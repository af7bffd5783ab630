"""Reactome's pathways: which proteins are in which, and which pathway is part of which."""

import re
from collections import defaultdict
from os import PathLike
from typing import Any

from ..extras import needed
from .text_lines import fields

WHERE = "io.read_reactome"
PATHWAY = re.compile(r"R-[A-Z]{3}-\d+")

Path = str | PathLike[str]


def read_reactome(mapping: Path, relations: Path, species: str = "Homo sapiens") -> Any:
    """Edges protein -> pathway and pathway -> the pathway that it is part of, of one species, each once.

    Of the mapping those rows count that have the species in their sixth column. The relations don't name a species;
    those count that lead on from a pathway which has proteins. So the sources without incoming edges are the proteins,
    which convert.from_hierarchy takes for its inputs. A few pathways that have small molecules alone are left out.

    Args:
        mapping: UniProt2Reactome.txt (or another of the mapping tables): protein, pathway, address, name, evidence,
            species, separated by tabs, without a header.
        relations: ReactomePathwaysRelation.txt: the larger pathway, then its part.
        species: as the mapping has it.

    Returns:
        A data frame with columns source, target and kind, which says of a source whether it is a ``"protein"`` or a
        ``"pathway"``; proteins first, in the order of the files.

    Raises:
        FileNotFoundError: no such file. ModuleNotFoundError: pandas is not installed.
        ValueError: a line has other columns than these, or the species does not occur; the message names the line.

    Source: https://reactome.org/download-data

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mapping, relations = pathlib.Path(folder, "mapping"), pathlib.Path(folder, "relations")
        ...     _ = mapping.write_text("P04637\\tR-HSA-69541\\taddress\\tname\\tTAS\\tHomo sapiens\\n")
        ...     _ = relations.write_text("R-HSA-69615\\tR-HSA-69541\\n")
        ...     read_reactome(mapping, relations).values.tolist()
        [['P04637', 'R-HSA-69541', 'protein'], ['R-HSA-69541', 'R-HSA-69615', 'pathway']]
    """
    pandas = needed(WHERE, "pandas")
    members = _members(mapping, species)
    wholes = _wholes(relations)
    reached = dict.fromkeys(pathway for _, pathway in members)
    waiting = list(reached)
    while waiting:
        new = [whole for whole in wholes[waiting.pop()] if whole not in reached]
        reached.update(dict.fromkeys(new))
        waiting += new
    parts = [(part, whole) for part, larger in wholes.items() if part in reached for whole in larger]
    kinds = ["protein"] * len(members) + ["pathway"] * len(parts)
    return pandas.DataFrame([*members, *parts], columns=["source", "target"]).assign(kind=kinds)


def _members(path: Path, species: str) -> dict[tuple[str, str], None]:
    found: dict[tuple[str, str], None] = {}
    others = set()
    for number, row in fields(WHERE, path):
        if len(row) != 6 or not row[0] or not PATHWAY.fullmatch(row[1]):
            raise _wrong("protein, pathway, address, name, evidence and species", row, number, path)
        if row[5] == species:
            found[row[0], row[1]] = None
        else:
            others.add(row[5])
    if not found:
        raise ValueError(f"{WHERE}: expected a species of {str(path)!r}, got {species!r}. There are {sorted(others)}.")
    return found


def _wholes(path: Path) -> dict[str, dict[str, None]]:
    """The pathways that a pathway is part of; of all species, whose identifiers differ."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for number, row in fields(WHERE, path):
        if len(row) != 2 or not all(map(PATHWAY.fullmatch, row)):
            raise _wrong("a pathway and its part", row, number, path)
        found[row[1]][row[0]] = None
    return found


def _wrong(expected: str, row: list[str], number: int, path: Path) -> ValueError:
    return ValueError(
        f"{WHERE}: expected {expected}, separated by tabs, got {row} in line {number} of {str(path)!r}. The file may "
        "be cut off there, or the two tables changed places."
    )
