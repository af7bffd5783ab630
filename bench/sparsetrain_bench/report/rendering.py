"""A report as plain text, as Markdown, and as one HTML file."""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from sparsetrain.text_table import aligned

from .record import Record
from .table import Table
from .tables import all_tables

TEMPLATE = Path(__file__).parent / "report.html.j2"
TITLE = "Benchmarks: sparsetrain beside other engines"
LEGEND = (
    "A row is a problem: `in -> out, batch` of a linear layer, or the shapes of weight and images of a convolution. "
    "Times are milliseconds. In brackets is how many times ours a rival takes: above 1x we are faster; below 1x the "
    "rival is, and the cell says *faster*. An empty cell was not measured. Commands, dates, machines and versions are "
    "[at the end](#commands-machines-and-versions)."
)


@dataclass(frozen=True)
class Report:
    """Records, the tables made of them, and sentences about where they were measured."""

    records: list[Record]
    tables: list[Table]
    circumstances: list[str]


def build(records: list[Record]) -> Report:
    """The report on some records."""
    return Report(records, all_tables(records), circumstances(records))


def circumstances(records: list[Record]) -> list[str]:
    """One sentence for each run that the records come from."""
    runs: dict[str, list[Record]] = {}
    for record in records:
        where = {key: record.environment.get(key) for key in ("command", "cpu", "versions")}
        runs.setdefault(json.dumps(where), []).append(record)
    return [_sentence(run) for run in runs.values()]


def _sentence(run: list[Record]) -> str:
    where = run[0].environment
    cpu, dates = where["cpu"], sorted(record.environment["date"][:10] for record in run)
    loads = [record.environment["load_average"][0] for record in run]
    rounds = max((len(record.step) for record in run if not record.state), default=0)
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    days = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    machine = f"{cpu['cores']} cores of {cpu['model']} ({', '.join(cpu['features'])})"
    load = f"load average {max(loads):.2f} before"
    return f"`{where['command']}`, {days}, {machine}, {load}, {rounds} rounds; {versions}."


def plain(report: Report) -> str:
    """For a terminal, without the details."""
    parts = ["\n".join(report.circumstances)]
    for table in report.tables:
        if not table.detail and table.rows:
            parts.append("\n".join([table.title, *aligned([table.header, None, *table.rows]), table.remark]))
    return "\n\n".join(parts)


def markdown(report: Report) -> str:
    """For docs/bench.md, without the details."""
    lines = [f"# {TITLE}", "", LEGEND, ""]
    for table in report.tables:
        if not table.detail and table.rows:
            rows = [table.header, ["---"] * len(table.header), *table.rows]
            lines += [f"## {table.title}", "", table.remark, ""]
            lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    lines += ["## Commands, machines and versions", "", *(f"- {sentence}" for sentence in report.circumstances), ""]
    return "\n".join(lines)


def draw(records: list[Record], file: BinaryIO, ending: str) -> None:
    """The picture of the records, in the format that the ending names."""
    from .plot import draw as draw_panels  # matplotlib is an extra

    draw_panels(records, file, ending)


def html(report: Report) -> str:
    """One file that needs no other."""
    from jinja2 import Environment  # an extra

    picture = BytesIO()
    draw(report.records, picture, ".svg")
    svg = picture.getvalue().decode()
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE.read_text())
    return template.render(title=TITLE, report=report, svg=svg[svg.index("<svg") :])
