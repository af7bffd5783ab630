"""Whole training steps of a multi-layer perceptron with ReLU and cross-entropy."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn.functional import cross_entropy

import sparsetrain as st

from .case import Case, Contestant
from .engines import ENGINES, LINEAR, MASKED, Engine
from .step import Clock, edge_values, optimizer_for, seeded

TWIN_LIMIT = 30_000_000  # weights up to which the float64 twin is dense, and all edges are checked
SAMPLE = 100_000  # edges of a layer whose gradients are checked past it
ALL = ("sparsetrain", *LINEAR, *MASKED, "SparseProp", "SparseLab")


class NetworkProblem(NamedTuple):
    """Edges, values and bias of each layer, a batch with its labels, and samples for the largest layer alone."""

    layers: list[tuple[st.Topology, Tensor, Tensor]]
    x: Tensor
    labels: Tensor


@dataclass(frozen=True)
class NetworkCase(Case):
    """A network of some sizes, with edges by density, or by Erdos and Renyi's epsilon."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    density: float | None
    threads: int
    epsilon: float | None = None
    engines: tuple[str, ...] = ALL

    @property
    def family(self) -> str:
        return f"{self.name}, a whole training step"

    @property
    def panel(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        return f"{sizes}, {self.batch}" + ("" if self.epsilon is None else f", epsilon {self.epsilon:g}")

    @property
    def positions(self) -> int:
        """Weights of the dense network."""
        return sum(a * b for a, b in pairwise(self.sizes))

    @property
    def widest(self) -> int:
        """Which layer has the most positions."""
        numel = [a * b for a, b in pairwise(self.sizes)]
        return numel.index(max(numel))

    def contestants(self) -> list[str]:
        return list(self.engines)

    def module_of(self, name: str) -> str:
        return ENGINES[name].module

    def needed_bytes(self, name: str) -> int:
        return self.positions * ENGINES[name].dense_bytes

    def problem(self) -> NetworkProblem:
        generator = seeded()
        layers = []
        for shape in ((outputs, inputs) for inputs, outputs in pairwise(self.sizes)):
            if self.epsilon is None:
                t = st.patterns.uniform(shape, self.density, generator)  # type: ignore[arg-type]
            else:
                t = st.patterns.erdos_renyi(shape, epsilon=self.epsilon, generator=generator)
            layers.append((t, edge_values(t, generator), torch.randn(shape[0], generator=generator)))
        x = torch.randn(self.batch, self.sizes[0], generator=generator)
        labels = torch.randint(self.sizes[-1], (self.batch,), generator=generator)
        return NetworkProblem(layers, x, labels)

    def expected(self, problem: NetworkProblem) -> dict[str, Tensor]:
        return _dense_twin(problem) if self.positions <= TWIN_LIMIT else _sparse_twin(problem)

    def contestant(self, name: str, problem: NetworkProblem) -> "NetworkContestant":
        return NetworkContestant(ENGINES[name], self, problem)

    def tiny(self) -> Self:
        return replace(self, sizes=(64, 64, 10), density=0.1, epsilon=None)

    def edges(self, problem: NetworkProblem) -> int:
        return sum(t.nnz for t, _, _ in problem.layers)


class NetworkContestant(Contestant):
    """The network in one engine's layers."""

    def __init__(self, engine: Engine, case: NetworkCase, problem: NetworkProblem) -> None:
        self.engine, self.case = engine, case
        self.x, self.labels = problem.x, problem.labels
        self.topologies = [t for t, _, _ in problem.layers]
        self.layers: list[Any] = [engine.layer(*numbers) for numbers in problem.layers]
        parameters = [parameter for layer in self.layers for parameter in layer.parameters()]
        self.optimizer = optimizer_for(iter(parameters))
        self.logits = torch.empty(0)

    def first_pass(self) -> None:
        with self.engine.context():
            self.logits = self._pass(Clock())

    def results(self) -> dict[str, Tensor]:
        topologies, logits = self.topologies, self.logits.detach()
        del self.topologies, self.logits  # an engine that does not need them must not pay for them
        results = {"logits": logits}
        for k, (layer, t) in enumerate(zip(self.layers, topologies, strict=True)):
            gradient = self.engine.edge_gradient(layer, t)
            results[f"edge gradient {k}"] = gradient if self.case.positions <= TWIN_LIMIT else gradient[_sample(t)]
            results[f"bias gradient {k}"] = layer.bias.grad
        return results

    def step(self) -> dict[str, float]:
        with self.engine.context():
            clock = Clock()
            self._pass(clock)
            self.optimizer.step()
            for layer in self.layers:
                self.engine.after_step(layer)
            self.optimizer.zero_grad(set_to_none=True)
            clock.mark("optimizer")
        return clock.phases

    def kept_bytes(self) -> int:
        return sum(map(self.engine.kept_bytes, self.layers))

    def _pass(self, clock: Clock) -> Tensor:
        h = self.x
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h))
        logits: Tensor = self.layers[-1](h)
        loss = cross_entropy(logits, self.labels)
        clock.mark("forward")
        loss.backward()  # type: ignore[no-untyped-call]
        clock.mark("backward")
        return logits


def _dense_twin(problem: NetworkProblem) -> dict[str, Tensor]:
    """Logits and gradients by torch's dense operations in float64."""
    weights, biases = [], []
    for t, values, bias in problem.layers:
        weight = torch.zeros(t.shape, dtype=torch.float64)
        weight[t.row.long(), t.col.long()] = values.double()
        weights.append(weight.requires_grad_())
        biases.append(bias.double().requires_grad_())
    h = problem.x.double()
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = torch.relu(h @ weight.t() + bias)
    logits = h @ weights[-1].t() + biases[-1]
    cross_entropy(logits, problem.labels).backward()  # type: ignore[no-untyped-call]
    results = {"logits": logits.detach()}
    for k, (t, _, _) in enumerate(problem.layers):
        results[f"edge gradient {k}"] = weights[k].grad[t.row.long(), t.col.long()]  # type: ignore[index]
        results[f"bias gradient {k}"] = biases[k].grad  # type: ignore[assignment]
    return results


def _sparse_twin(problem: NetworkProblem) -> dict[str, Tensor]:
    """The same by scipy's sparse products in float64, with the gradients of some edges."""
    matrices = [
        csr_matrix((values.double().numpy(), t.col.numpy(), t.crow.numpy()), t.shape) for t, values, _ in problem.layers
    ]
    inputs, h = [], problem.x.double().numpy().T
    for k, (weight, (_, _, bias)) in enumerate(zip(matrices, problem.layers, strict=True)):
        inputs.append(h)
        h = weight @ h + bias.double().numpy()[:, None]
        if k < len(matrices) - 1:
            h = np.maximum(h, 0)
    logits = torch.from_numpy(np.ascontiguousarray(h.T)).requires_grad_()
    cross_entropy(logits, problem.labels).backward()  # type: ignore[no-untyped-call]
    results = {"logits": logits.detach()}
    gradient = logits.grad.numpy().T  # type: ignore[union-attr]
    for k, (t, _, _) in reversed(list(enumerate(problem.layers))):
        some = _sample(t)
        row, col = t.row[some].numpy(), t.col[some].numpy()
        results[f"edge gradient {k}"] = torch.from_numpy((gradient[row] * inputs[k][col]).sum(1))
        results[f"bias gradient {k}"] = torch.from_numpy(gradient.sum(1))
        gradient = matrices[k].T @ gradient * (inputs[k] > 0)
    return results


def _sample(t: st.Topology) -> Tensor:
    """Edges from everywhere, the same in each process."""
    return torch.linspace(0, t.nnz - 1, min(SAMPLE, t.nnz), dtype=torch.float64).long()
