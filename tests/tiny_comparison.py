"""A comparison small enough for tests, and the command line that runs it."""

from pathlib import Path
from typing import Any

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
