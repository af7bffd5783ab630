"""Densities of the layers of a model: one for all of them, or rules for some."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import checks, patterns
from ..layer_names import Names, Pattern, first_fits, pattern, without_layer
from .kinds import weight_shape
from .swap import some

Density = float | Mapping[Any, float | None]


@dataclass
class Shares:
    """What each layer gets.

    Attributes:
        densities: of the layers that are replaced.
        reasons: why others stay as they are.
    """

    densities: dict[nn.Module, float] = field(default_factory=dict)
    reasons: dict[nn.Module, str] = field(default_factory=dict)


def by_rules(
    where: str, names: Names, layers: Sequence[Any], rules: Mapping[Any, Any], method: Any, what: str, whole_stays: bool
) -> Shares:
    """The density of the first rule that fits a layer; None leaves it as it is, and so does 1 where ``whole_stays``. A
    message says ``what`` the layers are."""
    fitting = [pattern(where, "rules", key) for key in rules]
    densities = [_density(where, *each) for each in zip(fitting, rules.values(), strict=True)]
    stay = [density is None or (whole_stays and density == 1.0) for density in densities]
    candidates = {layer: names[layer] for layer in layers}
    _check_matched(where, fitting, stay, candidates, names, what)
    shares, fits = Shares(), first_fits(fitting, candidates)
    groups: dict[int, list[Any]] = defaultdict(list)
    for layer in layers:
        k = fits.get(layer)
        if k is None or stay[k]:
            shares.reasons[layer] = "no rule matched" if k is None else f"rule {fitting[k].text!r} leaves it"
        else:
            groups[k].append(layer)
    for k, group in groups.items():
        shares.densities |= share_out(where, group, densities[k], method)  # type: ignore[arg-type]
    if not groups:
        expected = "a density below 1" if whole_stays else "a density"
        raise ValueError(f"{where}: expected a rule that gives {expected} to some layer, all stay as they are.")
    return Shares({layer: shares.densities[layer] for layer in layers if layer in shares.densities}, shares.reasons)


def share_out(where: str, layers: Sequence[Any], density: float, method: Any) -> dict[nn.Module, float]:
    """One density for all these layers together, by patterns.allocate."""
    shapes = [weight_shape(layer) for layer in layers]
    return dict(zip(layers, patterns.allocate(shapes, checks.density(where, density), method), strict=True))


def leave_dense(
    where: str,
    above: float,
    densities: dict[nn.Module, Any],
    reasons: dict[nn.Module, str],
    follow: dict[nn.Module, nn.Module],
) -> None:
    """Take out the layers of a larger density, and say why."""
    limit = checks.fraction(where, "dense_above", above)
    for layer, density in list(densities.items()):
        if density > limit:
            del densities[layer]
            tied = [module for module, leader in follow.items() if leader is layer]
            for module in (layer, *tied):
                follow.pop(module, None)
                reasons[module] = f"its density of {density:.4g} is above {limit:g}"
    if not densities:
        raise ValueError(
            f"{where}: expected a layer of a density up to dense_above={limit:g}, all have more. Pass 1 to "
            "turn them sparse."
        )


def _density(where: str, rule: Pattern, density: Any) -> float | None:
    advice = " It is the fraction of edges that exist, or None to leave a layer as it is."
    return None if density is None else checks.fraction(where, f"the density of rule {rule.text!r}", density, advice)


def _check_matched(
    where: str, rules: list[Pattern], stay: list[bool], candidates: Names, names: Names, what: str
) -> None:
    """Every rule fits a layer that can be replaced; or any module, if it leaves that as it is."""
    for rule, stays in zip(rules, stay, strict=True):
        if not without_layer([rule], names if stays else candidates):
            continue
        others = [module for module in names if rule.fits_any(names[module], module)]
        if others:
            found = some(f"{names[module][0]} ({type(module).__name__})" for module in others)
            inner = next((names[module][0] for module in others if any(module.children())), None)
            advice = f" For the layers in it write {inner + '.*'!r}." if inner else ""
            if not inner and any(isinstance(module, nn.Linear) for module in others):
                advice = " Subclasses of nn.Linear join by a rule for their class, beside others."
            raise ValueError(
                f"{where}: expected rules for {what} layers that are not in skip, {rule.text!r} matches only "
                f"{found}.{advice}"
            )
        known = {name: None for all_names in candidates.values() for name in all_names}
        closest = difflib.get_close_matches(rule.text, known, n=5, cutoff=0.0)
        raise ValueError(
            f"{where}: expected rules that match {what} layers, {rule.text!r} matches none. There are "
            f"{some(closest if len(known) > 5 else known)}{', among others' if len(known) > 5 else ''}."
        )
