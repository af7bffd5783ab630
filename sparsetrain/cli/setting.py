"""What a comparison is: the numbers that all three contestants share."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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
    torch's for float32 products of dense matrices."""

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

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of weights and activations."""
        return {"float32": torch.float32, "float64": torch.float64}[self.dtype]

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new stock torch optimizer over all parameters of the model."""
        kind, options, _ = OPTIMIZERS[self.optimizer]
        optimizer: torch.optim.Optimizer = kind(model.parameters(), lr=self.lr, **options)
        return optimizer

    def settle(self) -> None:
        """Give this process the threads, and torch's dense products the precision, that every contestant has."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)

    @property
    def title(self) -> str:
        """The network and its data, in one line."""
        return f"{'-'.join(map(str, self.sizes))} on {self.data}, density {self.density:g}"

    @property
    def subtitle(self) -> str:
        """How it is trained, in one line."""
        return (
            f"{count(self.epochs, 'epoch')}, batch {self.batch}, {self.optimizer} with lr {self.lr:g}, {self.dtype}, "
            f"{count(self.threads, 'thread')}, seed {self.seed}"
        )


def count(number: int, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
