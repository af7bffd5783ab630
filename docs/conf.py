"""How the site is built: ``make docs``. It needs no network, and warnings are errors.

Docstrings have Google's sections, which napoleon reads (it is part of Sphinx). numpydoc knows only its own sections; it
comes after napoleon, lists the attributes and methods of each class above their descriptions, and checks that every
public name has a docstring whose first line is a sentence. Formulas become MathML, which browsers draw by themselves.
"""

import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import Any

import sparsetrain

sys.path.insert(0, str(Path(__file__).parent))  # where mathml.py and stacked_tables.py are


FIRST = {
    "sparsetrain": ["Topology"],
    "sparsetrain.patterns": ["uniform", "fixed_fan_in"],
    "sparsetrain.ops": ["linear", "spmm", "sddmm", "choice", "use_backend"],
    "sparsetrain.nn": [
        *("SparseLinear", "SparseConv1d", "SparseConv2d", "SparseConv3d", "SparseMultiheadAttention"),
        *("LookupTable", "SparseDeltaLinear", "Hierarchy", "MaskedLinear"),
    ],
    "sparsetrain.init": ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"],
    "sparsetrain.constrain": ["positive", "negative", "signed", "bounded", "frozen"],
    "sparsetrain.penalty": ["l1", "l2"],
    "sparsetrain.optim": ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "HessianFree"],
    "sparsetrain.evolve": ["Evolver", "attach", "SET", "RigL", "GMP", "Constant", "Cosine", "Cubic", "Linear"],
    "sparsetrain.curvature": ["hessian", "ggn", "fisher"],
    "sparsetrain.convert": ["sparsify", "densify", "dense_copy", "to_onnx", "train_edges", "merge_edges"],
    "sparsetrain.distributed": ["sync_topology", "check_topology"],
    "sparsetrain.io": ["save", "load", "adopt"],
}  # what users look for first on a page of the reference


def public_names(module: str) -> dict[str, str]:
    """What a module's page of the reference describes: the names of its classes and functions, and which they are.

    A folder's ``__init__`` imports its public names, from lower floors too, and a single file what it works with: where
    something was defined tells them apart.
    """
    folder = hasattr(importlib.import_module(module), "__path__") and module != "sparsetrain"
    home = "sparsetrain." if folder else f"{module}."
    names = {
        name: "class" if inspect.isclass(member) else "function"
        for name, member in vars(importlib.import_module(module)).items()
        if not name.startswith("_") and (inspect.isclass(member) or inspect.isfunction(member))
        if f"{member.__module__}.".startswith(home)
    }
    return {name: names[name] for name in [*FIRST.get(module, ()), *names]}


rooms = [f"sparsetrain.{room.name}" for room in pkgutil.iter_modules(sparsetrain.__path__) if room.name != "__main__"]

project = "sparsetrain"
author = "the sparsetrain developers"
project_copyright = "the sparsetrain developers"
version = release = importlib.metadata.version(project)

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # before numpydoc, which reads what napoleon leaves
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "sphinx_copybutton",
    "mathml",
    "stacked_tables",
]
templates_path = ["_templates"]
exclude_patterns = ["programs"]  # the gallery is made of them
highlight_language = "none"  # of blocks that do not say theirs

trainers = ["sparsetrain.trainers.lightning", "sparsetrain.trainers.transformers"]  # a page each
autosummary_context = {
    "public": {room: public_names(room) for room in ("sparsetrain", *rooms, *trainers)}
}  # for module.rst
autodoc_typehints = "signature"
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_param = False  # one entry for arguments that are described together
napoleon_custom_sections = ["Shape", "State"]
numpydoc_show_inherited_class_members = False
numpydoc_class_members_toctree = False
numpydoc_validation_exclude = {r"\.Fans\."}  # fields, which their class describes
numpydoc_validation_checks = {"GL08", "SS01", "SS02", "SS03"}  # a docstring, whose first line is a sentence

copybutton_prompt_text, copybutton_prompt_is_regexp = r">>> |\.\.\. |\$ ", True  # copied are lines with them, without

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "programs",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # all of them run
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("sparsetrain",),
    "reference_url": {"sparsetrain": None},
    "backreferences_dir": "gallery/uses",
    "download_all_examples": False,
    "remove_config_comments": True,
    "default_thumb_file": str(Path(__file__).parent / "_static" / "edges.png"),  # of a program without a plot
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "abort_on_example_error": False,  # the others still run; the build fails in the end
}

html_theme = "pydata_sphinx_theme"
html_title = "sparsetrain"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("index", "quick-start", "bench", "design")}  # no others in their section
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the system is
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
}


def without_last_line(app: Any, page: str, source: list[str]) -> None:
    """doctest wants an empty line before the end of a block of code, which readers do not."""
    source[0] = source[0].replace("\n\n```\n", "\n```\n")


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("source-read", without_last_line)
