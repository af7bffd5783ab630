"""What libraries load at their first use, loaded before anything is measured."""

from dataclasses import replace

import torch
from torch import nn

from .network import KINDS, network
from .setting import Setting

SIZE, DENSITY = 128, 0.5  # a layer that kernels compute on several threads, as large ones are


def load_libraries(setting: Setting) -> None:
    """Take one step of three tiny networks, one of each kind.

    Compiled kernels and the libraries of dense products take tens of megabytes once they are used, whatever the size
    of the model. Every implementation loads all of them, so that the processes differ in nothing but the model.
    """
    tiny = replace(setting, sizes=(SIZE, SIZE, SIZE), density=DENSITY, evolution=None)
    for kind in KINDS:
        model = network(kind, "step", tiny)
        model(torch.zeros(setting.batch, SIZE, dtype=setting.torch_dtype)).sum().backward()
        optimizer = setting.optimizer_for(model)
        optimizer.step()
        if kind != "dense":
            _change_edges(model, optimizer, setting)


def _change_edges(model: nn.Module, optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """One update by the rule of the comparison."""
    if setting.evolution is None:
        return
    evolution = replace(setting.evolution, interval=1)
    evolver = evolution.evolver(model, optimizer, DENSITY / 2, setting.seed)
    for _ in range(2):
        model(torch.zeros(setting.batch, SIZE, dtype=setting.torch_dtype)).sum().backward()
        evolver.step()
