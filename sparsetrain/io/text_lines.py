"""Tables of text without a header, line by line."""

import gzip
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from .readable import opened


def fields(where: str, path: str | PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """The number of each line that is not blank, and what tabs separate in it; of a file that may be gzipped."""
    opened(where, "a table of text", path).close()
    number = 0
    try:
        with gzip.open(path, "rb") if Path(path).suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode().strip("\r\n\ufeff")
                if "\0" in text:
                    raise ValueError("a zero byte")
                if text.strip():
                    yield number, [field.strip() for field in text.split("\t")]
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{where}: expected UTF-8 text, got something else near line {max(1, number)} of {str(path)!r} ({error})."
        ) from None
