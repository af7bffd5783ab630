"""The wheel holds what it must, and works away from the sources."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import sparsetrain as st
from sparsetrain.extras import needed

ROOT = Path(__file__).parent.parent

USE = """
import torch, sparsetrain as st, sparsetrain_kernels
layer = st.nn.SparseLinear(20, 10, density=0.5)
layer(torch.ones(4, 20)).sum().backward()
print(st.__file__, sparsetrain_kernels.__file__, layer.values.grad.numel())
"""

# what a shell without a clone gets: entry points of what is installed here are not the wheel's
BENCH = """
from importlib.metadata import distributions
import click, sparsetrain.cli.program as program
assert not [point for found in distributions(path=["away"]) for point in found.entry_points if point.name == "bench"]
program.entry_points = lambda **wanted: []
try:
    program.main(["bench"], standalone_mode=False)
except click.UsageError as error:
    print(error)
"""


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", st.__version__)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {st.__version__}\n" in citation
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] in (st.__version__, "unreleased")
    if newest[1] == st.__version__:  # the day of the release is one
        assert f"\ndate-released: {newest[2]}\n" in citation


def test_hooks_of_a_commit_agree_with_make_lint() -> None:
    """pre-commit names the files of a commit, and ruff excludes none that is named, unless it is told to."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: \.venv/bin/(ruff [^,]*),", hooks)
    assert [entry.split()[1] for entry in entries] == ["format", "check"]
    kernel = str(ROOT / "kernels" / "sparsetrain_kernels" / "merge.py")
    for entry in entries:
        dry = ["--check"] if "format" in entry else []
        done = subprocess.run([sys.executable, "-m", *entry.split(), *dry, kernel], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_advice_names_no_package_that_no_index_has() -> None:
    texts = [*(ROOT / "sparsetrain").rglob("*.py"), *(ROOT / "bench").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]
    advised = re.compile(r"pip install [^\n\"']*sparsetrain")  # from an index, where it is not; the folder is "."
    assert [str(path.relative_to(ROOT)) for path in texts if advised.search(path.read_text(encoding="utf-8"))] == []


def test_advised_packages_are_those_that_we_install_ourselves() -> None:
    """A name that pip takes from an index here is one that it finds there."""
    pinned = (ROOT / "constraints.txt").read_text() + (ROOT / "bench" / "peers.txt").read_text()
    known = {line.partition("==")[0].lower() for line in pinned.splitlines() if "==" in line}
    texts = [text.read_text(encoding="utf-8") for text in (ROOT / "sparsetrain").rglob("*.py")]
    asked = [call for text in texts for call in re.findall(r"\bneed(?:ed)?\(([^()]*)\)", text)]
    last = [re.findall(r'"([a-z_]+)[\w.]*"', call)[-1:] for call in asked]  # before it stands who needs it
    names = {name for found in last for name in found if name != "sparsetrain"}
    assert {"pandas", "onnxscript", "torch_sparse", "transformers"} <= names
    assert {name.replace("_", "-") for name in names} - known == set()


def test_missing_packages_are_advised_by_their_own_names() -> None:
    with pytest.raises(
        ModuleNotFoundError, match=r"^here: expected the package not_there, .* Run: pip install not-there$"
    ):
        needed("here", "not_there.inner")


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    def run(*command: str, **options: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    # the sources' archive, and the wheel out of it
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    archive, wheel = next(tmp_path.glob("*.tar.gz")), next(tmp_path.glob("*.whl"))
    with tarfile.open(archive) as opened:
        assert not {Path(name).parts[1] for name in opened.getnames()[1:]} & {"bench", "tests", "docs"}
    assert wheel.name.split("-")[1] == st.__version__
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {
        "sparsetrain",
        "sparsetrain_kernels",
        "sparsetrain_triton",
    }
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "sparsetrain").rglob("*.py")}
    sources |= {str(path.relative_to(ROOT / "kernels")) for path in (ROOT / "kernels").rglob("*.py")}
    assert {source for source in sources if "__pycache__" not in source} <= set(names)
    assert {"sparsetrain/py.typed", "sparsetrain_kernels/py.typed"} <= set(names)
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "away"), str(wheel))
    for compiled in (ROOT / "kernels").rglob("*.nb[ci]"):  # of the same sources, or compiled anew
        shutil.copy2(compiled, tmp_path / "away" / compiled.parent.relative_to(ROOT / "kernels"))
    package, kernels, edges = run(sys.executable, "-c", f"import sys; sys.path.insert(0, 'away'){USE}").split()
    assert package.startswith(str(tmp_path / "away"))
    assert kernels.startswith(str(tmp_path / "away"))
    assert edges == "100"
    advice = run(sys.executable, "-c", f"import sys; sys.path.insert(0, 'away'){BENCH}")
    assert "pip install ./bench" in advice
    # the README's code, pasted block by block where there is nothing but the wheel
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 8
    (tmp_path / "pasted.py").write_text("import sys; sys.path.insert(0, 'away')\n" + "\n".join(blocks))
    printed = run(sys.executable, "-W", "error", "pasted.py")
    assert "SparseLinear   1000 x 784" in printed
    assert "self_attn.q_proj" in printed


def test_what_takes_long_to_import_is_imported_where_it_is_used() -> None:
    late = {
        "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.fsdp", "pandas", "matplotlib",
        "transformers", "lightning", "accelerate", "sklearn", "scipy.sparse", "networkx", "hypothesis", "tqdm",
    }  # fmt: skip
    code = "import sys, torch; before = set(sys.modules); import sparsetrain; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert late.isdisjoint(done.stdout.split()), late & set(done.stdout.split())
