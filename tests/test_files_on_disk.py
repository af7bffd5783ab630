"""Checkpoints as files: damaged by a bit, with permissions and names of any kind, and left over by killed writers."""

import builtins
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import adam, identical, network, train
from safetensors import safe_open
from safetensors.torch import save_file

import sparsetrain as st
from sparsetrain.io import archive, load, save, whole_file

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- damage ------------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_loads_in_silence(path: Path) -> None:
    torch.manual_seed(0)
    model, target = network(), network(3)
    optimizer, resumed = adam(model), adam(target)
    train(model, optimizer, 1)
    save(path, model, optimizer)
    whole = path.read_bytes()
    content = archive.read("test", path)
    before = target.state_dict()
    draw = random.Random(0)
    places = (
        [draw.randrange(len(whole)) for _ in range(150)] + list(range(80)) + list(range(len(whole) - 40, len(whole)))
    )
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            read = archive.read("io.load", path)
        except ValueError:
            with pytest.raises(ValueError, match=r"^io\.load: "):
                load(path, target, resumed)
        else:
            assert identical(read, content), place  # spaces that fill up the header may become other spaces
    assert identical(target.state_dict(), before)
    assert not resumed.state


@pytest.mark.parametrize("kind", ["values", "position"])
def test_damaged_edges_of_fine_tuning_are_refused(tmp_path: Path, kind: str) -> None:
    tuned = st.convert.train_edges(torch.nn.Linear(9, 8), 0.5)
    st.io.save_edges(tmp_path / "edges", tuned)
    data = bytearray((tmp_path / "edges").read_bytes())
    data[-1 if kind == "values" else -4 * tuned.topology.nnz - 1] ^= 1  # type: ignore[operator,union-attr]
    (tmp_path / "edges").write_bytes(data)
    with pytest.raises(ValueError, match=r"^io\.load_edges: .* damaged \(their checksum is"):
        st.io.load_edges(tmp_path / "edges", tuned)


def test_the_checksum_covers_names_shapes_types_and_the_header(path: Path) -> None:
    archive.write("test", path, {"a": [torch.zeros(4), torch.zeros(4, dtype=torch.int32)]})
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    one, two = tensors
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({one: tensors[one].view(2, 2)}, {}), ({one: tensors[one].view(torch.int32)}, {}),
        ({one: tensors[two], two: tensors[one]}, {}), ({"more": torch.ones(1)}, {}),
        ({}, {"content": header["content"] + " "}), ({}, {"checksun": header["checksum"]}),
    ]  # fmt: skip
    for change, other in changes:
        save_file({**tensors, **change}, path, {**header, **other})
        with pytest.raises(ValueError, match=r"^here: the contents of .* are damaged"):
            archive.read("here", path)
    save_file(tensors, path, {key: text for key, text in header.items() if key != "checksum"})  # as of version 0.1
    assert archive.read("here", path)["a"][0].tolist() == [0.0] * 4


def test_saving_leaves_the_model_s_memory_as_it_was(path: Path) -> None:
    model = network()
    save(path, model)
    model[0].values.untyped_storage().resize_(0)  # as FSDP does; refused of memory that numpy has seen


def test_conjugate_and_negative_views_are_saved_as_they_read(path: Path) -> None:
    x = torch.complex(torch.arange(3.0), torch.ones(3))
    archive.write("test", path, {"x": [x, x.conj(), x.conj().imag]})
    back = archive.read("test", path)["x"]
    assert [tensor.tolist() for tensor in back] == [x.tolist(), x.conj().tolist(), [-1.0] * 3]


def test_a_file_that_is_replaced_while_it_is_read_is_one_of_the_two(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors reads the header and the numbers apart."""
    for k, name in enumerate((path.with_name("new"), path)):
        archive.write("test", name, {"extra": {"a": torch.full((1000,), float(k)), "k": k}})
    from_file = torch.UntypedStorage.from_file

    def replaced(*rest: Any, **options: Any) -> Any:
        path.with_name("new").replace(path)
        return from_file(*rest, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", replaced)
    read = archive.read("test", path)["extra"]
    assert not path.with_name("new").exists()
    assert (read["a"] == read["k"]).all()


# ---- permissions and names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o666])
def test_a_file_that_is_replaced_keeps_its_permissions(path: Path, permissions: int) -> None:
    save(path, network())
    path.chmod(permissions)
    save(path, network())
    assert mode(path) == permissions


def test_nobody_else_reads_what_is_being_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(archive, "save_file", lambda tensors, new, header: (
        seen.append(mode(new.parent)), save_file(tensors, new, header)))  # fmt: skip
    save(path, network())
    assert seen == [0o700]


@pytest.mark.parametrize("name", [b"x" * 255, "ü".encode() * 127, b"caf\xe9.safetensors", b"new\nline"], ids=repr)
def test_files_of_any_name(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(tmp_path, os.fsdecode(name))
    model, other = network(), network()
    save(path, model)
    load(path, other)
    assert identical(other.state_dict(), model.state_dict())
    assert os.listdir(os.fsencode(tmp_path)) == [name]


def test_states_with_keys_that_are_not_unicode(path: Path) -> None:
    content = {"extra": {"caf\udce9": torch.ones(2), "caf\\udce9": torch.zeros(2)}}
    archive.write("test", path, content)
    assert identical(archive.read("test", path), content)


READERS = {
    "io.load": lambda path: load(path, network()),
    "io.load_edges": lambda path: st.io.load_edges(path, network()),
    "io.read_csv": st.io.read_csv,
    "io.read_gmt": st.io.read_gmt,
    "io.read_reactome": lambda path: st.io.read_reactome(path, path),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_may_not_be_read_is_not_said_to_be_missing(
    path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("a")
    whole = builtins.open

    def refuse(file: Any, *rest: Any, **options: Any) -> Any:
        if file == path:
            raise PermissionError(13, "Permission denied")
        return whole(file, *rest, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(PermissionError, match=rf"^{reader}: expected .*can't be read \(Permission denied\)"):
        READERS[reader](path)
    with pytest.raises(FileNotFoundError, match=rf"^{reader}: expected .*there is no file"):
        READERS[reader](path.parent / "none")
    with pytest.raises(IsADirectoryError, match=rf"^{reader}: expected .*is a folder"):
        READERS[reader](path.parent)
    with pytest.raises(OSError, match=rf"^{reader}: expected .*'/dev/null' is no regular file"):
        READERS[reader]("/dev/null")  # type: ignore[arg-type]


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=r"^io\.save: expected the name of a file, '.*' is a folder"):
        save(tmp_path, network())


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe", "link to itself"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as served:
            served.bind(os.path.relpath(place))  # names of sockets are short
    else:
        (tmp_path / "elsewhere").mkdir()
        os.mkfifo(tmp_path / "elsewhere" / "pipe")  # never a real device, which a fault here would replace
        place.symlink_to("elsewhere/pipe" if kind == "link to a pipe" else "place")
    before = place.lstat().st_mode
    with pytest.raises(OSError, match=r"^io\.save: expected the name of a regular file, '.*' is a device, a pipe, a"):
        save(place, network())
    assert place.lstat().st_mode == before
    assert set(os.listdir(tmp_path)) <= {"place", "elsewhere"}


def test_names_that_no_file_can_have_and_folders_that_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^io\.save: expected the path of a file, got 'a\\x00b' with a zero byte"):
        save("a\0b", network())
    for name in ("n" * 256, f"{'n' * 256}/file"):
        with pytest.raises(
            OSError, match=r"^io\.save: expected a file that can be written, .* can't be \(File name too"
        ):
            save(tmp_path / name, network())

    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        PermissionError, match=r"^io\.save: expected a file that can be written, .* \(Permission denied"
    ):
        save(tmp_path / "model", network())


def test_data_that_no_file_can_hold_is_refused(path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match=r"^io\.save: expected data nested .* contain itself\?"):
        save(path, network(), extra={"f": endless})
    with pytest.raises(
        ValueError, match=r"^io\.save: expected whole numbers of at most 8192 bits, .* at extra/data/n/0"
    ):
        save(path, network(), extra={"n": [-(10**5000)]})
    assert not path.exists()
    extra: dict[str, Any] = {}
    save(path, network(), extra={"n": 2**8191})
    load(path, network(), extra=extra)
    assert extra == {"n": 2**8191}


# ---- disks that are full -----------------------------------------------------------------------------------------------

FULL = """
import resource, sys, torch
from sparsetrain.io import archive
archive.write("io.save", sys.argv[1], {"extra": torch.zeros(1000)})
before = open(sys.argv[1], "rb").read()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the system refuses to write on, as on a full disk
try:
    archive.write("io.save", sys.argv[1], {"extra": torch.ones(1_000_000)})
except OSError as error:
    print(error)
print(open(sys.argv[1], "rb").read() == before)
"""


def test_a_full_disk_leaves_the_old_file_whole_and_no_other(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, env=environment, check=True
    )
    message, whole = done.stdout.splitlines()
    assert re.match(r"io.save: expected room for 4.00 MB beside '.*', where .* are free, .*What was there", message)
    assert whole == "True"
    assert list(path.parent.iterdir()) == [path]


# ---- writers that were killed ------------------------------------------------------------------------------------------

WRITER = """
import sys, time, torch, sparsetrain
from sparsetrain.io import archive
write = archive.save_file
def half(tensors, new, header):
    write(tensors, new, header)
    print("written", flush=True)
    time.sleep(600)
archive.save_file = half
archive.write("io.save", sys.argv[1], {"extra": torch.zeros(1000)})
"""


def test_what_a_killed_writer_left_is_removed_by_the_next(path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert writer.stdout
    assert writer.stdout.readline() == "written\n"
    (left,) = path.parent.iterdir()
    save(path, network())
    assert set(path.parent.iterdir()) == {path, left}  # its writer lives
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    save(path.with_name("other"), network())
    assert set(path.parent.iterdir()) == {path, path.with_name("other")}


def test_what_other_hosts_are_writing_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(whole_file, "_host", lambda: "elsewhere")
        folder, lock = whole_file._locked_folder(path.parent)
        os.close(lock)
    save(path, network())
    assert folder.exists()
    for entry in (folder / "lock", folder):
        os.utime(entry, (0, 0))
    save(path, network())
    assert not folder.exists()


def test_a_folder_that_is_taken_before_it_is_locked_is_made_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    mkdir = Path.mkdir

    def take(folder: Path, *rest: Any, **options: Any) -> None:
        mkdir(folder, *rest, **options)
        if not taken:
            taken.append(folder)
            folder.rmdir()

    monkeypatch.setattr(Path, "mkdir", take)
    save(path, network())
    assert taken
    assert list(path.parent.iterdir()) == [path]
