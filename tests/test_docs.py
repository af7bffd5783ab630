"""The site builds from a copy of docs/ with warnings as errors, and every public name is in its reference."""

import ast
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx")

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sparsetrain"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built where the tree is not touched; the gallery's programs are not run."""
    folder = tmp_path_factory.mktemp("site")
    made = shutil.ignore_patterns("gallery", "sparsetrain*.rst", "__pycache__", "_build")
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=made)
    pages, before = folder / "html", set((ROOT / "docs").rglob("*"))
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--define", "plot_gallery=0"]
    command = [sys.executable, "-m", "sphinx", *options, str(folder / "docs"), str(pages)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set((ROOT / "docs").rglob("*")) == before
    return pages


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    described = {line.split()[0] for line in inventory.splitlines() if line.split()[1] in ("py:class", "py:function")}
    missing = sorted(set(public_names()) - described)
    assert not missing, "give the module a line in docs/api/index.rst"


@pytest.mark.slow
def test_links_lead_somewhere(site: Path) -> None:
    pages = {page.resolve(): Page(page) for page in site.rglob("*.html")}
    assert {site / name for name in ("index.html", "guide/edges.html", "gallery/index.html")} <= set(pages)
    broken = []
    for page, content in pages.items():
        for link in content.links:
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            lost = target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].places
            if not parts.scheme and (lost or not target.is_file()):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = [f"{page.name}: {link}" for page in site.rglob("*.html") for link in Page(page).loaded]
    assert loaded
    assert not [link for link in loaded if "//" in link]


@pytest.mark.slow
def test_a_row_of_many_columns_names_them(site: Path) -> None:
    benchmarks, how_fast = (site / "bench.html").read_text(), (site / "guide" / "how-fast.html").read_text()
    assert re.search(r'<span class="stacked">density</span>\s*<p>0\.5</p>', benchmarks)
    assert '<span class="stacked">SparseProp</span>' in benchmarks
    assert '<td><span class="stacked">1024 -&gt; 1024, 128</span></td>' in how_fast  # as in the row above
    assert 'class="stacked"' not in (site / "guide" / "topology.html").read_text()  # two columns fit


@pytest.mark.slow
@pytest.mark.parametrize(("module", "name"), [("nn", "SparseLinear"), ("convert", "sparsify"), ("io", "save")])
def test_a_page_begins_with_what_users_look_for(site: Path, module: str, name: str) -> None:
    page = (site / "api" / f"sparsetrain.{module}.html").read_text()
    first = re.search(r'<dt class="sig [^"]*" id="([^"]*)"', page)
    assert first
    assert first[1] == f"sparsetrain.{module}.{name}"


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that links may name."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.places = {""}
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag in ("link", "script", "img") and (link := given.get("src") or given.get("href")):
            self.loaded.add(link)


def public_names() -> Iterator[str]:
    """What the contents pages import, and the functions and classes of the modules that are a single file."""
    for module, name in imported(PACKAGE / "__init__.py"):
        if module is not None:
            yield f"sparsetrain.{name}"
        elif (PACKAGE / name).is_dir():
            yield from (f"sparsetrain.{name}.{member}" for _, member in imported(PACKAGE / name / "__init__.py"))
        else:
            yield from of_file(name)
    yield from of_file("trainers.lightning")
    yield from (
        f"sparsetrain.trainers.transformers.{name}"
        for _, name in imported(PACKAGE / "trainers/transformers/__init__.py")
    )


def of_file(module: str) -> Iterator[str]:
    """The functions and classes that a file defines."""
    defined = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text()).body
    names = {node.name for node in defined if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    yield from (f"sparsetrain.{module}.{member}" for member in names if not member.startswith("_"))


def imported(contents: Path) -> Iterator[tuple[str | None, str]]:
    """Module, or None for the package itself, and name of each ``from .module import name as name``."""
    for node in ast.parse(contents.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module, alias.name) for alias in node.names)
