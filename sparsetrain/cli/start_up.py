"""What a child process makes first, and how it gets the data: through a file, as a pipe would need them twice."""

import logging
from pathlib import Path

import numpy as np
import torch

from ..data import DataSet
from ..nn.masked import Form
from .implementation import Implementation
from .libraries import load_libraries
from .network import Kind
from .setting import Setting
from .warm_up import WarmUp

TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def write(file: Path, data: DataSet) -> None:
    """Put a data set where child processes can read it."""
    np.savez(file, name=data.name, source=data.source, **{name: getattr(data, name).numpy() for name in TENSORS})


def read(file: Path) -> DataSet:
    """The data set in a file that ``write`` wrote."""
    with np.load(file) as stored:
        tensors = {name: torch.from_numpy(stored[name]) for name in TENSORS}
        return DataSet(name=str(stored["name"]), source=str(stored["source"]), **tensors)


def warm_up(setting: Setting, file: Path) -> WarmUp:
    """The warm-up in this process."""
    setting.settle()
    return WarmUp(setting, read(file))


def implementation(kind: Kind, form: Form, setting: Setting, file: Path) -> Implementation:
    """An implementation in this process, which keeps quiet about its kernels: the warm-up has compiled them."""
    logging.getLogger("sparsetrain").setLevel(logging.ERROR)
    setting.settle()
    load_libraries(setting)
    return Implementation(kind, form, setting, read(file))
