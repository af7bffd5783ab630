"""RMSprop."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..backends.row_gradient import RowGradient
from ..backends.row_steps import backend_of, catch_up_linear
from .lazy_updates import Idle
from .row_optimizer import Group, RowOptimizer, Unused, row_steps
from .state import by_rows


class RMSprop(RowOptimizer, torch.optim.RMSprop):
    r"""RMSprop for dense parameters, values of edges and tables, whose unused rows keep their squared gradients.

    .. math::
        g \leftarrow g + \lambda w, \quad v \leftarrow \alpha v + (1 - \alpha) g^2, \quad
        d = \sqrt{v} + \epsilon \ \text{or} \ \sqrt{v - a^2} + \epsilon, \quad w \leftarrow w - \gamma g / d

    with :math:`\gamma` = lr, :math:`\lambda` = weight_decay, and centered the mean
    :math:`a \leftarrow \alpha a + (1 - \alpha) g`; with momentum :math:`b \leftarrow \mu b + g / d` and
    :math:`w \leftarrow w - \gamma b`. Of a table the used rows alone are stepped, their duplicates summed before.

    Args:
        params, lr, alpha, eps, weight_decay, momentum, centered, foreach, maximize: as in torch.optim.RMSprop.
            As there, ``eps=0`` makes NaN of a used number whose gradients have all been zero.
        unused: what happens to rows of a table that a step does not use. ``"frozen"``: nothing, as if the step had not
            been. ``"dense"``: what the dense optimizer does where a gradient is zero (v decays, so that a rare row's
            next step is up to lr / sqrt(1 - alpha) however small its gradient), in time for a LookupTable to read it,
            and for ``flush()``, state_dict and deepcopy.
        bias_correction: None, as torch; or ``"row"``: v is divided by :math:`1 - \alpha^n`, n the steps of the
            row, so that a row's first step is lr and not lr / sqrt(1 - alpha). Not centered, and with
            ``unused="frozen"``.
        l1: of a proximal step after each step, a number or a tensor of the parameter's shape; it reaches exact zeros:
            :math:`w \leftarrow \text{sign}(w) \max(|w| - \gamma \ell_1 / d, 0)`. Not with ``unused="dense"``.
        check_finite: refuse the step, naming the parameter, where a gradient holds NaN or infinity.

    State:
        ``step``, ``square_avg``, ``grad_avg``, ``momentum_buffer`` as torch's, and with ``bias_correction="row"``
        ``row_steps``, shape (rows,). Under ``unused="dense"`` the state of a table is up to date after ``flush()``.

    Raises:
        ValueError: an option out of range, or options that contradict each other.

    Source: torch.optim.RMSprop, epsilon outside the square root; the proximal step in the metric d as in Yun, Lozano
    and Yang, "Adaptive proximal gradient methods for structured neural networks" (2021).

    Example:
        >>> from torch.nn import Embedding
        >>> table = Embedding(1000, 2, sparse=True)
        >>> optimizer = RMSprop(table.parameters(), lr=0.1)
        >>> table(torch.tensor([3, 7, 3])).sum().backward()
        >>> optimizer.step()
        >>> optimizer.state[table.weight]["square_avg"][[3, 7, 8], 0]
        tensor([0.0400, 0.0100, 0.0000])
    """

    STATE = by_rows("RMSprop")
    _torch = torch.optim.RMSprop

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0, momentum: float = 0, centered: bool = False, capturable: bool = False,
        foreach: bool | None = None, maximize: bool = False, differentiable: bool = False, *, unused: Unused = "frozen",
        bias_correction: Literal["row"] | None = None, l1: float | Tensor = 0.0, check_finite: bool = False,
    ) -> None:  # fmt: skip
        self._options = {
            "unused": unused, "bias_correction": bias_correction, "l1": l1, "check_finite": check_finite,
        }  # fmt: skip
        torch.optim.RMSprop.__init__(
            self,
            params,
            lr,
            alpha,
            eps,
            weight_decay,
            momentum,
            centered,
            capturable,
            foreach,
            maximize,
            differentiable,
        )
        self.defaults.update(self._options)

    def _check_group(self, group: Group) -> None:
        if group["bias_correction"] not in (None, "row"):
            raise ValueError(
                f"RMSprop: expected bias_correction to be None or 'row', got {group['bias_correction']!r}."
            )
        if group["unused"] == "dense" and group["bias_correction"] == "row":
            raise ValueError(
                'RMSprop: bias_correction="row" counts the steps that used a row, which unused="dense" does not know. '
                'Use unused="frozen".'
            )
        if group["centered"] and group["bias_correction"] == "row":
            raise ValueError(
                'RMSprop: centered=True with bias_correction="row" would divide by zero in the first step of a row, as '
                "one gradient has no variance. Use one of the two."
            )
        self._refuse_coupled_decay(group)

    def _counts_rows(self, group: Group) -> bool:
        return bool(group["bias_correction"] == "row")

    def _step_rows(self, group: Group, p: Tensor, g: RowGradient, numbers: dict[str, Any]) -> Idle | None:
        state = self.state[p]
        kept = {
            "square_avg": True, "momentum_buffer": group["momentum"] > 0, "grad_avg": group["centered"],
        }  # fmt: skip
        self._start(p, kept)
        counts = row_steps(state, p, g) if group["bias_correction"] == "row" else None
        state["step"] += 1
        buffer = state["momentum_buffer"] if kept["momentum_buffer"] else None
        means = state["grad_avg"] if kept["grad_avg"] else None
        mu, alpha = float(group["momentum"]), float(group["alpha"])
        backend_of(p).rmsprop(
            g, p, state["square_avg"], means, buffer, counts, alpha=alpha, eps=group["eps"],
            weight_decay=group["weight_decay"], momentum=mu, **numbers,
        )  # fmt: skip
        catch_up = partial(
            catch_up_linear, buffer=state.get("momentum_buffer"), squares=state["square_avg"], means=means, dim=g.dim
        )
        return Idle((1.0, -numbers["lr"] * mu, 0.0, mu or 1.0, alpha), catch_up, moves_weights=mu != 0)

    def _threshold(self, group: Group, p: Tensor) -> Any:
        state = self.state[p]
        v = state["square_avg"] - state["grad_avg"] ** 2 if group["centered"] else state["square_avg"]
        return torch.sqrt(v) + group["eps"]
