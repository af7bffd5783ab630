"""A training step of a table on several ranks: rows spread over them, or a copy on each under DistributedDataParallel.

    python bench/sharded_table.py [--ranks 2] [--rows 10000 100000 1000000] [--dim 64] [--ids 4096] [--rounds 15]

Each rank draws ids of its own, from all rows alike. Implementations take turns in each round. Bytes are what a rank
writes in a step, to files and sockets, as Linux counts it; milliseconds are processor time of all its threads, and
elapsed time; all are medians over rounds, of rank 0. MB held are the table's on one rank.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparsetrain as st


def sharded(rows: int, dim: int) -> tuple[nn.Module, Any]:
    """Our table, of which each process holds some rows."""
    table = st.distributed.ShardedLookupTable(rows, dim)
    return table, st.optim.SGD(table.parameters(), lr=0.1)


def copied(rows: int, dim: int) -> tuple[nn.Module, Any]:
    """Our table, a copy in each process."""
    table = st.nn.LookupTable(rows, dim)
    return DistributedDataParallel(table), st.optim.SGD(table.parameters(), lr=0.1)


def embedding(rows: int, dim: int) -> tuple[nn.Module, Any]:
    """torch's table, a copy in each process."""
    table = nn.Embedding(rows, dim, sparse=True)
    return DistributedDataParallel(table), torch.optim.SGD(table.parameters(), lr=0.1)


MAKERS: dict[str, Callable[[int, int], tuple[nn.Module, Any]]] = {
    "ShardedLookupTable": sharded,
    "DDP(LookupTable)": copied,
    "DDP(nn.Embedding, sparse)": embedding,
}


def written() -> int:
    """Bytes that this process has written so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


def step(model: nn.Module, optimizer: Any, ids: Tensor) -> tuple[float, float, float]:
    """Bytes, processor time and elapsed time of one step."""
    dist.barrier()
    before = written(), time.process_time(), time.perf_counter()
    optimizer.zero_grad()
    model(ids).square().sum().backward()
    optimizer.step()
    after = written(), time.process_time(), time.perf_counter()
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def measure(rank: int, options: argparse.Namespace, folder: str) -> None:
    """What one process does; the first prints."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=options.ranks)
    for rows in options.rows:
        trainings = {name: make(rows, options.dim) for name, make in MAKERS.items()}
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in trainings}
        order, generator = random.Random(0), torch.Generator().manual_seed(rank)  # one order for all processes
        for turn in range(options.rounds + 2):
            ids = torch.randint(rows, (options.ids,), generator=generator)
            for name in order.sample(list(trainings), len(trainings)):
                measured = step(*trainings[name], ids)
                if turn >= 2:  # the wrapper forms its buckets anew after the first step
                    results[name].append(measured)
        for name, (model, _) in trainings.items() if rank == 0 else ():
            size, cpu, elapsed = (statistics.median(column) for column in zip(*results[name], strict=True))
            memory = sum(p.nbytes for p in model.parameters())
            print(
                f"{rows:>10,}  {name:26}{size / 1e6:>9.3f}{1e3 * cpu:>9.2f}{1e3 * elapsed:>9.2f}{memory / 1e6:>11.2f}",
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(f"{options.ranks} processes, {options.ids} ids in each, dim {options.dim}, SGD, {options.rounds} rounds")
    print(f"{'rows':>10}  {'table':26}{'MB sent':>9}{'cpu ms':>9}{'wall ms':>9}{'MB held':>11}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, args=(options, folder), nprocs=options.ranks, join=True)  # type: ignore[attr-defined,no-untyped-call]


if __name__ == "__main__":
    main()
