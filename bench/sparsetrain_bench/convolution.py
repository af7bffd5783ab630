"""One convolution over two dimensions: forward, backward with the gradients of input, edges and bias, and the
optimizer."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import conv2d

import sparsetrain as st

from .case import Case
from .engines.convolutions import CONVOLUTIONS
from .layer import LayerContestant, LayerProblem
from .step import edge_values, seeded


@dataclass(frozen=True)
class ConvolutionCase(Case):
    """Square images and kernels, padded by half a kernel."""

    channels: int
    outputs: int
    batch: int
    size: int
    density: float
    threads: int
    kernel: int = 3
    stride: int = 1
    layout = "row-major"
    training = True

    @property
    def family(self) -> str:
        return "One convolution layer"

    @property
    def panel(self) -> str:
        step = "" if self.stride == 1 else f" stride {self.stride}"
        weight = f"{self.outputs}x{self.channels}x{self.kernel}x{self.kernel}"
        return f"{weight}{step}, ({self.batch}, {self.channels}, {self.size}, {self.size})"

    def contestants(self) -> list[str]:
        return list(CONVOLUTIONS)

    def module_of(self, name: str) -> str:
        return CONVOLUTIONS[name].module

    def problem(self) -> LayerProblem:
        generator = seeded()
        shape = (self.outputs, self.channels * self.kernel**2)
        t = st.patterns.uniform(shape, self.density, generator)
        bias = torch.randn(self.outputs, generator=generator)
        x = torch.randn(self.batch, self.channels, self.size, self.size, generator=generator)
        out = (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1
        dy = torch.randn(self.batch, self.outputs, out, out, generator=generator)
        return LayerProblem(t, edge_values(t, generator), bias, x, dy)

    def expected(self, problem: LayerProblem) -> dict[str, Tensor]:
        t, values, bias, x, dy = problem
        row, col = t.row.long(), t.col.long()
        weight = torch.zeros(t.shape, dtype=torch.float64)
        weight[row, col] = values.double()
        weight = weight.view(self.outputs, self.channels, self.kernel, self.kernel).requires_grad_()
        inputs = x.double().requires_grad_()
        output = conv2d(inputs, weight, bias.double(), self.stride, self.kernel // 2)
        dx, dweight = torch.autograd.grad(output, [inputs, weight], dy.double())
        return {
            "output": output.detach(),
            "input gradient": dx,
            "edge gradient": dweight.reshape(t.shape)[row, col],
            "bias gradient": dy.double().sum((0, 2, 3)),
        }

    def contestant(self, name: str, problem: LayerProblem) -> LayerContestant:
        return LayerContestant(CONVOLUTIONS[name](self), self, problem)

    def tiny(self) -> Self:
        return replace(self, channels=16, outputs=16, batch=2, size=min(self.size, 8), density=0.1)

    def edges(self, problem: LayerProblem) -> int:
        return problem.t.nnz
