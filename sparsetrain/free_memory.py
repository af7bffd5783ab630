"""How much memory this process may still take, so that what would not fit is refused before it is made: a system that
runs out of memory stops processes and says nothing."""

import os
from pathlib import Path

from .text_table import size

try:
    import resource
except ModuleNotFoundError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

LEAST = 64 << 20  # bytes below which nobody is asked
GROUP = Path("/sys/fs/cgroup")


def check(where: str, edges: int, needed: int) -> None:
    """So many edges, which take so many bytes, fit into memory.

    Raises:
        MemoryError: they do not.

    Example:
        >>> check("here", 10**16, 4 * 10**16)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        MemoryError: here: expected memory for 10,000,000,000,000,000 edges, 40000000 GB, got ... available. Ask for ...
    """
    if needed < LEAST:
        return
    free = available()
    if free is not None and needed > free:
        raise MemoryError(
            f"{where}: expected memory for {edges:,} edges, {size(needed)}, got {size(free)} that is available. Ask "
            "for fewer edges, or free what is no longer used."
        )


def available() -> int | None:
    """Bytes that can be taken before the system, a container or a limit of this process refuses; None where nothing
    says so."""
    known = [limit for limit in (_of_system(), _of_container(), _of_process()) if limit is not None]
    return max(0, min(known)) if known else None


def _of_system() -> int | None:
    free = _numbers(Path("/proc/meminfo")).get("MemAvailable:")
    return None if free is None else free * 1024


def _of_container() -> int | None:
    try:
        most = int((GROUP / "memory.max").read_text())
        used = int((GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return most - used + _numbers(GROUP / "memory.stat").get("inactive_file", 0)  # files that can be dropped


def _of_process() -> int | None:
    """What the limit of the address space (ulimit -v) leaves."""
    if resource is None:
        return None
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _numbers(Path("/proc/self/status")).get("VmSize:")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used * 1024


def _numbers(path: os.PathLike[str]) -> dict[str, int]:
    """The lines of a file that are a name and a number."""
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
