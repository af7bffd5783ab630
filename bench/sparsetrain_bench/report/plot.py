"""The picture of a report: time and peak memory over density, a small panel for each problem."""

from collections.abc import Callable
from math import ceil
from typing import BinaryIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from sparsetrain.cli.setting import count

from ..rounds import quartiles
from .record import Record

COLUMNS = 4
# an engine keeps its colour; Okabe and Ito's first, which colour-blind readers can tell apart
COLOURS = {
    "sparsetrain": "#0072B2", "sparsetrain, bf16": "#6A5ACD", "sparsetrain, blocks": "#004C77",
    "dense, bf16": "#999999", "dense": "#555555", "dense, oneDNN": "#000000", "masked, in forward": "#E69F00",
    "masked, after step": "#D55E00", "masked, oneDNN": "#8B0000",
    "SparseProp": "#009E73", "SparseLab": "#CC79A7", "torch CSR": "#56B4E9", "torch COO": "#B5B52F",
    "torch-sparse": "#8C564B", "sparsetrain, torch backend": "#9ecae1", "scipy CSR": "#aaaaaa",
}  # fmt: skip
Height = Callable[[Record], float | None]
Curves = dict[str, list[tuple[float, float]]]  # by engine, (density, height)


def draw(records: list[Record], file: BinaryIO, ending: str) -> None:
    """Write the picture in the format that the ending names."""
    panels = [*_panels(records, "ms", _milliseconds), *_panels(records, "peak MB", _megabytes)]
    columns = max(2, min(COLUMNS, len(panels)))  # one alone would be narrower than the legend
    rows = max(1, ceil(len(panels) / columns))
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows + 0.6), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, unit, curves) in zip(grid, panels, strict=False):
        _panel(axes, title, unit, curves)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    labelled = {label: line for axes in grid for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if labelled:
        figure.legend(
            labelled.values(),
            labelled.keys(),
            loc="outside lower center",
            ncols=3 * columns // 2,
            fontsize=8,
            frameon=False,
        )
    figure.savefig(file, format=ending.lstrip("."))


def _panels(records: list[Record], unit: str, height: Height) -> list[tuple[str, str, Curves]]:
    """Title, unit and curves of each problem that has densities."""
    found: dict[str, Curves] = {}
    for record in records:
        if record.state or record.density is None:
            continue
        number = height(record)
        title = f"{record.panel}\n{record.family}, {count(record.threads, 'thread')}"
        if number:
            found.setdefault(title, {}).setdefault(record.contestant, []).append((record.density, number))
    return [(title, unit, curves) for title, curves in found.items()]


def _panel(axes: Axes, title: str, unit: str, curves: Curves) -> None:
    densities = sorted({density for curve in curves.values() for density, _ in curve})
    for name, curve in curves.items():
        ours = name == "sparsetrain"
        axes.plot(
            *zip(*sorted(curve), strict=True), color=COLOURS.get(name, "#bbbbbb"), label=name, marker="o", markersize=3,
            linewidth=2.2 if ours else 1.2, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", ylabel=unit)
    axes.set_title(title, fontsize=8)
    axes.xaxis.set_major_locator(FixedLocator(densities))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda density, _: f"{density:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(which="both", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _milliseconds(record: Record) -> float | None:
    return 1e3 * quartiles(record.step)[1]


def _megabytes(record: Record) -> float | None:
    return None if record.peak is None else record.peak["steps"] / 1e6
