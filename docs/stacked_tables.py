"""Tables of many columns fit a telephone: a row becomes a box there, in which each cell has the name of its column.

site.css does that to tables of the class ``many-columns``, and shows the class ``stacked`` in narrow windows only.
"""

from typing import Any

from docutils import nodes

MOST = 4  # columns that are readable side by side at 400 pixels


def label_cells(app: Any, doctree: nodes.document, page: str) -> None:
    """Mark tables with many columns, and name the column in each of their cells."""
    if app.builder.format != "html":
        return
    for table in doctree.findall(nodes.tgroup):
        head = table.next_node(nodes.thead)
        if head is not None and table["cols"] > MOST:
            table.parent["classes"].append("many-columns")
            names = [entry.astext() for entry in head.findall(nodes.entry)]
            _label(table.next_node(nodes.tbody), names)


def _label(body: nodes.tbody, names: list[str]) -> None:
    """The first cell of a row is its heading: an empty one means that of the row above."""
    above = ""
    for row in body.findall(nodes.row):
        first, *others = row.findall(nodes.entry)
        if first.astext():
            above = first.astext()
        else:
            first.clear()
            first += nodes.inline(text=above, classes=["stacked"])
        for name, cell in zip(names[1:], others, strict=True):
            if cell.astext():
                cell.insert(0, nodes.inline(text=name, classes=["stacked"]))


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-resolved", label_cells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
