"""The scripts of the guide's page on several processes, run as it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsetrain as st

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guide" / "several-processes.md").read_text(encoding="utf-8")


def run(name: str, folder: Path) -> str:
    """The script that the page names, as its command runs it; what it prints."""
    script = re.search(rf"Save \w+ as `{name}`:\n\n```python\n(.*?)```\n\n    (.*?)\n", PAGE, re.DOTALL)
    assert script is not None
    program, *arguments = script[2].split()
    assert program == "torchrun"
    (folder / name).write_text(script[1], encoding="utf-8")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    assert "2 ranks, 20 steps, 352 edges" in run("train.py", tmp_path)
    model = torch.nn.Sequential(
        st.nn.SparseLinear(20, 64, density=0.2), torch.nn.ReLU(), st.nn.SparseLinear(64, 3, density=0.5)
    )
    st.io.load(tmp_path / "model.safetensors", model, topology="adopt")


@pytest.mark.slow
def test_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs the extra test")
    assert "2 ranks, 8 steps, 352 edges" in run("accelerated.py", tmp_path)
