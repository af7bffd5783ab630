"""Edges from a table of text, with commas or tabs."""

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

from ..edge_list import CONSTRAINT, WEIGHT
from ..extras import needed

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

    Names are read as they are written: 007 stays 007, and NA is a name. Blank lines and other columns are left out.

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
    pandas = needed(WHERE, "pandas", "edges")
    table = _text(pandas, path)
    wanted = [(source, "source"), (target, "target")]
    wanted += [
        (name, kind) for name, kind in ((weight, WEIGHT), (constraint, CONSTRAINT)) if name in table or name != kind
    ]
    columns = dict(wanted)
    if len(columns) < len(wanted) or not all(name in table for name in columns):
        names = ", ".join(repr(name) for name, _ in wanted)
        raise ValueError(
            f"{WHERE}: expected columns {names} in {str(path)!r}, got {list(table.columns)}. "
            "Name them with source=, target=, weight= and constraint=."
        )
    frame = table[list(columns)].rename(columns=columns).dropna(how="all")
    for kind in ("source", "target", WEIGHT):
        if kind in frame:
            _check(frame, kind, frame[kind].isna(), path)
    if WEIGHT in frame:
        numbers = pandas.to_numeric(frame[WEIGHT], errors="coerce")
        _check(frame, WEIGHT, ~numbers.abs().lt(float("inf")), path)
        frame[WEIGHT] = numbers.astype("float64")
    return frame.reset_index(drop=True)


def _text(pandas: Any, path: str | PathLike[str]) -> Any:
    """The table as text: stripped, None where nothing is written."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{WHERE}: expected a table of edges, there is no file {str(path)!r}.")
    options = {"dtype": str, "keep_default_na": False, "na_values": [""], "skip_blank_lines": False, "index_col": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # rows longer than the header
            tabs = len(pandas.read_csv(path, sep="\t", nrows=0, **options).columns) > 1
            separator = "\t" if tabs else ","
            table = pandas.read_csv(path, sep=separator, **options)
            # as they are written: pandas numbers those that occur twice
            table.columns = pandas.read_csv(path, sep=separator, nrows=1, header=None, **options).iloc[0].str.strip()
    except (
        ValueError,
        OSError,
        EOFError,
        pandas.errors.ParserWarning,
    ) as error:  # pandas' and unicode's are ValueErrors
        raise ValueError(
            f"{WHERE}: expected a table of text with a header, {str(path)!r} is none ({str(error).strip()})."
        ) from None
    twice = table.columns[table.columns.duplicated() & table.columns.notna()]  # columns without a name are not read
    if len(twice):
        raise ValueError(f"{WHERE}: expected columns of distinct names in {str(path)!r}, got {twice[0]!r} twice.")
    return table.apply(lambda column: column.str.strip().replace("", None))


def _check(frame: Any, kind: str, wrong: Any, path: str | PathLike[str]) -> None:
    if wrong.any():
        k = wrong.idxmax()
        got = frame[kind][k]
        expected = "a number" if kind == WEIGHT else "a name"
        raise ValueError(
            f"{WHERE}: expected {expected} as the {kind} of every edge, got {got if got == got else None!r} in line "
            f"{k + FIRST} of {str(path)!r}. The file may be cut off there."
        )
