"""What a child process makes first, and how it gets the data: through a file, as a pipe would need them twice."""

import logging
from pathlib import Path

import numpy as np
import torch

from ..data import DataSet
from ..nn.masked import Form
from .contestant import Contestant
from .libraries import load_libraries
from .network import Kind
from .rehearsal import Rehearsal
from .setting import Setting

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def write(file: Path, data: DataSet) -> None:
    """Put a data set where child processes can read it."""
    np.savez(file, name=data.name, source=data.source, **{name: getattr(data, name).numpy() for name in TENSORS})


def read(file: Path) -> DataSet:
    """The data set in a file that ``write`` wrote."""
    with np.load(file) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in TENSORS}
        return DataSet(name=str(stored["name"]), source=str(stored["source"]), **tensors)


def rehearsal(setting: Setting, file: Path) -> Rehearsal:
    """The rehearsal in this process."""
    setting.settle()
    return Rehearsal(setting, read(file))


def contestant(kind: Kind, form: Form, setting: Setting, file: Path) -> Contestant:
    """A contestant in this process, which keeps quiet about its kernels: the rehearsal has compiled them."""
    logging.getLogger("sparsetrain").setLevel(logging.ERROR)
    setting.settle()
    load_libraries(setting)
    return Contestant(kind, form, setting, read(file))
