"""The picture of a comparison: loss, accuracy, time and memory."""

from typing import Any, BinaryIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .comparison import Comparison
from .network import KINDS, Kind
from .over_time import seconds
from .report import milliseconds

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = {"sparse": "#0072B2", "masked": "#E69F00", "dense": "#555555"}
STYLES: dict[str, dict[str, Any]] = {
    "sparse": {"linewidth": 1.6, "linestyle": "--", "marker": "o", "markersize": 3.5, "zorder": 3},
    "masked": {"linewidth": 5.0, "marker": "o", "alpha": 0.65, "zorder": 2},  # wide, as sparse lies upon it
    "dense": {"linewidth": 1.6, "linestyle": ":", "marker": "s", "markersize": 3.5, "zorder": 1},
}
PARTS = ("#0072B2", "#56B4E9", "#CC79A7")  # of a bar, from below


def draw(comparison: Comparison, file: BinaryIO, ending: str) -> None:
    """Write the picture in the format that the ending names."""
    figure = Figure(figsize=(14, 7.5), dpi=150, layout="constrained")
    figure.suptitle(f"{comparison.setting.title}\n{comparison.setting.subtitle}", fontsize=11)
    evolves = comparison.setting.evolution is not None
    axes_of: dict[str, Axes] = figure.subplot_mosaic("llaass;ttmmee" if evolves else "llaass;tttmmm")
    _loss(axes_of["l"], comparison)
    _accuracy(axes_of["a"], comparison)
    _accuracy_over_seconds(axes_of["s"], comparison)
    _time(axes_of["t"], comparison)
    _memory(axes_of["m"], comparison)
    if evolves:
        _edges(axes_of["e"], comparison)
    for axes in axes_of.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    figure.savefig(file, format=ending.lstrip("."))


def _loss(axes: Axes, comparison: Comparison) -> None:
    _curves(axes, {kind: record.train_loss(comparison.setting.epochs) for kind, record in comparison.records.items()})
    axes.set(title="Training loss", ylabel="mean cross-entropy of an epoch", yscale="log")
    axes.legend(frameon=False, loc="upper right")


def _accuracy(axes: Axes, comparison: Comparison) -> None:
    _curves(axes, {kind: [test.accuracy for test in record.test] for kind, record in comparison.records.items()})
    axes.set(title="Test accuracy", ylabel="right answers (%)")
    axes.legend(frameon=False, loc="lower right")


def _accuracy_over_seconds(axes: Axes, comparison: Comparison) -> None:
    for kind, record in comparison.records.items():
        axes.plot(seconds(record), [t.accuracy for t in record.test], color=COLOURS[kind], label=kind, **STYLES[kind])
    axes.set(title="Test accuracy over time", xlabel="seconds of training", ylabel="right answers (%)", xlim=(0, None))
    axes.legend(frameon=False, loc="lower right")


def _edges(axes: Axes, comparison: Comparison) -> None:
    """Edges that exist, that were ever tried, and that an update replaced, in percent."""
    updates = comparison.records["sparse"].steps.updates
    steps = [update.step for update in updates]
    for label, colour, shares in (
        ("density", PARTS[0], [update.density for update in updates]),
        ("explored (R_s)", PARTS[1], [update.explored for update in updates]),
        ("churn of an update", PARTS[2], [update.churn for update in updates]),
    ):
        axes.plot(steps, [100 * share for share in shares], color=colour, label=label, marker=".")
    axes.set(title="Edges of sparse", xlabel="training step", ylabel="percent", ylim=(0, None))
    axes.legend(frameon=False)


def _curves(axes: Axes, curves: dict[Kind, list[float]]) -> None:
    for kind, curve in curves.items():
        axes.plot(range(1, len(curve) + 1), curve, color=COLOURS[kind], label=kind, **STYLES[kind])
    axes.set(xlabel="epoch", xlim=(0.5, len(curves["sparse"]) + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _time(axes: Axes, comparison: Comparison) -> None:
    medians = [milliseconds(comparison.records[kind].steps) for kind in KINDS]
    stacks = {phase: [median[phase] for median in medians] for phase in ("forward", "backward", "optimizer")}
    _stacked(axes, stacks, [f"{median['total']:.2f} ms" for median in medians])
    axes.set(title="Time of a training step (medians)", ylabel="milliseconds")


def _memory(axes: Axes, comparison: Comparison) -> None:
    kept = [comparison.records[kind].memory for kind in KINDS]
    stacks = {
        "parameters": [b.parameters / 1e6 for b in kept],
        "optimizer state": [b.state / 1e6 for b in kept],
        "indices or mask": [b.indices / 1e6 for b in kept],
    }
    _stacked(axes, stacks, [f"{(b.parameters + b.state + b.indices) / 1e6:.1f} MB" for b in kept], -0.2, 0.36)
    risen = {"peak above start": [(b.peak - b.before) / 1e6 for b in kept]}
    _stacked(axes, risen, [f"{(b.peak - b.before) / 1e6:.0f} MB" for b in kept], 0.2, 0.36, color="#BBBBBB", hatch="//")
    axes.set(title="Memory: kept between steps, and peak", ylabel="megabytes")


def _stacked(
    axes: Axes, stacks: dict[str, list[float]], totals: list[str], shift: float = 0.0, width: float = 0.6, **style: Any
) -> None:
    """A bar for each implementation, its parts one upon the other, its total above it."""
    places = [place + shift for place in range(len(KINDS))]
    below = [0.0] * len(KINDS)
    for (label, heights), colour in zip(stacks.items(), PARTS, strict=False):
        axes.bar(places, heights, bottom=below, width=width, label=label, **{"color": colour, **style})
        below = [low + height for low, height in zip(below, heights, strict=True)]
    for place, top, total in zip(places, below, totals, strict=True):
        axes.annotate(total, (place, top), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.margins(y=0.3)
    axes.legend(frameon=False, loc="upper left", ncols=2)
