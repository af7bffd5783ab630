"""What libraries load at their first use, loaded before anything is measured."""

from dataclasses import replace

import torch

from .network import KINDS, network
from .setting import Setting


def load_libraries(setting: Setting) -> None:
    """Take one step of three tiny networks, one of each kind.

    Compiled kernels and the libraries of dense products take tens of megabytes once they are used, whatever the size
    of the model. Every contestant loads all of them, so that the processes differ in nothing but the model.
    """
    tiny = replace(setting, sizes=(64, 64, 64), density=1.0)
    for kind in KINDS:
        model = network(kind, "step", tiny)
        model(torch.zeros(setting.batch, 64, dtype=setting.torch_dtype)).sum().backward()
        setting.optimizer_for(model).step()
