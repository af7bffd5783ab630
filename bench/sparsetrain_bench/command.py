"""``sparsetrain bench``: runs a preset in a process of pytest, then reports from the JSON that it wrote."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click

from sparsetrain.cli import files
from sparsetrain.cli.options import fraction, output, shape, threads
from sparsetrain.extras import installed_by

from .case import OURS, installed
from .machine import too_busy
from .presets import CONTESTANTS, PRESETS
from .report import RecordsError, Report, build, draw, html, markdown, plain, read, regressions, slowdowns, verdict
from .settings import Settings

STDERR = 2  # progress goes there, so that the report alone is on the standard output
BENCHMARK = Path(__file__).parent / "contestants.py"
RAN = (0, 1)  # exit codes of pytest where the tests ran, in the second some of them failed


existing = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"max_content_width": 100, "show_default": True})
@click.option("--preset", type=click.Choice(list(PRESETS)), default="layers", help="What to measure.")
@click.option("--shape", "shapes", type=shape, multiple=True, help="Of a layer: inputs x outputs x batch.")
@click.option("--density", "densities", type=fraction, multiple=True, help="Fraction of edges that exist.")
@click.option("--threads", metavar="INTEGER", type=threads, multiple=True, help="Threads of each contestant.")
@click.option(
    "--engine",
    "engines",
    type=click.Choice(CONTESTANTS),
    multiple=True,
    metavar="NAME",
    help="Contestants beside sparsetrain.  [default: all]",
)
@click.option("--layout", "layouts", type=click.Choice(["row-major", "feature-major"]), multiple=True,
              help="Of a layer's batches.  [default: row-major]")  # fmt: skip
@click.option("--law", "laws", type=click.Choice(["uniform", "zipf"]), multiple=True, help="Of a lookup's ids.")
@click.option("--rows", type=click.IntRange(min=1), default=1_000_000, help="Of a lookup table.")
@click.option("--dim", type=click.IntRange(min=1), default=64, help="Numbers of such a row.")
@click.option("--ids", type=click.IntRange(min=1), default=65_536, help="Looked up in a step.")
@click.option("--bag", type=click.IntRange(min=2), default=16, help="Ids that are pooled together.")
@click.option("--dense", is_flag=True, help="Lookups beside torch's dense optimizers as well.")
@click.option("--rounds", type=click.IntRange(min=2), default=11, help="Timed rounds, after two that are not.")
@click.option("--memory/--no-memory", default=True, help="Measure peak memory, in processes of their own.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the order of contestants in a round.")
@click.option("--busy", is_flag=True, help="Run even though others are busy on this machine.")
@click.option("--from", "sources", type=existing, multiple=True, help="Report these JSON files; measure nothing.")
@click.option("--against", type=existing, help="Fail where ratios are worse than in this older JSON file.")
@click.option("--json", "json_file", type=output(), help="Keep the records, in pytest-benchmark's JSON.")
@click.option("--html", "html_file", type=output(".html"), help="Write the report as one HTML file.")
@click.option("--plot", "plot_file", type=output(".svg", ".png", ".pdf"), help="Draw time and memory over density.")
@click.option("--markdown", "markdown_file", type=output(".md"), help="Write the report as Markdown.")
def bench(
    busy: bool, sources: tuple[Path, ...], against: Path | None, json_file: Path | None, html_file: Path | None,
    plot_file: Path | None, markdown_file: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Measure sparsetrain beside other engines.

    Each contestant runs in a process of its own, must agree with a float64 oracle before it is timed, and takes
    turns with the others. Those that are not installed are shown as missing: `make bench-peers` installs them.

    \b
    sparsetrain bench --json layers.json --html layers.html
    sparsetrain bench --shape 1024x1024x128 --density 0.1 --engine dense --engine SparseProp
    sparsetrain bench --preset lookup --threads 2 --law zipf
    sparsetrain bench --from layers.json --markdown bench.md
    sparsetrain bench --from layers.json --against bench/results/0.1.0/layers-2.json
    """
    _need(*([] if sources else ["pytest_benchmark"]), *(["jinja2"] if html_file else []),
          *(["matplotlib"] if html_file or plot_file else []))  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sparsetrain-bench-") as folder:
        if not sources:
            records = (json_file or Path(folder) / "records.json").absolute()
            _run(Settings(**options), records, busy)
            sources = (records,)
        try:
            report = build(read(sources))
        except RecordsError as error:
            raise click.ClickException(str(error)) from None
    click.echo(plain(report))
    _write(report, html_file, markdown_file, plot_file)
    wrong = [record for record in report.records if record.contestant == OURS and record.state]
    if wrong:
        raise click.ClickException(f"sparsetrain itself {wrong[0].state} ({wrong[0].family}, {wrong[0].panel}).")
    if against:
        _compare(against, report)


def _compare(older: Path, report: Report) -> None:
    """End with an error where we have become slower beside the same rivals."""
    try:
        found = slowdowns(read([older]), report.records)
    except RecordsError as error:
        raise click.ClickException(str(error)) from None
    click.echo(verdict(found))
    if slower := regressions(found):
        raise click.ClickException(f"Slower than in {older}: {'; '.join(each.title for each in slower)}.")


def _need(*modules: str) -> None:
    """End with one line of advice unless these modules are installed."""
    missing = [module for module in modules if not installed(module)]
    if missing:
        raise click.ClickException(f"This needs {' and '.join(missing)}. {installed_by(*missing)}")


def _write(report: Report, html_file: Path | None, markdown_file: Path | None, plot_file: Path | None) -> None:
    """The report in the formats that were asked for."""
    if html_file:
        files.write(html_file, partial(_write_text, html(report)))
    if markdown_file:
        files.write(markdown_file, partial(_write_text, markdown(report)))
    if plot_file:
        files.write(plot_file, lambda file: draw(report.records, file, plot_file.suffix))
    for path in (html_file, markdown_file, plot_file):
        if path:
            click.echo(f"Wrote {path}.")


def _write_text(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def _run(settings: Settings, records: Path, busy: bool) -> None:
    """Have pytest run the settings' cases and write the records."""
    reason = "" if busy else too_busy()
    if reason:
        raise click.ClickException(reason)
    command = [
        sys.executable, "-m", "pytest", str(BENCHMARK), "-c", os.devnull, "--rootdir", str(BENCHMARK.parent),
        "--import-mode", "importlib", "-p", "sparsetrain_bench.plugin", "-p", "no:cacheprovider", "-q", "--no-header",
        "--capture", "no", "--disable-warnings",
        "--benchmark-quiet", "--benchmark-json", str(records), "--bench-settings", settings.to_json(),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=STDERR, check=False)
    if done.returncode not in RAN or not records.exists():
        raise click.ClickException("Nothing was measured; what pytest said is above.")
