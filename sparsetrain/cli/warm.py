"""``sparsetrain warm``: compile the kernels before they are needed, as a container is built for example."""

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from time import perf_counter

import click
import torch
from sparsetrain_kernels.jit import COMPILES

from .environment import cores
from .first_runs import RUNS
from .info import kernel_cache
from .options import DTYPES


@click.command()
@click.option("--dtype", "dtypes", type=click.Choice(DTYPES), multiple=True, default=("float32",), show_default=True,
              help="Of layers, or of what they compute on; can be given again.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), help="Processes side by side.  [default: one for each core]")
def warm(dtypes: tuple[str, ...], jobs: int | None) -> None:
    """Compile the kernels that layers and optimizers need, and keep them on disk.

    Programs compile what they need at their first step, and later programs find it on disk. After this command the
    first one does as well. NUMBA_CACHE_DIR names the folder, where another than the package's own is wanted.

    \b
    sparsetrain warm
    sparsetrain warm --dtype float32 --dtype bfloat16
    """
    if not COMPILES:
        raise click.UsageError("NUMBA_DISABLE_JIT is set: kernels are not compiled, and none can be kept.")
    start = perf_counter()
    runs = [(name, dtype) for dtype in dict.fromkeys(dtypes) for name in RUNS]
    workers = min(jobs or cores(), len(runs))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        started = {pool.submit(first_run, name, dtype): (name, dtype) for name, dtype in runs}
        for done, run in enumerate(as_completed(started), 1):
            name, dtype = started[run]
            click.echo(f"{done}/{len(runs)}   {name}, {dtype}: {run.result():.1f} s")
    click.echo(f"kernels in {kernel_cache()['folder']}, {perf_counter() - start:.0f} s")


def first_run(name: str, dtype: str) -> float:
    """Seconds of a run, in this process."""
    torch.set_num_threads(1)  # others compile beside it
    logging.getLogger("sparsetrain").setLevel(logging.ERROR)  # that kernels are compiled is no news here
    start = perf_counter()
    RUNS[name](getattr(torch, dtype))
    return perf_counter() - start
