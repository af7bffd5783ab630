"""Triton's kernels, in processes of their own: Triton asks when it is imported whether its interpreter is on.

The checks are in tests/triton_kernels. In the interpreter they need no GPU; it proves arithmetic, not races. That the
kernels compile for CUDA needs no GPU either.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from sparsetrain.backends.triton.available import usable

CHECKS = Path(__file__).parent / "triton_kernels"
OPTIONS = ["-p", "no:cacheprovider", "-o", "addopts=", "-o", "pythonpath=. kernels bench tests"]
installed = pytest.mark.skipif(find_spec("triton") is None, reason="no triton: it is made for few systems")


def passes(checks: str, folder: Path, **environment: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, str(CHECKS / checks)],
        env={**clean, "TRITON_CACHE_DIR": str(folder), **environment}, cwd=CHECKS.parent.parent,
        capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@installed
@pytest.mark.parametrize("checks", ["products.py", "rows.py", "layers.py"])
def test_kernels_compute_what_their_twins_do(checks: str, tmp_path: Path) -> None:
    passes(checks, tmp_path, TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("checks", ["products.py", "rows.py", "layers.py", "on_cuda.py"])
def test_kernels_on_cuda(checks: str, tmp_path: Path) -> None:
    passes(checks, tmp_path)


@installed
def test_kernels_compile_for_cuda(tmp_path: Path) -> None:
    passes("compiled.py", tmp_path)


def test_triton_computes_on_cuda_or_in_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not usable("cpu")
    assert usable("cuda") == (find_spec("triton") is not None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert usable("cpu") == (find_spec("triton") is not None)


def test_sparsetrain_does_not_import_triton() -> None:
    """It is large, and most users on CPUs have none."""
    code = "import sys; sys.modules['triton'] = None; import sparsetrain; sparsetrain.ops"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
