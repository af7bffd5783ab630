"""A file that is written whole or not at all, and what writers that were killed have left behind."""

import os
import secrets
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .readable import check_path

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system: nothing is locked, and nothing is cleaned up
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX, LOCK = ".sparsetrain-", ".tmp", "lock"
DAY = 24 * 3600.0


@contextmanager
def replacing(where: str, path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; afterwards the file has its own name, and whatever happens, that is the old file or the new.

    The new file keeps the permissions of the old one. It is written in a folder beside it, which the writer locks: a
    lock outlives no process, so that the next writer can tell which folders nobody will come back for.
    """
    check_path(where, path)
    target = Path(os.path.realpath(path))  # a link stays a link
    try:
        _check_target(where, target)
        _remove_abandoned(target.parent)
        folder, lock = _locked_folder(target.parent)
    except OSError as error:
        if error.errno is None:  # in our words
            raise
        raise type(error)(
            f"{where}: expected a file that can be written, {str(target)!r} can't be ({error.strerror})."
        ) from None
    try:
        mode = stat.S_IMODE(_mode(target) or _mode(folder / LOCK))
        yield folder / "file"
        (folder / "file").chmod(mode)
        _flush(folder / "file")
        (folder / "file").replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
    _flush(target.parent)


def _check_target(where: str, target: Path) -> None:
    """It is a regular file, or there is none yet: a device or a pipe would be gone, and a regular file in its place."""
    if not stat.S_ISDIR(_mode(target.parent)):
        raise FileNotFoundError(
            f"{where}: expected a file in a folder that exists, there is no folder {str(target.parent)!r}."
        )
    mode = _mode(target)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{where}: expected the name of a file, {str(target)!r} is a folder.")
    if mode and not stat.S_ISREG(mode):
        raise OSError(
            f"{where}: expected the name of a regular file, {str(target)!r} is a device, a pipe, a socket or a link to "
            "itself. Write to a file, and copy it there."
        )


def _mode(path: Path) -> int:
    """What stands at a path, 0 if nothing does. Any other fault is raised: since Python 3.14 Path.exists() and its like
    say no to those as well."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new folder that only this user can read, and the open lock in it."""
    while True:
        folder = parent / f"{PREFIX}{_host()}-{secrets.token_hex(8)}{SUFFIX}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)  # with the permissions of any new file
        except FileNotFoundError:  # taken for an abandoned one before it was locked
            continue
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        if _mode(folder / LOCK):
            return folder, lock
        os.close(lock)


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed writers left. Locks may not reach other hosts: what these wrote must be a day old as well."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*{SUFFIX}"):
        with suppress(OSError):  # in use, someone else's, or gone
            ours = folder.name.startswith(f"{PREFIX}{_host()}-")
            if not ours and time.time() - max(entry.stat().st_mtime for entry in (folder, *folder.iterdir())) < DAY:
                continue
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
