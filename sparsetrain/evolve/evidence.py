"""What an update looks at: values that are numbers, and gradients of the last steps, for which it may have to wait."""

from collections.abc import Mapping, Sequence

from .agreement import Agreement
from .chosen import check_trains
from .layers import Layer
from .recorder import Recorder

PATIENCE = 10  # steps in a row whose gradients may be infinite, as under a GradScaler, beside those a rule sums up


def check_values(views: Sequence[Layer]) -> None:
    """ValueError: the values of a layer are frozen, or are no numbers."""
    for view in views:
        check_trains("Evolver.step", view.name, view.module)
        if not bool(view.values.isfinite().all()):
            raise ValueError(
                f"Evolver.step: expected finite values in layer {view.name!r}, got NaN or infinity, of which no "
                "rule can choose. Edges are as they were. Lower the learning rate, or clip gradients."
            )


def hear(views: Sequence[Layer], recorders: Mapping[str, Recorder], agreement: Agreement) -> None:
    """Give each layer the gradients that were noted, of all processes.

    Raises:
        ValueError: there are none.
    """
    for view in views:
        view.factors = agreement.all_factors(recorders[view.name].factors(view.name))
        if not any(view.factors):
            raise ValueError(
                f"Evolver.step: expected a gradient of layer {view.name!r} since the last step, got none. Call "
                "step() once after each backward pass, and leave layers out with layers= on which the loss does "
                "not depend. Edges are as they were."
            )


def is_finite(views: Sequence[Layer]) -> bool:
    """Whether all gradients are numbers."""
    factors = (part for view in views for step in view.factors for each in step for part in (each.a, each.b))
    return all(bool(part.isfinite().all()) for part in factors)


def check_patience(late: int, steps: int) -> None:
    """ValueError: gradients that a rule looks at, of so many steps, were waited for too long."""
    patience = PATIENCE + max(0, steps - 1)  # one overflow is among those that are summed for so long
    if late > patience:
        raise ValueError(
            f"Evolver.step: expected finite gradients, those of the last {patience} steps have NaN or infinity. "
            "Edges are as they were."
        )
