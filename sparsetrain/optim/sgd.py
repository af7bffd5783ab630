"""Stochastic gradient descent."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..backends.row_gradient import RowGradient
from ..backends.row_steps import backend_of, catch_up_linear
from .lazy_updates import Idle
from .row_optimizer import Group, RowOptimizer, Unused
from .state import by_rows


class SGD(RowOptimizer, torch.optim.SGD):
    r"""Stochastic gradient descent for dense parameters, values of edges and tables.

    .. math::
        g \leftarrow g + \lambda w, \quad b \leftarrow \mu b + (1 - \tau) g, \quad
        w \leftarrow w - \gamma b \ \text{or} \ w - \gamma (g + \mu b)

    with :math:`\gamma` = lr, :math:`\lambda` = weight_decay, :math:`\mu` = momentum, :math:`\tau` = dampening (which a
    first step is without), and the second form with Nesterov. Of a table the used rows alone are stepped, their
    duplicates summed before.

    Args:
        params, lr, momentum, dampening, weight_decay, nesterov, maximize, foreach, fused: as in torch.optim.SGD.
        unused: what happens to rows of a table that a step does not use. ``"frozen"``: nothing, as if the step had not
            been. ``"dense"``: what the dense optimizer does where a gradient is zero, in time for a LookupTable to read
            it, and for ``flush()``, state_dict and deepcopy.
        l1: of a proximal step after each step, a number or a tensor of the parameter's shape; it reaches exact zeros:
            :math:`w \leftarrow \text{sign}(w) \max(|w| - \gamma \ell_1, 0)`. Not with ``unused="dense"``.
        check_finite: refuse the step, naming the parameter, where a gradient holds NaN or infinity.

    State:
        ``momentum_buffer``, as torch's, and for tables ``row_steps``, shape (rows,), the steps with momentum. Under
        ``unused="dense"`` the state of a table is up to date after ``flush()``.

    Raises:
        ValueError: an option out of range, or options that contradict each other.

    Source: torch.optim.SGD; for the proximal step Parikh and Boyd, "Proximal algorithms" (2014).

    Example:
        >>> from torch.nn import Embedding
        >>> table = Embedding(1000, 2, sparse=True)
        >>> before = table.weight.detach().clone()
        >>> optimizer = SGD(table.parameters(), lr=0.5)
        >>> table(torch.tensor([3, 7, 3])).sum().backward()
        >>> optimizer.step()
        >>> (before - table.weight.detach())[[3, 7, 8]].round(decimals=4).tolist()
        [[1.0, 1.0], [0.5, 0.5], [0.0, 0.0]]
    """

    STATE = by_rows("SGD")
    _torch = torch.optim.SGD

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, momentum: float = 0, dampening: float = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False, *, maximize: bool = False,
        foreach: bool | None = None, differentiable: bool = False, fused: bool | None = None, unused: Unused = "frozen",
        l1: float | Tensor = 0.0, check_finite: bool = False,
    ) -> None:  # fmt: skip
        self._options = {"unused": unused, "l1": l1, "check_finite": check_finite}
        torch.optim.SGD.__init__(
            self, params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize, foreach=foreach,
            differentiable=differentiable, fused=fused,
        )  # fmt: skip
        self.defaults.update(self._options)

    def _counts_births(self, group: Group) -> bool:
        # without dampening a buffer of zeros is as good as none
        return bool(group["momentum"] and group["dampening"] and group["unused"] == "frozen")

    def _step_rows(self, group: Group, p: Tensor, g: RowGradient, numbers: dict[str, Any]) -> Idle | None:
        state, dense = self.state[p], group["unused"] == "dense"
        mu, decay, keep = float(group["momentum"]), float(group["weight_decay"]), 1 - float(group["dampening"])
        buffer, counts = (state.get("momentum_buffer"), state.get("row_steps")) if mu else (None, None)
        if mu and counts is None and not dense:
            # always, as dampening may be switched on later; of a buffer that nobody counted all rows have stepped
            counts = torch.full((g.rows,), int(buffer is not None), dtype=torch.int32, device=p.device)
            state["row_steps"] = counts
        if mu and buffer is None:
            buffer = state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
            keep = 1.0 if dense else keep  # the first step of all rows
        nesterov = bool(group["nesterov"])
        backend_of(p).sgd(
            g, p, buffer, counts, momentum=mu, dampening=1 - keep, weight_decay=decay, nesterov=nesterov, **numbers
        )
        if not mu and not decay:
            return None
        lr = numbers["lr"]
        if not mu:
            step = (1 - lr * decay, 0.0, 0.0, 1.0, 1.0)
        elif nesterov:
            step = (1 - lr * decay * (1 + mu), -lr * mu * mu, decay, mu, 1.0)
        else:
            step = (1 - lr * keep * decay, -lr * mu, keep * decay, mu, 1.0)
        catch_up = partial(catch_up_linear, buffer=state.get("momentum_buffer"), squares=None, means=None, dim=g.dim)
        return Idle(step, catch_up, moves_weights=True)

    def _threshold(self, group: Group, p: Tensor) -> Any:
        return 1.0
