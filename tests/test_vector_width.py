"""The width of vectors is this CPU's, or a narrower one from outside: kernels are right at each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sparsetrain_kernels.subnormals import X86
from sparsetrain_kernels.transpose import transpose_into
from sparsetrain_kernels.width import VARIABLE, VECTOR_BYTES, WIDTHS, chosen_bytes, host_bytes

ROOT = Path(__file__).parent.parent
NARROWER = [width for width in WIDTHS if width < VECTOR_BYTES]
# outputs and gradients of every kernel whose code depends on the width, in tiles, blocks, segments, and on threads
WHAT = "spmm or sddmm or backward or pack or of_this_cpu or panels or tile_width or (not_depend and size2)"
NARROWEST = "blocks_are_used or segments_of or (identity and tiles)"  # in float64 two numbers in a register
HALVES = "conversions_of or nan_stays"  # what is read and written in half precision
DENSE = "dense_blocks and (each_length or shared)"
CONVOLUTIONS = "both_passes"  # whose code depends on the width through the same loops
FILES = (
    "tests/test_kernels.py", "tests/test_half_conversions.py", "tests/test_dense_blocks.py",
    "tests/test_convolution_kernels.py",
)  # fmt: skip


def python(*arguments: str, width: object, **settings: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels"))
    environment = os.environ | {VARIABLE: str(width), "PYTHONPATH": path} | settings
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("width", NARROWER)
def test_kernels_at_a_narrower_width(width: int) -> None:
    what = f"{WHAT} or {HALVES} or ({DENSE})" + f" or {NARROWEST if width == min(WIDTHS) else CONVOLUTIONS}"
    done = python("-m", "pytest", "-o", "addopts=-q", *FILES, "-k", what, width=width)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.skipif(not X86, reason="other processors convert float16 themselves")
def test_float16_on_a_processor_that_does_not_convert_it() -> None:
    least = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    asked = "from sparsetrain_kernels.half_vectors import CONVERTS; print(CONVERTS)"
    assert python("-c", asked, width="", **least).stdout == "False\n"
    done = python("-m", "pytest", "-o", "addopts=-q", FILES[1], "-k", "conversions_of or nan_stays", width="", **least)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.parametrize("width", NARROWER[:1])
def test_info_shows_the_width(width: int) -> None:
    done = python("-m", "sparsetrain", "info", width=width)
    assert f"{width} bytes (SPARSETRAIN_VECTOR_BYTES; this CPU has {host_bytes()})" in done.stdout, done.stderr


def test_no_width_is_refused_at_import() -> None:
    done = python("-c", "import sparsetrain_kernels", width="48")
    assert "ValueError: SPARSETRAIN_VECTOR_BYTES: expected 16, 32 or 64, got '48'." in done.stderr


def test_what_may_be_asked_for() -> None:
    assert chosen_bytes(None, 32) == chosen_bytes("", 32) == chosen_bytes("32", 32) == 32
    assert chosen_bytes("16", 64) == 16
    with pytest.raises(ValueError, match="this processor has vectors of 32 bytes, got 64; set 32 or less"):
        chosen_bytes("64", 32)
    for other in ("0", "8", "128", "wide", "-16", " 32"):
        with pytest.raises(ValueError, match="expected 16, 32 or 64"):
            chosen_bytes(other, 64)


def test_compiled_kernels_of_each_width_have_files_of_their_own() -> None:
    assert transpose_into._cache._cache_file._index_name.endswith(f"-{VECTOR_BYTES}.nbi")
