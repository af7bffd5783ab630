"""What ``--rule`` and the options beside it mean together."""

import click

from .evolution import Evolution

RULE_NAMES = ("static", "set", "rigl", "gmp")
INTERVAL, UPDATES = 100, 20  # steps between updates, and the updates that a short training has at least
PRUNE_FRACTION = 0.3


def evolution_of(
    rule: str, density: float, interval: int | None, prune_fraction: float | None, steps: int
) -> Evolution | None:
    """How edges change in a training of so many steps; None where they stay.

    Raises:
        BadParameter: options that make no sense with the rule, or too long an interval.
    """
    given = {"--interval": interval, "--prune-fraction": prune_fraction}
    useless = {"static": list(given), "gmp": ["--prune-fraction"]}.get(rule, [])
    for name in useless:
        if given[name] is not None:
            others = "set, rigl or gmp" if name == "--interval" else "set or rigl"
            raise _bad(name, f"expected --rule {others} beside it, got --rule {rule}.")
    if rule == "static":
        return None
    _check_density(rule, density)
    stop = 3 * steps // 4
    if stop < 2:
        raise _bad("--rule", f"expected at least 3 training steps in which edges can change, got {steps}.")
    if interval is None:
        interval = max(1, min(INTERVAL, stop // UPDATES))
    if interval >= stop:
        raise _bad(
            "--interval",
            f"expected at most {stop - 1}, as edges change in the first three quarters of {steps} training steps, got "
            f"{interval}.",
        )
    if rule != "gmp" and prune_fraction is None:
        prune_fraction = PRUNE_FRACTION
    return Evolution(rule, interval, stop, prune_fraction)


def _check_density(rule: str, density: float) -> None:
    if density == 0:
        raise _bad("--density", f"expected a number above 0 beside --rule {rule}: without edges none can change.")
    if density == 1 and rule == "gmp":
        raise _bad("--density", "expected a number below 1 beside --rule gmp, which prunes from density 1.0 to it.")
    if density == 1:
        raise _bad("--density", f"expected a number below 1 beside --rule {rule}: no position is free for new edges.")


def _bad(option: str, message: str) -> click.BadParameter:
    return click.BadParameter(message, param_hint=f"'{option}'")
