"""The house of docs/design.md: imports point down, and neighbours on a floor do not know each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparsetrain"
KERNELS = ROOT / "kernels" / "sparsetrain_kernels"
TRITON = ROOT / "kernels" / "sparsetrain_triton"
BENCH = ROOT / "bench" / "sparsetrain_bench"

# from the ground up; a room may import rooms of lower floors, and files of its own folder
FLOORS: tuple[set[str], ...] = (
    {"sparsetrain_kernels", "sparsetrain_triton"},
    {
        "arrays",
        "dtypes",
        "with_data",
        "tracing",
        "checks",
        "extras",
        "ranks",
        "free_memory",
        "layer_names",
        "text_table",
        "structure",
        "patterns",
    },
    {"edges"},
    {"backends"},
    {"ops"},
    {"init", "penalty", "constrain", "curvature"},
    {"nn", "optim"},
    {"distributed"},
    {"convert", "evolve", "subtensor"},
    {"io", "data", "cli"},
    {"trainers"},
)
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
GROUND = 1  # the rooms of this floor are one family: files of structure that use each other
DOOR = {("cli", "data"), ("data", "io")}  # the command line reads the data sets, and they read files


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports; relative imports are resolved."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module or "")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            names |= {".".join([*base, *((node.module,) if node.module else ()), alias.name]) for alias in node.names}
    return names


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] in ("sparsetrain_kernels", "sparsetrain_triton"):
        return parts[0]
    return parts[1] if parts[0] == "sparsetrain" and len(parts) > 1 else None


FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem not in ("__init__", "__main__")
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOOR, f"{room} has no floor: give it one here and in docs/design.md"
    for name in imported(path):
        other = room_of(name)
        if other is None or other == room or other.startswith("__") or (room, other) in DOOR:
            continue
        assert other in FLOOR, f"{path.name} imports {name}, which has no floor"
        family = FLOOR[room] == FLOOR[other] == GROUND
        assert FLOOR[other] < FLOOR[room] or family, (
            f"{path.name} imports {name}: {room} stands on no higher floor than {other}"
        )


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: str(path.relative_to(KERNELS)))
def test_kernels_know_neither_torch_nor_sparsetrain(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)} - {"kernels"}
    allowed = {
        "collections",
        "ctypes",
        "functools",
        "itertools",
        "hashlib",
        "importlib",
        "logging",
        "math",
        "os",
        "pathlib",
        "pickle",
        "platform",
        "threading",
        "types",
        "typing",
    }
    assert roots <= allowed | {"numpy", "numba", "llvmlite"}


@pytest.mark.parametrize("path", sorted(TRITON.rglob("*.py")), ids=lambda path: str(path.relative_to(TRITON)))
def test_kernels_for_cuda_know_triton_and_torch_alone(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)} - {"kernels"}
    assert roots <= {"collections", "contextlib", "math", "typing", "triton", "torch"}


def test_triton_is_imported_where_it_computes() -> None:
    """Not with sparsetrain: only inside of functions."""
    for path in PACKAGE.rglob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in top for alias in node.names} | {getattr(node, "module", "") for node in top}
        assert not {name.split(".")[0] for name in names if name} & {"sparsetrain_triton"}, path


def test_trainers_of_others_are_imported_by_whoever_wants_them() -> None:
    """Their packages take seconds to import, and are not installed everywhere."""
    for path in FILES:
        if "trainers" not in path.parts:
            others = {name.split(".")[0] for name in imported(path)}
            assert not others & {"lightning", "pytorch_lightning", "transformers", "accelerate", "onnx"}, path
            assert "trainers" not in {room_of(name) for name in imported(path)}, path


def test_every_room_has_a_name_that_says_something() -> None:
    silent = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
    folders = PACKAGE, ROOT / "kernels", ROOT / "tests", ROOT / "bench"
    names = {path.stem for folder in folders for path in folder.rglob("*.py")}
    assert not names & silent


def test_setup_lists_every_package() -> None:
    for tops, file in (((PACKAGE, KERNELS, TRITON), "setup.cfg"), ((BENCH,), "bench/pyproject.toml")):
        listed = (ROOT / file).read_text()
        for folder in {path.parent for top in tops for path in top.rglob("*.py")}:
            name = ".".join(folder.relative_to(ROOT).parts).removeprefix("kernels.").removeprefix("bench.")
            written = (f"\n    {name}\n", f'"{name}"')
            assert any(each in listed for each in written), f"{file} does not list {name}, and the wheel would lack it"
