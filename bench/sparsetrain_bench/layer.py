"""One linear layer: forward, backward with the gradients of input, edges and bias, and the optimizer."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

import sparsetrain as st

from .case import OF_HALVES, TOLERANCE, Case, Contestant
from .engines import ENGINES, Engine
from .step import Clock, edge_values, optimizer_for, seeded

if TYPE_CHECKING:
    from .convolution import ConvolutionCase

Layout = Literal["row-major", "feature-major"]
FEW = 16  # samples up to which an engine without gradients is worth a look
SMALL = 64 * 64  # weights up to which the fixed cost of a call is what is measured, in a table of its own


class LayerProblem(NamedTuple):
    """Edges, their values, the bias, a batch and the gradient of its output."""

    t: st.Topology
    values: Tensor
    bias: Tensor
    x: Tensor
    dy: Tensor


@dataclass(frozen=True)
class LayerCase(Case):
    """A layer of some shape and density; without ``training`` only forward, with autograd off."""

    inputs: int
    outputs: int
    batch: int
    density: float
    threads: int
    layout: Layout = "row-major"
    training: bool = True

    @property
    def family(self) -> str:
        size = "One small layer" if self.inputs * self.outputs <= SMALL else "One layer"
        return f"{size}, {self.layout}" + ("" if self.training else ", inference")

    @property
    def panel(self) -> str:
        return f"{self.inputs} -> {self.outputs}, {self.batch}"

    def contestants(self) -> list[str]:
        few = not self.training and self.batch <= FEW
        return [name for name, engine in ENGINES.items() if engine.trains or few]

    def module_of(self, name: str) -> str:
        return ENGINES[name].module

    def problem(self) -> LayerProblem:
        generator = seeded()
        t = st.patterns.uniform((self.outputs, self.inputs), self.density, generator)
        bias, x, dy = (torch.randn(n, generator=generator) for n in _sizes(self))
        if self.layout == "feature-major":
            x, dy = st.ops.feature_major(x), st.ops.feature_major(dy)
        return LayerProblem(t, edge_values(t, generator), bias, x, dy)

    def expected(self, problem: LayerProblem) -> dict[str, Tensor]:
        t, values, bias, x, dy = problem
        row, col = t.row.long(), t.col.long()
        weight = torch.zeros(t.shape, dtype=torch.float64)
        weight[row, col] = values.double()
        x, dy = x.double(), dy.double()
        return {
            "output": x @ weight.t() + bias.double(),
            "input gradient": dy @ weight,
            "edge gradient": (dy.t() @ x)[row, col],
            "bias gradient": dy.sum(0),
        }

    def contestant(self, name: str, problem: LayerProblem) -> "LayerContestant":
        return LayerContestant(ENGINES[name], self, problem)

    def tiny(self) -> Self:
        return replace(self, inputs=64, outputs=64, density=0.1)

    def edges(self, problem: LayerProblem) -> int:
        return problem.t.nnz


class LayerContestant(Contestant):
    """A layer of one engine. Row-major is a promise to whoever comes next, so keeping it is timed."""

    def __init__(self, engine: Engine, case: "LayerCase | ConvolutionCase", problem: LayerProblem) -> None:
        self.engine, self.case, self.t = engine, case, problem.t
        self.x, self.dy = engine.operand(problem.x), engine.operand(problem.dy)
        self.tolerance = TOLERANCE if engine.dtype is torch.float32 else OF_HALVES
        self.layer: Any = engine.layer(problem.t, problem.values, problem.bias)
        self.optimizer = optimizer_for(self.layer.parameters()) if case.training else None
        self.seen: tuple[Tensor, Tensor | None] | None = None

    def first_pass(self) -> None:
        with self.engine.context():
            self.seen = self._pass(Clock()) if self.case.training else (self._infer(), None)

    def results(self) -> dict[str, Tensor]:
        if self.seen is None:
            raise RuntimeError("LayerContestant.results: expected first_pass() before, got none.")
        (output, dx), self.seen = self.seen, None
        results = {"output": output.detach()}
        if dx is not None:
            edges = self.engine.edge_gradient(self.layer, self.t)
            results |= {"input gradient": dx, "edge gradient": edges, "bias gradient": self.layer.bias.grad}
        del self.t  # an engine that does not need it must not pay for it
        return results

    def step(self) -> dict[str, float]:
        with self.engine.context():
            clock = Clock()
            if self.optimizer is None:
                self._infer()
                clock.mark("forward")
                return clock.phases
            self._pass(clock)
            self.optimizer.step()
            self.engine.after_step(self.layer)
            self.optimizer.zero_grad(set_to_none=True)
            clock.mark("optimizer")
        return clock.phases

    def kept_bytes(self) -> int:
        return self.engine.kept_bytes(self.layer)

    def _pass(self, clock: Clock) -> tuple[Tensor, Tensor]:
        leaf = self.x.detach().requires_grad_()
        y = self._forward(leaf)
        clock.mark("forward")
        y.backward(self.dy)  # type: ignore[no-untyped-call]
        clock.mark("backward")
        return y, leaf.grad  # type: ignore[return-value]

    @torch.no_grad()
    def _infer(self) -> Tensor:
        return self._forward(self.x)

    def _forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x if self.engine.strides else x.contiguous())
        return y.contiguous() if self.case.layout == "row-major" else y


def _sizes(case: LayerCase) -> tuple[tuple[int, ...], ...]:
    return (case.outputs,), (case.batch, case.inputs), (case.batch, case.outputs)
