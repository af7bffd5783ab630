"""The guide's figure of many edges: nanoseconds of a step for each edge, from 1e5 to 1e9 of them.

    python bench/many_edges_figure.py bench/results/0.1.0/many-edges.jsonl docs/many-edges.png

It reads records of ``python bench/many_edges.py step``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

COLOURS = {"adam": "#D55E00", "adam-bfloat16": "#0072B2"}  # Okabe and Ito's
NAMES = {"adam": "Adam", "adam-bfloat16": "Adam, moments in bfloat16"}


def draw(steps: list[dict[str, Any]], file: Path) -> None:
    figure = Figure(figsize=(7.2, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    for optimizer, colour in COLOURS.items():
        own = [step for step in steps if step["optimizer"] == optimizer]
        axes.plot(
            [step["edges"] for step in own], [step["ns_an_edge"] for step in own], "o", color=colour,
            label=NAMES[optimizer],
        )  # fmt: skip
    for step in steps:
        axes.annotate(
            f"{step['layers']} x {step['features']:,}", (step["edges"], step["ns_an_edge"]), (0, 8),
            textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlim=(4e4, 2.5e9), ylim=(8, 110), xlabel="edges (layers x features of each)",
        ylabel="nanoseconds an edge and step",
    )  # fmt: skip
    axes.yaxis.set_major_locator(FixedLocator([10, 20, 50, 100]))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file)


if __name__ == "__main__":
    lines = map(json.loads, Path(sys.argv[1]).read_text().splitlines())
    draw([line for line in lines if line["what"] == "step"], Path(sys.argv[2]))
