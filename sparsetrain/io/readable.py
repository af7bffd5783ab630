"""Whether a file can be read, before a reader of others' says so in its words."""

import os
from pathlib import Path
from typing import BinaryIO


def opened(where: str, what: str, path: str | os.PathLike[str]) -> BinaryIO:
    """The file, open for reading. FileNotFoundError: there is none. PermissionError, OSError: it can't be read."""
    check_path(where, path)
    name = os.fspath(path)
    try:
        if not Path(path).is_file():
            raise FileNotFoundError
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{where}: expected {what}, there is no file {name!r}.") from None
    except OSError as error:
        advice = " Ask its owner for the right to read it." if isinstance(error, PermissionError) else ""
        raise type(error)(
            f"{where}: expected {what}, {name!r} can't be read ({error.strerror or error}).{advice}"
        ) from None


def check_path(where: str, path: object) -> None:
    """It names a file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{where}: expected the path of a file as text or a pathlib.Path, got {path!r}.")
