"""A comparison small enough for tests, and the command line that runs it."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result

from sparsetrain.cli import main
from sparsetrain.cli.setting import Setting

EPOCHS, BATCH, TRAIN, TEST = 2, 16, 70, 20
STEPS = EPOCHS * (TRAIN // BATCH)


def run(*arguments: str | int | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def setting(**changes: Any) -> Setting:
    """784-8-10 in float64 on one thread, where every second edge exists."""
    given: dict[str, Any] = {
        "data": "tiny", "sizes": (784, 8, 10), "density": 0.5, "epochs": EPOCHS, "batch": BATCH, "optimizer": "adam",
        "lr": 0.01, "threads": 1, "seed": 3, "dtype": "float64", "precision": "highest",
    }  # fmt: skip
    return Setting(**{**given, **changes})


def write_images(folder: Path) -> Path:
    """Random images in idx files; the label of an image can be learned."""
    random = np.random.default_rng(0)
    for part, n in (("train", TRAIN), ("t10k", TEST)):
        labels = random.integers(0, 10, n).astype(np.uint8)
        images = (random.integers(0, 128, (n, 28, 28)) + 12 * labels[:, None, None]).astype(np.uint8)
        for name, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            content = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return folder
