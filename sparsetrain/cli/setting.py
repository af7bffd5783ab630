"""What a comparison is: the numbers that all three implementations share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .. import evolve
from .evolution import Evolution

# name on the command line: torch's class, its options, the learning rate where none is given. Fused, where torch has
# it, is by far the fastest on large dense weights: the rivals get their best form
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "adam": (torch.optim.Adam, {"fused": True}, 1e-3),
    "sgd": (torch.optim.SGD, {"fused": True}, 0.1),
    "momentum": (torch.optim.SGD, {"momentum": 0.9, "fused": True}, 0.02),
    "rmsprop": (torch.optim.RMSprop, {}, 1e-3),
    "adamw": (torch.optim.AdamW, {"fused": True}, 1e-3),
}


@dataclass(frozen=True)
class Setting:
    """A comparison's settings. ``sizes`` runs from the inputs over the hidden layers to the classes, ``precision`` is
    torch's for float32 products of dense matrices, ``evolution`` how edges change; ``density`` is that at the end."""

    data: str
    sizes: tuple[int, ...]
    density: float
    epochs: int
    batch: int
    optimizer: str
    lr: float
    threads: int
    seed: int
    dtype: str
    precision: str
    evolution: Evolution | None = None
    images: int | None = None  # for training

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of weights and activations; sparse values are float32 beside activations in bfloat16."""
        return {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}[self.dtype]

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new stock torch optimizer over all parameters of the model."""
        kind, options, _ = OPTIMIZERS[self.optimizer]
        optimizer: torch.optim.Optimizer = kind(model.parameters(), lr=self.lr, **options)
        return optimizer

    @property
    def start_density(self) -> float:
        """The density of the sparse and the masked network before training."""
        return self.evolution.start_density(self.density) if self.evolution else self.density

    def evolver_for(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> evolve.Evolver | None:
        """What changes the edges of a sparse or masked model in training; None where they stay."""
        return self.evolution.evolver(model, optimizer, self.density, self.seed) if self.evolution else None

    def settle(self) -> None:
        """Give this process the threads, and torch's dense products the precision, that every implementation has."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)

    @property
    def title(self) -> str:
        """The network and its data, in one line."""
        images = "" if self.images is None else f" ({self.images:,} training images)"
        return f"{'-'.join(map(str, self.sizes))} on {self.data}{images}, density {self.density:g}"

    @property
    def subtitle(self) -> str:
        """How it is trained, in one line, and how edges change, in another."""
        training = (
            f"{count(self.epochs, 'epoch')}, batch {self.batch}, {self.optimizer} with lr {self.lr:g}, {self.dtype}, "
            f"{count(self.threads, 'thread')}, seed {self.seed}"
        )
        return f"{training}\n{self.evolution}" if self.evolution else training


def count(number: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
