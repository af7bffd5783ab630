"""Adagrad."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..backends.row_gradient import RowGradient
from ..backends.row_steps import backend_of
from .lazy_updates import Idle
from .row_optimizer import Group, RowOptimizer, Unused
from .state import by_rows


class Adagrad(RowOptimizer, torch.optim.Adagrad):
    r"""Adagrad for dense parameters, values of edges and tables, with one sum of squares per element or per row.

    .. math::
        g \leftarrow g + \lambda w, \quad s \leftarrow s + g^2 \ \text{or} \ s + \text{mean}_j(g_j^2), \quad
        d = \sqrt{s} + \epsilon, \quad w \leftarrow w - \frac{\gamma}{1 + (t - 1) \eta} g / d

    with :math:`\gamma` = lr, :math:`\lambda` = weight_decay, :math:`\eta` = lr_decay and t the steps of the parameter.
    Of a table the used rows alone are stepped, their duplicates summed before.

    Args:
        params, lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize, foreach, fused: as in
            torch.optim.Adagrad. As there, ``eps=0`` makes NaN of a used number whose gradients have all been zero.
        rowwise: keep one sum for each row (each slice along the first dimension) of parameters of two or more
            dimensions: the second form, with a state of 1 / dim the size.
        unused: as in SGD. Rows that are not used stand still either way, as a gradient of zero changes nothing; so
            ``"dense"`` refuses a weight decay.
        l1: of a proximal step after each step, a number or a tensor of the parameter's shape; it reaches exact zeros:
            :math:`w \leftarrow \text{sign}(w) \max(|w| - \gamma_t \ell_1 / d, 0)`. Not with ``unused="dense"``.
        check_finite: refuse the step, naming the parameter, where a gradient holds NaN or infinity.

    State:
        ``step`` and ``sum``, as torch's; rowwise ``sum`` has shape (rows, 1).

    Raises:
        ValueError: an option out of range, or options that contradict each other.

    Source: torch.optim.Adagrad; row-wise as EXACT_ROWWISE_ADAGRAD of FBGEMM; the proximal step as in Duchi, Hazan and
    Singer, "Adaptive subgradient methods" (2011).

    Example:
        >>> from torch.nn import Embedding
        >>> table = Embedding(1000, 2, sparse=True)
        >>> optimizer = Adagrad(table.parameters(), lr=0.1, rowwise=True)
        >>> table(torch.tensor([3, 7, 3])).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[table.weight]["sum"].shape, optimizer.state[table.weight]["sum"][3].tolist()
        (torch.Size([1000, 1]), [4.0])
    """

    STATE = by_rows("Adagrad")
    _torch = torch.optim.Adagrad

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, fused: bool | None = None, rowwise: bool = False,
        unused: Unused = "frozen", l1: float | Tensor = 0.0, check_finite: bool = False,
    ) -> None:  # fmt: skip
        # torch makes the sums of all parameters at once; ours are made, in their own shape, by _start_sums
        self._options = {"rowwise": rowwise, "unused": unused, "l1": l1, "check_finite": check_finite}
        empty = torch.optim.Adagrad(
            [torch.empty(0)], lr, lr_decay, weight_decay, initial_accumulator_value, eps, foreach, maximize=maximize,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        torch.optim.Optimizer.__init__(self, params, empty.defaults)
        self.defaults.update(self._options)
        if fused:
            self._step_supports_amp_scaling = True

    def _check_group(self, group: Group) -> None:
        self._refuse_coupled_decay(group)

    def _counts_rows(self, group: Group) -> bool:
        return bool(group["rowwise"])

    def share_memory(self) -> None:
        """Move the sums to memory that processes share."""
        for group in self.param_groups:
            for p in group["params"]:
                self._start_sums(group, p)
        super().share_memory()

    def _init_group(self, group: Group, *lists: Any) -> Any:
        for p in group["params"]:
            if p.grad is not None and p not in self._in_rows:
                self._start_sums(group, p)
        return super()._init_group(group, *lists)

    def _start_sums(self, group: Group, p: Tensor) -> None:
        if not self.state[p]:
            start = group["initial_accumulator_value"]
            if p.is_complex():
                start = complex(start, start)  # torch sums the real and the imaginary parts apart
            rowwise = group["rowwise"] and p.ndim > 1
            self.state[p]["step"] = torch.tensor(0.0)
            self.state[p]["sum"] = (
                p.new_full((p.shape[0], *(1 for _ in p.shape[1:])), start)
                if rowwise
                else torch.full_like(
                    p, start
                )  # laid out as p: torch's fused kernel goes through both in memory's order
            )

    def _step_rows(self, group: Group, p: Tensor, g: RowGradient, numbers: dict[str, Any]) -> Idle | None:
        self._start_sums(group, p)
        state = self.state[p]
        state["step"] += 1
        numbers["lr"] /= 1 + (float(state["step"]) - 1) * group["lr_decay"]
        backend_of(p).adagrad(g, p, state["sum"], eps=group["eps"], weight_decay=group["weight_decay"], **numbers)
        return None

    def _threshold(self, group: Group, p: Tensor) -> Any:
        state = self.state[p]
        slower = 1 + (float(state["step"]) - 1) * group["lr_decay"]
        return (state["sum"].sqrt() + group["eps"]) * slower
