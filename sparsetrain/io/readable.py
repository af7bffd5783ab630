"""Whether a file can be read, before a reader of others' says so in its words."""

import os
import stat
from typing import BinaryIO


def opened(where: str, what: str, path: str | os.PathLike[str]) -> BinaryIO:
    """The file, open for reading. FileNotFoundError: there is none. IsADirectoryError,
    PermissionError, OSError: it can't be read."""
    check_path(where, path)
    name = os.fspath(path)
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISREG(kind):
            return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{where}: expected {what}, there is no file {name!r}.") from None
    except OSError as error:
        advice = " Ask its owner for the right to read it." if isinstance(error, PermissionError) else ""
        raise type(error)(
            f"{where}: expected {what}, {name!r} can't be read ({error.strerror or error}).{advice}"
        ) from None
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(f"{where}: expected {what}, {name!r} is a folder.")
    raise OSError(f"{where}: expected {what}, {name!r} is no regular file. Copy what it gives into one.")


def check_path(where: str, path: object) -> None:
    """It names a file."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{where}: expected the path of a file as text or a pathlib.Path, got {path!r}.")
    if "\0" in os.fsdecode(path):
        raise ValueError(f"{where}: expected the path of a file, got {os.fspath(path)!r} with a zero byte in it.")
