"""What a child process makes first, and how it gets the data: through a file, as a pipe would need them twice."""

from pathlib import Path

import numpy as np
import torch

from ..data import DataSet
from .contestant import Contestant
from .network import Form, Kind
from .setting import Setting
from .trial import Trial

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def write(file: Path, data: DataSet) -> None:
    """Put a data set where child processes can read it."""
    np.savez(file, name=data.name, source=data.source, **{name: getattr(data, name).numpy() for name in TENSORS})


def read(file: Path) -> DataSet:
    """The data set in a file that ``write`` wrote."""
    with np.load(file) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in TENSORS}
        return DataSet(name=str(stored["name"]), source=str(stored["source"]), **tensors)


def contestant(kind: Kind, form: Form, setting: Setting, file: Path) -> Contestant:
    """A contestant in this process."""
    torch.set_num_threads(setting.threads)
    return Contestant(kind, form, setting, read(file))


def trial(setting: Setting, file: Path) -> Trial:
    """The trial of masked's forms in this process."""
    torch.set_num_threads(setting.threads)
    return Trial(setting, read(file))
