"""Compiled kernels on disk may be damaged, full, shared or gone at any time: results are right and a word is said once."""

import errno
import shutil
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core import caching
from sparsetrain_kernels import disk_cache


def add_one(x: float) -> float:
    return x + 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(disk_cache._Said, "once", False)
    return tmp_path


def kernel(stamp: bytes = b"sources") -> Any:
    dispatcher = numba.njit(add_one)
    dispatcher._cache = disk_cache.cache_of(add_one, stamp)
    return dispatcher


def hits(stamp: bytes = b"sources") -> int:
    """How often a new process would find the kernel on disk: it is called once, and is right."""
    again = kernel(stamp)
    assert again(1.0) == 2.0
    return sum(again.stats.cache_hits.values())


def files(folder: Path, kind: str) -> list[Path]:
    return sorted(folder.rglob(f"*.{kind}"))


def test_kept_for_the_next_process_and_for_the_same_sources(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [hits(), hits(), hits(b"changed"), hits(b"changed")] == [0, 1, 0, 1]
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "foreign", "gone"])
def test_damaged_files_are_written_anew(folder: Path, kind: str, damage: str) -> None:
    assert hits() == 0
    (file,) = files(folder, kind)
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 8
        file.write_bytes(content)
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "foreign": b"x" * 1000}[damage])
    assert [hits(), hits()] == [0, 1]


def test_every_flipped_byte_of_the_code_is_seen(folder: Path) -> None:
    assert hits() == 0
    (file,) = files(folder, "nbc")
    cache, content = kernel()._cache._cache_file, file.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 50)):
        damaged = bytearray(content)
        damaged[place] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(OSError, match="damaged"):
            cache._load_data(file.name)


def test_a_number_of_a_file_that_two_processes_gave(folder: Path) -> None:
    cache = kernel()._cache._cache_file
    Path(cache._cache_path).mkdir(exist_ok=True)
    cache.save("one", "code of one")
    assert cache.load("one") == "code of one"
    index = cache._load_index()
    cache._save_index({"two": index["one"]})  # as another process writes that has not seen this one's
    assert cache.load("two") is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_folder_costs_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(code, "no room")

    monkeypatch.setattr(disk_cache._Files, "_open_for_write", fails)
    assert [hits(), hits()] == [0, 0]
    assert len(caplog.messages) == 1
    assert "no room" in caplog.messages[0]
    assert not files(folder, "tmp*")


def test_a_folder_that_vanishes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    waiting = kernel()
    shutil.rmtree(folder)
    assert waiting(1.0) == 2.0
    assert hits() == 1
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    assert waiting(1) == 2  # another type
    assert len(caplog.messages) == 1


def test_no_folder_can_be_written_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", fails)
    first, second = kernel(), kernel()  # as at import
    assert not caplog.messages
    assert first(1.0) == second(1.0) == 2.0
    assert len(caplog.messages) == 1
    assert "NUMBA_CACHE_DIR" in caplog.messages[0]
