"""Files that a command writes: checked before the work, complete or absent after it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def check_writable(path: Path) -> None:
    """Raise OSError, with a sentence for the user, unless a file of this name can be made."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a regular file.")
    if not path.parent.is_dir():
        raise OSError(f"the folder {path.parent} does not exist. Make it first.")
    part = _part(path)
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise OSError(f"the folder {path.parent} can't be written to: {error.strerror}.") from None


def write(path: Path, write_to: Callable[[BinaryIO], None]) -> None:
    """Write under a temporary name in the same folder, then rename: nobody ever sees half a file."""
    part = _part(path)
    try:
        with part.open("wb") as file:
            write_to(file)
        os.replace(part, path.resolve())
    finally:
        part.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    path = path.resolve()  # a link stays a link
    return path.with_name(f".{path.name}.{os.getpid()}.part")
