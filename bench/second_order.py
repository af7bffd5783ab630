"""A damped Gauss-Newton step where few rows of a table are used: time and memory over the size of the table.

    python bench/second_order.py [--rows 10000 100000 1000000] [--used 1000] [--dim 64] [--iterations 10]

sparsetrain: conjugate gradients with st.curvature.ggn, over the used rows; HessianFree: a whole step of the optimizer;
curvlinops, where it is installed (pip install curvlinops-for-pytorch): its Gauss-Newton matrix over the whole table.
All with as many iterations, each in a process of its own. The steps must agree on the used rows.
"""

import argparse
import gc
import json
import multiprocessing
import random
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sparsetrain_bench.peak import forget_peak
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import sparsetrain as st
from sparsetrain.cli import memory
from sparsetrain.cli.environment import surroundings
from sparsetrain.curvature import ggn

CLASSES, DAMPING, BAG = 10, 0.1, 4


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--used", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=10, help="of conjugate gradients")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    args = parse()
    records = table(args)
    if args.json:
        args.json.write_text(json.dumps({"surroundings": surroundings(), "records": records}, indent=1))


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    ours = ["sparsetrain", "HessianFree"]
    cases = [(e, rows) for rows in args.rows for e in [*ours, *(["curvlinops"] if find_spec("curvlinops") else [])]]
    found: dict[Any, list[tuple[float, float, Tensor]]] = {case: [] for case in cases}
    order = random.Random(0)
    for _ in range(args.rounds):
        for case in order.sample(cases, len(cases)):
            # spawned anew for each, so that no memory is another's
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[case].append(pool.submit(one_step, *case, args).result())
    records = []
    print(f"{'':12} {'rows':>10} {'ms a step':>10} {'MB taken':>10}")
    for engine, rows in cases:
        seconds, taken, steps = zip(*found[engine, rows], strict=True)
        if engine != "HessianFree" and not torch.allclose(steps[0], found[cases[0]][0][2], rtol=1e-3, atol=1e-5):
            raise SystemExit(f"{engine}, {rows} rows: its step differs; not shown.")
        record = {"engine": engine, "rows": rows, "seconds": seconds, "mb": taken}
        print(f"{engine:12} {rows:>10,} {1e3 * statistics.median(seconds):>10.1f} {statistics.median(taken):>10.1f}")
        records.append(record)
    return records


def one_step(engine: str, rows: int, args: argparse.Namespace) -> tuple[float, float, Tensor]:
    """Seconds of a step, MB by which the peak rose in it, and the step of the used rows, which are the same numbers in
    every table."""
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    used = torch.randperm(rows, generator=generator)[: args.used].sort().values
    generator.manual_seed(1)
    ids = used[torch.randperm(args.used, generator=generator)].view(-1, BAG)
    y = torch.randint(CLASSES, (len(ids),), generator=generator)
    torch.manual_seed(2)
    head = nn.Linear(args.dim, CLASSES)
    start = torch.randn(args.used, args.dim, generator=generator)
    body = MeanOfRows(rows, args.dim) if engine == "curvlinops" else st.nn.LookupTable(rows, args.dim, pool="mean")
    with torch.no_grad():
        body.weight[used] = start
    model, step = nn.Sequential(body, head), STEPS[engine]
    step(model, ids, y, args.iterations)  # kernels are loaded
    with torch.no_grad():
        body.weight[used] = start
    gc.collect()
    before, begun = forget_peak(), perf_counter()
    found = step(model, ids, y, args.iterations)
    seconds = perf_counter() - begun
    return seconds, (memory.peak() - before) / 2**20, found if len(found) == args.used else found[used].clone()


class MeanOfRows(nn.Embedding):
    """What nn.EmbeddingBag gives, which has no forward-mode derivative."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).mean(1)


def of_sparsetrain(model: nn.Sequential, ids: Tensor, y: Tensor, iterations: int) -> Tensor:
    """The damped Gauss-Newton step of the used rows."""
    operator = ggn(model, cross_entropy, (ids, y))
    step = solved(operator.to_scipy(), operator.gradient(), iterations)
    return operator.entries.split(step)["0.weight"]


def of_curvlinops(model: nn.Sequential, ids: Tensor, y: Tensor, iterations: int) -> Tensor:
    """The damped Gauss-Newton step of the whole table."""
    curvlinops = import_module("curvlinops")

    parameters = list(model.parameters())
    model.zero_grad()
    cross_entropy(model(ids), y).backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    operator = curvlinops.GGNLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, [(ids, y)], check_deterministic=False
    )
    step = solved(operator.to_scipy(dtype=np.float32), gradient, iterations)
    return step[: parameters[0].numel()].view_as(parameters[0])


def solved(operator: Any, gradient: Tensor, iterations: int) -> Tensor:
    """So many iterations of scipy's conjugate gradients on (G + damping) x = -g."""
    from scipy.sparse.linalg import LinearOperator, cg

    damped = LinearOperator(operator.shape, matvec=lambda v: operator @ v + DAMPING * v, dtype=operator.dtype)
    return torch.from_numpy(cg(damped, -gradient.numpy(), rtol=0.0, maxiter=iterations)[0])


def of_optimizer(model: nn.Sequential, ids: Tensor, y: Tensor, iterations: int) -> Tensor:
    """A whole step of HessianFree, with all that belongs to it."""
    options = {"damping": DAMPING, "iterations": iterations, "tolerance": 0.0}
    optimizer = st.optim.HessianFree(model.parameters(), **options)  # type: ignore[arg-type]
    optimizer.step(lambda: model(ids), lambda z: cross_entropy(z, y))
    kept: Tensor = optimizer.state[next(model.parameters())]["direction"]
    return kept


STEPS: dict[str, Callable[..., Tensor]] = {
    "sparsetrain": of_sparsetrain,
    "HessianFree": of_optimizer,
    "curvlinops": of_curvlinops,
}


if __name__ == "__main__":
    main()
