"""Adam, and AdamW, which differs in where weights decay."""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from ..backends.row_gradient import RowGradient
from ..backends.row_steps import backend_of, catch_up_adam
from . import rounded_moments
from .lazy_updates import Idle
from .rounded_moments import Moments
from .row_optimizer import Group, RowOptimizer, Unused, row_steps
from .state import by_rows


class Adam(RowOptimizer, torch.optim.Adam):
    r"""Adam for dense parameters, values of edges and tables, whose unused rows keep their moments and step counts.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        d = \sqrt{\frac{v}{1 - \beta_2^n}} + \epsilon, \quad w \leftarrow w - \gamma \frac{m}{1 - \beta_1^n} / d

    with :math:`\gamma` = lr and n the steps of the row; with amsgrad the largest v so far is in its place. A weight
    decay adds :math:`\lambda w` to g before. Of a table the used rows alone are stepped, their duplicates summed
    before, so that the first step of a row moves it by lr \|g\| / (\|g\| + eps), however late it comes.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, foreach, maximize, fused: as in torch.optim.Adam.
            As there, ``eps=0`` makes NaN of a used number whose gradients have all been zero.
        decoupled_weight_decay: False, or None; AdamW is the class whose weight decay is apart.
        unused: what happens to rows of a table that a step does not use. ``"frozen"``: nothing, as if the step had not
            been. ``"dense"``: what the dense optimizer does where a gradient is zero, in time for a LookupTable to read
            it, and for ``flush()``, state_dict and deepcopy; all rows then have the steps of the table. It refuses a
            weight decay in Adam, which has no closed form; AdamW has one.
        bias_correction: ``"row"``: n counts the steps that used the row. ``"global"``: n counts the steps of the table,
            as torch.optim.SparseAdam does, which moves a rare row by up to (1 - beta1) / sqrt(1 - beta2) lr at first.
        l1: of a proximal step after each step, a number or a tensor of the parameter's shape; it reaches exact zeros:
            :math:`w \leftarrow \text{sign}(w) \max(|w| - \gamma \ell_1 / d, 0)`. Not with ``unused="dense"``.
        check_finite: refuse the step, naming the parameter, where a gradient holds NaN or infinity.
        moments: ``"bfloat16"`` keeps both moments in 16 bits, 4 bytes less for each number; None in the type of the
            parameter. The arithmetic stays float32, and moments are rounded up or down at random, right on average: to
            the nearest they would stand still. The random bits are a hash of the step, so a run that is saved and
            loaded goes on bit for bit. For float32 parameters with dense gradients; not with amsgrad, l1 or
            ``unused="dense"``.

    State:
        ``step``, ``exp_avg``, ``exp_avg_sq``, ``max_exp_avg_sq`` as torch's, and for tables ``row_steps``, shape
        (rows,). A state of torch's own is loaded with the table's steps for every row. Under ``unused="dense"`` the
        state of a table is up to date after ``flush()``.

    Raises:
        ValueError: an option out of range, or options that contradict each other.

    Source: torch.optim.Adam; the proximal step in the metric d as in Yun, Lozano and Yang, "Adaptive proximal gradient
    methods for structured neural networks" (2021).

    Example:
        >>> from torch.nn import Embedding
        >>> table = Embedding(1000, 2, sparse=True)
        >>> before = table.weight.detach().clone()
        >>> optimizer = Adam(table.parameters(), lr=0.1)
        >>> table(torch.tensor([3, 7, 3])).sum().backward()
        >>> optimizer.step()
        >>> (before - table.weight.detach())[[3, 7, 8], 0]
        tensor([0.1000, 0.1000, 0.0000])
    """

    STATE = by_rows("Adam")
    _torch = torch.optim.Adam
    _decoupled = False

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None, unused: Unused = "frozen",
        bias_correction: Literal["row", "global"] = "row", l1: float | Tensor = 0.0, check_finite: bool = False,
        moments: Moments = None, decoupled_weight_decay: bool | None = None,
    ) -> None:  # fmt: skip
        decoupled = self._decoupled if decoupled_weight_decay is None else decoupled_weight_decay
        self._options = {
            "unused": unused, "bias_correction": bias_correction, "l1": l1, "check_finite": check_finite,
            "moments": moments,
        }  # fmt: skip
        torch.optim.Adam.__init__(
            self, params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
            capturable=capturable, differentiable=differentiable, fused=fused, decoupled_weight_decay=decoupled,
        )  # fmt: skip
        self.defaults.update(self._options)

    def _check_group(self, group: Group) -> None:
        if group["bias_correction"] not in ("row", "global"):
            raise ValueError(
                f"{type(self).__name__}: expected bias_correction to be 'row' or 'global', got "
                f"{group['bias_correction']!r}."
            )
        if group.get("decoupled_weight_decay", self._decoupled) != self._decoupled:
            other = "Adam" if self._decoupled else "AdamW"
            raise ValueError(
                f"{type(self).__name__}: expected decoupled_weight_decay={self._decoupled}, got {not self._decoupled}. "
                f"Use {other}, whose weight decay is so."
            )
        rounded_moments.check_options(type(self).__name__, group)
        if not self._decoupled:
            self._refuse_coupled_decay(group)

    def _init_group(self, group: Group, *lists: Any) -> Any:
        for p in group["params"]:
            if p in self.state and not rounded_moments.are_kept(group, p):
                rounded_moments.widen(self.state[p], p)
        return super()._init_group(group, *lists)

    def _counts_rows(self, group: Group) -> bool:
        return group.get("moments") is not None

    def _check_table(self, group: Group, p: Tensor, g: RowGradient) -> None:
        if group.get("moments") is not None:
            rounded_moments.check_parameter(type(self).__name__, p)

    def _counts_births(self, group: Group) -> bool:
        return bool(group["bias_correction"] == "row" and group["unused"] == "frozen")

    def _step_rows(self, group: Group, p: Tensor, g: RowGradient, numbers: dict[str, Any]) -> Idle | None:
        state, dense = self.state[p], group["unused"] == "dense"
        if group.get("moments") is not None:
            place = next(k for k, each in enumerate(self._parameters()) if each is p)
            rounded_moments.step(state, p, g, group, place=place, decoupled=self._decoupled, **numbers)
            return None
        self._start(p, {"exp_avg": True, "exp_avg_sq": True, "max_exp_avg_sq": group["amsgrad"]})
        counts = row_steps(state, p, g) if group["bias_correction"] == "row" and not dense else None
        state["step"] += 1
        step, lr, decay = int(state["step"]), numbers["lr"], float(group["weight_decay"])
        beta1, beta2 = (float(beta) for beta in group["betas"])
        tables = {
            "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"],
            "max_exp_avg_sq": state["max_exp_avg_sq"] if group["amsgrad"] else None,
        }  # fmt: skip
        backend_of(p).adam(
            g, p, **tables, counts=counts, step=step, betas=(beta1, beta2), eps=group["eps"], weight_decay=decay,
            decoupled=self._decoupled, **numbers,
        )  # fmt: skip
        shrink = 1 - lr * decay if self._decoupled else 1.0
        idle = (beta1, beta2, lr / (1 - beta1**step), (1 - beta2**step) ** -0.5, shrink)
        return Idle(idle, partial(catch_up_adam, **tables, dim=g.dim, eps=group["eps"]), moves_weights=True)

    def _threshold(self, group: Group, p: Tensor) -> Any:
        state, (_, beta2) = self.state[p], group["betas"]
        v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        return (v / (1 - beta2 ** float(state["step"]))).sqrt() + group["eps"]


class AdamW(Adam, torch.optim.AdamW):
    r"""Adam with decoupled weight decay, :math:`w \leftarrow (1 - \gamma \lambda) w` in each step.

    Everything else is as in Adam. Of a table, ``unused="frozen"`` decays the used rows alone; ``unused="dense"`` all
    rows in every step, under any learning rate schedule, exactly.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, foreach, fused: as in torch.optim.AdamW;
            ``eps=0`` is as in Adam.
        unused, bias_correction, l1, check_finite, moments: as in Adam.

    Raises:
        ValueError: an option out of range, or options that contradict each other.

    Source: torch.optim.AdamW; Loshchilov and Hutter, "Decoupled weight decay regularization" (2019).

    Example:
        >>> from torch.nn import Embedding
        >>> table = Embedding(1000, 2, sparse=True)
        >>> optimizer = AdamW(table.parameters(), lr=0.1, unused="dense")
        >>> for ids in ([3], [7], [7]):
        ...     optimizer.flush()  # a LookupTable does this itself, for the rows that it reads
        ...     optimizer.zero_grad()
        ...     table(torch.tensor(ids)).sum().backward()
        ...     optimizer.step()
    """

    _decoupled = True

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, **options)
