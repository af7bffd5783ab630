"""The README's figure: time of a step of one layer over density, by four engines, with the crossover marked.

    python bench/readme_figure.py bench/results/0.1.0/layers-2{,-high}.json docs/density.png

It reads records of ``sparsetrain bench``.
"""

import math
import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from sparsetrain_bench.report.plot import COLOURS
from sparsetrain_bench.report.record import Record, read
from sparsetrain_bench.rounds import quartiles

PANEL, FAMILY = "1024 -> 1024, 128", "One layer, row-major"
ENGINES = {
    "sparsetrain": "sparsetrain",
    "dense, oneDNN": "dense",
    "masked, oneDNN": "dense weight times a mask",
    "SparseProp": "SparseProp",
}
DENSITIES, MILLISECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1), (0.5, 1, 2, 5)
Curve = dict[float, float]  # milliseconds by density


def curves(records: list[Record]) -> dict[str, Curve]:
    """Of each engine, in the records of the one layer."""
    found: dict[str, Curve] = {engine: {} for engine in ENGINES}
    for record in records:
        if record.panel == PANEL and record.family == FAMILY and record.contestant in ENGINES and not record.state:
            assert record.density is not None
            found[record.contestant][record.density] = 1e3 * quartiles(record.forward_and_backward)[1]
    return found


def crossover(ours: Curve, dense: Curve) -> float | None:
    """The density where the lines meet, between two that were measured, as straight lines over logarithms."""
    both = sorted(ours.keys() & dense.keys())
    gains = [math.log(dense[density] / ours[density]) for density in both]
    for low, high, before, after in zip(both, both[1:], gains, gains[1:], strict=False):
        if before > 0 >= after:
            part = before / (before - after)
            return math.exp(math.log(low) + part * math.log(high / low))
    return None


def draw(found: dict[str, Curve], file: Path) -> None:
    figure = Figure(figsize=(7.2, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    for engine, curve in found.items():
        width = 2.4 if engine == "sparsetrain" else 1.3
        axes.plot(
            *zip(*sorted(curve.items()), strict=True), color=COLOURS[engine], label=ENGINES[engine], linewidth=width,
            marker="o", markersize=4,
        )  # fmt: skip
    meeting = crossover(found["sparsetrain"], found["dense, oneDNN"])
    if meeting is not None:
        axes.axvline(meeting, color="#888888", linewidth=1, linestyle=":")
        axes.annotate(
            f"dense is faster\nfrom {meeting:.2f} on", (meeting, 0.5), (6, 0), textcoords="offset points", fontsize=9
        )
    axes.set(xscale="log", yscale="log", xlabel="density", ylabel="forward + backward, ms")
    axes.set_title(f"One layer, {PANEL.replace('->', 'to').replace(', ', ', batch ')}, two threads", fontsize=10)
    for axis, ticks in ((axes.xaxis, DENSITIES), (axes.yaxis, MILLISECONDS)):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.76))
    figure.savefig(file)


def main() -> None:
    *records, picture = map(Path, sys.argv[1:])
    found = curves(read(records))
    for engine, curve in found.items():
        print(engine, {density: round(time, 3) for density, time in sorted(curve.items())})
    draw(found, picture)


if __name__ == "__main__":
    main()
