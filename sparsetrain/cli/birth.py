"""What a child process makes first, and how it gets the data: through a file, as a pipe would need them twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..data import DataSet
from ..nn.masked import Form
from .contestant import Contestant
from .network import KINDS, Kind, network
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
    torch.set_num_threads(setting.threads)
    return Rehearsal(setting, read(file))


def contestant(kind: Kind, form: Form, setting: Setting, file: Path) -> Contestant:
    """A contestant in this process."""
    torch.set_num_threads(setting.threads)
    load_libraries(setting)
    return Contestant(kind, form, setting, read(file))


def load_libraries(setting: Setting) -> None:
    """Take one step of three tiny networks, one of each kind.

    Loading compiled kernels and the libraries of dense products takes tens of megabytes at the first use, whatever the
    size of the model. Every contestant does all of it, so that the processes differ in nothing but the model.
    """
    tiny = replace(setting, sizes=(64, 64, 64), density=1.0)
    for kind in KINDS:
        model = network(kind, "step", tiny)
        model(torch.zeros(setting.batch, 64, dtype=setting.torch_dtype)).sum().backward()
        setting.optimizer_for(model).step()
