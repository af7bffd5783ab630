"""Pictures in the list of programs, of those that draw none: python docs/thumbnails.py writes docs/_static/pNN.png."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BLUE, ORANGE, EMPTY = "#0072B2", "#D55E00", "#EDF0F3"
FOLDER = Path(__file__).parent / "_static"


def matrix(axes: Axes, cells: Sequence[str], corner: tuple[float, float] = (0, 0), side: float = 1) -> None:
    """Cells by letters: b and o are edges, a dot is none."""
    colours = {"b": BLUE, "o": ORANGE, ".": EMPTY}
    for i, row in enumerate(cells):
        for j, letter in enumerate(row):
            place = corner[0] + j * side, corner[1] - (i + 1) * side
            axes.add_patch(plt.Rectangle(place, 0.86 * side, 0.86 * side, color=colours[letter], linewidth=0))


def network(axes: Axes, sizes: Sequence[int], edges: Iterable[tuple[int, int, int, str]]) -> None:
    """Layers as columns of nodes; an edge is its layer, from, to and colour."""
    places = [[(max(sizes) * k, (n - 1) / 2 - i) for i in range(n)] for k, n in enumerate(sizes)]
    for layer, source, target, colour in edges:
        (x, y), (u, v) = places[layer][source], places[layer + 1][target]
        axes.plot([x, u], [y, v], color=colour, linewidth=2.5, zorder=1)
    for x, y in (place for column in places for place in column):
        axes.scatter(
            x,
            y,
            s=260 if max(sizes) < 5 else 110,
            color="white",
            edgecolor="#555555",
            linewidth=2,
            zorder=2,
            clip_on=False,
        )


def draw(name: str) -> None:
    """One picture."""
    figure, axes = plt.subplots(figsize=(4, 2.8), dpi=100)
    if name == "p01":
        matrix(axes, ["bo", "bb"])
    elif name == "p02":
        matrix(axes, ["b.", "bb"])
    elif name == "p03":
        first = [(0, 0, 0, BLUE), (0, 0, 1, BLUE), (0, 1, 1, BLUE), (0, 1, 0, EMPTY)]
        network(axes, (2, 2, 1), [*first, (1, 0, 0, BLUE), (1, 1, 0, BLUE)])
    elif name == "p10":
        first = [(0, i, j, BLUE) for i in range(4) for j in range(8) if (3 * i + j) % 2 == 0]
        network(axes, (4, 8, 1), [*first, *((1, j, 0, BLUE) for j in range(0, 8, 2))])
    elif name == "p12":
        matrix(axes, ["b..b.b", ".bb...", "b...bb"], side=1)
        matrix(axes, ["o.o", ".o.", ".o.", "o..", "..o", "o.o"], corner=(7, 1.5))
    axes.set_aspect("equal")
    axes.margins(0.1)
    axes.axis("off")
    axes.autoscale_view()
    figure.savefig(FOLDER / f"{name}.png")
    plt.close(figure)


if __name__ == "__main__":
    for name in ("p01", "p02", "p03", "p10", "p12"):
        draw(name)
