"""Products and gradients of every backend and type against float64, with memory full of NaN before."""

from collections.abc import Iterator

import torch
from torch import Tensor

import sparsetrain as st

from .machine import Machine, Result
from .ways import ACTIVATION, backends, tensor_cores

BOUND = {"fp64": 1e-13, "fp32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}  # of the norm of the error to that of the result


def structure(machine: Machine, kind: str, rows: int, columns: int) -> st.Topology:
    """Few edges, many, rows without any beside rows with all, none, or all."""
    chance = torch.rand(rows, columns, device=machine.device)
    if kind == "hubs and empty rows":
        mask = chance < 0.01
        mask[::3], mask[:, ::5], mask[7] = False, False, True
    else:
        mask = chance < {"sparse": 0.005, "half": 0.5, "no edges": 0.0, "all edges": 2.0}[kind]
    return st.Topology.from_mask(mask)


def poison(machine: Machine, largest: int) -> None:
    """Leave NaN in the memory that the next results are made in."""
    blocks = [torch.full((max(1, largest >> k),), torch.nan, device=machine.device) for k in range(0, 12, 2)]
    del blocks


def distance(got: Tensor, exact: Tensor) -> float:
    """The norm of the error to that of the result, NaN where something is missing."""
    difference = (got.detach().double() - exact).norm()
    return float(difference if exact.norm() == 0 else difference / exact.norm())


def exact_results(t: st.Topology, values: Tensor, x: Tensor, dy: Tensor, bias: Tensor) -> list[Tensor]:
    """y, and the gradients of the input, of the values and of the bias, in float64, for samples (batch, in)."""
    row, col = t.row.long(), t.col.long()
    weight = torch.zeros(t.shape, dtype=torch.float64, device=x.device)
    weight[row, col] = values.double()
    x, dy = x.double(), dy.double()
    return [x @ weight.t() + bias.double(), dy @ weight, (dy.t() @ x)[row, col], dy.sum(0)]


def results(
    machine: Machine, backend: str, precision: str, t: st.Topology, batch: int, feature_major: bool
) -> dict[str, float]:
    """The error of each of them."""
    dtype = ACTIVATION[precision]
    wide = torch.float64 if precision == "fp64" else torch.float32
    x, dy = (machine.normal(batch, n, dtype=dtype) for n in (t.shape[1], t.shape[0]))
    if feature_major:
        x, dy = st.ops.feature_major(x), st.ops.feature_major(dy)
    values, bias = (machine.normal(n, dtype=wide).requires_grad_() for n in (t.nnz, t.shape[0]))
    exact = exact_results(t, values.detach(), x, dy, bias.detach())
    x.requires_grad_()
    poison(machine, max(t.numel, x.numel(), dy.numel()))
    with st.ops.use_backend(backend), tensor_cores(precision == "tf32"):
        y = st.ops.linear(x, t, values, bias)
        got = [y, *torch.autograd.grad(y, (x, values, bias), dy)]
    return {name: distance(one, other) for name, one, other in zip(("y", "dx", "dv", "db"), got, exact, strict=True)}


def correct(machine: Machine) -> Iterator[Result]:
    """A result for each backend, type, structure, batch and layout."""
    rows, columns, large = machine.sizes((1031, 2048, 777), (31, 64, 17))
    for kind in ("hubs and empty rows", "sparse", "half", "no edges", "all edges"):
        t = structure(machine, kind, rows, columns)
        for precision in BOUND:
            for backend in backends(machine.device):
                for batch, feature_major in ((1, False), (large, False), (large - 1, True)):
                    what: Result = {"backend": backend, "precision": precision, "structure": kind, "batch": batch}
                    what["feature_major"] = feature_major
                    try:
                        worst = results(machine, backend, precision, t, batch, feature_major)
                    except RuntimeError as error:  # the others are still told
                        yield what | {"right": False, "failed": str(error)[:300]}
                    else:
                        yield what | {"right": all(each <= BOUND[precision] for each in worst.values()), **worst}
