"""One implementation: its training on the common batches, its time and its memory."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import evolve
from ..data import DataSet
from ..nn import MaskedLinear, SparseLinear
from ..nn.masked import Form
from ..structure.topology import Topology
from . import memory
from .evolution import Update
from .network import Kind, network
from .setting import Setting


@dataclass(frozen=True)
class Steps:
    """Training steps in order: the loss of each, and its seconds in forward (with the loss), backward, optimizer, and
    in what changes edges; and the updates of edges among them."""

    loss: list[float]
    forward: list[float]
    backward: list[float]
    optimizer: list[float]
    evolver: list[float]
    updates: list[Update] = field(default_factory=list)

    @property
    def total(self) -> list[float]:
        """Seconds of each whole step."""
        return [sum(parts) for parts in zip(self.forward, self.backward, self.optimizer, self.evolver, strict=True)]

    def extend(self, later: "Steps") -> None:
        """Append the steps that came next."""
        for mine, theirs in zip(vars(self).values(), vars(later).values(), strict=True):
            mine.extend(theirs)


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and percentage of right answers on the test images."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Bytes:
    """What the implementation took: the peak of its process before and after, and what it keeps between steps."""

    before: int
    peak: int
    parameters: int
    state: int
    indices: int


class Implementation:
    """A network of one kind, and everything needed to train it by itself."""

    def __init__(self, kind: Kind, form: Form, setting: Setting, data: DataSet) -> None:
        self.kind, self.setting, self.data = kind, setting, data
        self.memory_before = memory.peak()
        self.model = network(kind, form, setting)
        self.optimizer: torch.optim.Optimizer | None = None
        self.evolver: evolve.Evolver | None = None
        self.masked = [layer for layer in self.model if isinstance(layer, MaskedLinear)] if form == "step" else []
        self.order = torch.Generator().manual_seed(setting.seed)
        self.batches: Iterator[Tensor] = iter(())

    def warm_up(self) -> float:
        """Seconds of a first forward and backward pass and a first evaluation, which change nothing that is trained."""
        start = perf_counter()
        images, labels = self._batch(torch.arange(self.setting.batch))
        cross_entropy(self.model(images), labels).backward()  # type: ignore[no-untyped-call]
        self.model.zero_grad()
        self.evaluate()
        return perf_counter() - start

    def train(self, steps: int) -> Steps:
        """Take the next steps; the batches of an epoch are a random order of the images, the same for everyone."""
        if self.optimizer is None:
            self.optimizer = self.setting.optimizer_for(self.model)
            self.evolver = None if self.kind == "dense" else self.setting.evolver_for(self.model, self.optimizer)
        taken = Steps([], [], [], [], [])
        for _ in range(steps):
            images, labels = self._batch(self._next_batch())
            start = perf_counter()
            loss = cross_entropy(self.model(images), labels)
            forward = perf_counter()
            loss.backward()  # type: ignore[no-untyped-call]
            backward = perf_counter()
            self.optimizer.step()
            for layer in self.masked:
                layer.apply_mask()
            self.optimizer.zero_grad()
            end = perf_counter()
            updates = self._change_edges()
            times = [forward - start], [backward - forward], [end - backward], [perf_counter() - end]
            taken.extend(Steps([loss.item()], *times, updates))
        return taken

    def evaluate(self) -> Evaluation:
        """Loss and accuracy on all test images."""
        loss, right, total = 0.0, 0, len(self.data.test_labels)
        with torch.no_grad():
            for start in range(0, total, self.setting.batch):
                part = slice(start, start + self.setting.batch)
                answer = self.model(self.data.test_images[part].to(self.setting.torch_dtype))
                labels = self.data.test_labels[part]
                loss += cross_entropy(answer, labels, reduction="sum").item()
                right += int((answer.argmax(1) == labels).sum())
        return Evaluation(loss / total, 100 * right / total)

    def measure(self) -> Bytes:
        """Memory so far."""
        return Bytes(
            before=self.memory_before,
            peak=memory.peak(),
            parameters=memory.parameters(self.model),
            state=memory.state(self.optimizer) if self.optimizer else 0,
            indices=memory.indices(self.model),
        )

    def edges(self) -> list[np.ndarray]:
        """For each layer the positions that have an edge, ascending: row * columns + column."""
        return [_positions(layer.topology) for layer in self.model if isinstance(layer, MaskedLinear | SparseLinear)]

    def _change_edges(self) -> list[Update]:
        """Count a step, and change edges where an update is due."""
        if self.evolver is None:
            return []
        start = perf_counter()
        change = self.evolver.step()
        return [Update.of(change, perf_counter() - start)] if change else []

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.data.train_images[index].to(self.setting.torch_dtype), self.data.train_labels[index]

    def _next_batch(self) -> Tensor:
        batch = next(self.batches, None)
        if batch is None:
            images, size = len(self.data.train_labels), self.setting.batch
            order = torch.randperm(images, generator=self.order)
            self.batches = iter(order[: images // size * size].view(-1, size))  # whole batches only: one size to time
            batch = next(self.batches)
        return batch


def _positions(t: Topology) -> np.ndarray:
    positions: np.ndarray = (t.row.long() * t.shape[1] + t.col).numpy()
    return positions
