"""Edges from a table of text, with commas or tabs."""

import csv
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from os import PathLike
from typing import Any
from zipfile import BadZipFile

from ..extras import needed
from ..structure.edge_list import CONSTRAINT, WEIGHT
from .readable import opened

WHERE = "io.read_csv"
FIRST = 2  # the line after the header


def read_csv(
    path: str | PathLike[str],
    *,
    source: str = "source",
    target: str = "target",
    weight: str = WEIGHT,
    constraint: str = CONSTRAINT,
) -> Any:
    """Edges of a table with a header, a row for each edge, separated by commas or tabs; compressed ones too.

    Names are read as they are written: 007 stays 007, and NA is a name. Blank lines are left out, other columns not
    read.

    Args:
        path: of the file.
        source, target, weight, constraint: names of the columns. The last two may be missing under their usual names.

    Returns:
        A data frame with columns source, target and, where the file has them, weight and constraint.

    Raises:
        FileNotFoundError: no such file. ModuleNotFoundError: pandas is not installed.
        ValueError: it is no such table, lacks a column, or lacks a name or a number; the message names the line.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "edges.csv")
        ...     _ = path.write_text("gene,pathway,weight\\nTP53,apoptosis,0.5\\nMYC,cycle,-1\\n")
        ...     read_csv(path, source="gene", target="pathway").values.tolist()
        [['TP53', 'apoptosis', 0.5], ['MYC', 'cycle', -1.0]]
    """
    pandas = needed(WHERE, "pandas")
    for kind, name in (("source", source), ("target", target), (WEIGHT, weight), (CONSTRAINT, constraint)):
        if not isinstance(name, str):
            raise TypeError(f"{WHERE}: expected the name of a column as {kind}, got {name!r}.")
    separator, header = _header(pandas, path)
    wanted = [(source, "source"), (target, "target")]
    wanted += [
        (name, kind) for name, kind in ((weight, WEIGHT), (constraint, CONSTRAINT)) if name in header or name != kind
    ]
    columns = dict(wanted)
    if len(columns) < len(wanted) or not all(name in header for name in columns):
        names = ", ".join(repr(name) for name, _ in wanted)
        raise ValueError(
            f"{WHERE}: expected columns {names} in {str(path)!r}, got {_some(header)}. "
            "Name them with source=, target=, weight= and constraint=."
        )
    frame = _table(pandas, path, separator, header, list(columns)).rename(columns=columns).dropna(how="all")
    for kind in ("source", "target", WEIGHT):
        if kind in frame:
            _check(frame, kind, frame[kind].isna(), path)
    if WEIGHT in frame:
        numbers = pandas.to_numeric(frame[WEIGHT], errors="coerce")
        _check(frame, WEIGHT, ~numbers.abs().lt(float("inf")), path)
        frame[WEIGHT] = numbers.astype("float64")
    return frame.reset_index(drop=True)


OPTIONS = {"dtype": str, "keep_default_na": False, "na_values": [""], "skip_blank_lines": False, "index_col": False}


def _header(pandas: Any, path: str | PathLike[str]) -> tuple[str, list[str]]:
    """What separates the columns, and their names as they are written: pandas numbers those that occur twice."""
    opened(WHERE, "a table of edges", path).close()
    with _in_our_words(path):
        first = next(_lines(pandas, path, 1), "")
        separator = "\t" if "\t" in first else ","
        header = [name.strip() for name in next(csv.reader([first], delimiter=separator, strict=True), [])]
    twice = [name for name, times in Counter(header).items() if times > 1 and name]  # without a name they aren't read
    if twice:
        raise ValueError(f"{WHERE}: expected columns of distinct names in {str(path)!r}, got {twice[0]!r} twice.")
    return separator, header


def _table(pandas: Any, path: str | PathLike[str], separator: str, header: list[str], columns: list[str]) -> Any:
    """These columns as text: stripped, None where nothing is written. Others are not read: there may be many."""
    places = sorted(header.index(name) for name in columns)
    with _in_our_words(path):
        _check_rows(pandas, path, separator, len(header))
        table = pandas.read_csv(path, sep=separator, usecols=places, **OPTIONS)
    table.columns = [header[k] for k in places]
    return table[columns].apply(lambda column: column.str.strip().replace("", None))


def _check_rows(pandas: Any, path: str | PathLike[str], separator: str, columns: int) -> None:
    """No row is longer than the header, of which pandas says nothing where it reads some columns alone."""
    if all(line.count(separator) < columns for line in _lines(pandas, path)):
        return
    rows = csv.reader((f"{line}\n" for line in _lines(pandas, path)), delimiter=separator)
    for row in rows:  # separators may be quoted
        if len(row) > columns:
            raise ValueError(f"expected {columns} fields in line {rows.line_num}, as in the header, got {len(row)}")


def _lines(pandas: Any, path: str | PathLike[str], count: int | None = None) -> Iterator[str]:
    """The first lines, or all, of a file that may be compressed."""
    options = {"dtype": str, "na_filter": False, "skip_blank_lines": False, "chunksize": 10_000, "nrows": count}
    with pandas.read_csv(path, sep="\0", header=None, quoting=csv.QUOTE_NONE, **options) as tables:
        for table in tables:
            yield from table[0]


@contextmanager
def _in_our_words(path: str | PathLike[str]) -> Iterator[None]:
    """What pandas says of other files, in our words."""
    try:
        yield
    except (
        ValueError,
        OSError,
        EOFError,
        csv.Error,
        zlib.error,
        LZMAError,
        BadZipFile,
    ) as error:  # pandas' and unicode's are ValueErrors
        raise ValueError(
            f"{WHERE}: expected a table of text with a header, {str(path)!r} is none ({str(error).strip()})."
        ) from None


def _some(header: list[str]) -> str:
    """The first names of a header, for a message."""
    return f"{header[:20]}" if len(header) <= 20 else f"{header[:20]} and {len(header) - 20} more"


def _check(frame: Any, kind: str, wrong: Any, path: str | PathLike[str]) -> None:
    if wrong.any():
        k = wrong.idxmax()
        got = frame[kind][k]
        expected = "a number" if kind == WEIGHT else "a name"
        raise ValueError(
            f"{WHERE}: expected {expected} as the {kind} of every edge, got {got if got == got else None!r} in line "
            f"{k + FIRST} of {str(path)!r}. The file may be cut off there."
        )
