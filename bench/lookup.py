"""Steps of a lookup table: forward, backward and update, ours beside torch's optimizers and FBGEMM's, interleaved.

    python bench/lookup.py [--rows 1000000] [--dim 64] [--ids 65536] [--law uniform zipf] [--rounds 20] [--threads 2]
    python bench/lookup.py --ids 4096 --dense            # beside dense gradients as well
    python bench/lookup.py --rows 10000000 --ours        # ours alone, for large tables

Every contestant makes three steps over the same rows first, and must agree with torch's dense optimizer over just these
rows in float64. FBGEMM is optional (pip install fbgemm-gpu-cpu, 1.8.0 with torch 2.13); else it shows as missing.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=65_536, help="looked up in a step")
    parser.add_argument("--bag", type=int, default=16, help="ids that are pooled together")
    parser.add_argument("--law", nargs="*", default=["uniform", "zipf"], choices=["uniform", "zipf"])
    parser.add_argument("--dense", action="store_true", help="torch's dense Adam (fused) and RMSprop as well")
    parser.add_argument("--ours", action="store_true", help="ours alone")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


ARGS = parse()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = str(ARGS.threads)  # before the first import that reads them

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rounds import measure, quartiles, ratio  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import sparsetrain as st  # noqa: E402

LR, EPS = 0.01, 1e-15  # SparseAdam puts it in another place, where this small it makes no difference
Optimize = Callable[[Any], torch.optim.Optimizer]


class Contestant:
    """A table with an optimizer: ``step`` looks up ids and trains the rows by the gradient of their output."""

    def __init__(self, pooled: bool, weight: Tensor) -> None:
        self.pooled, self.weight = pooled, weight

    def step(self, ids: Tensor, dy: Tensor) -> None:
        raise NotImplementedError


class Module(Contestant):
    """A module of torch's kind and an optimizer."""

    def __init__(self, module: Any, optimize: Optimize, pooled: bool = False) -> None:
        super().__init__(pooled, module.weight.detach())
        self.module, self.optimizer = module, optimize(module.parameters())

    def step(self, ids: Tensor, dy: Tensor) -> None:
        self.optimizer.zero_grad()
        self.module(ids.view(-1, ARGS.bag) if self.pooled else ids).backward(dy)
        self.optimizer.step()


class Fbgemm(Contestant):
    """FBGEMM's table, which updates itself inside backward."""

    def __init__(self, optimizer: str, pooled: bool) -> None:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        self.module = SplitTableBatchedEmbeddingBagsCodegen(
            [(ARGS.rows, ARGS.dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
            optimizer=EmbOptimType[optimizer], learning_rate=LR, eps=EPS,
            pooling_mode=PoolingMode.SUM if pooled else PoolingMode.NONE,
        )  # fmt: skip
        weight = self.module.split_embedding_weights()[0].detach()
        weight.normal_()
        super().__init__(pooled, weight)
        bag = ARGS.bag if pooled else 1
        self.offsets = torch.arange(0, ARGS.ids + 1, bag)

    def step(self, ids: Tensor, dy: Tensor) -> None:
        self.module(ids, self.offsets).backward(dy)


def table(**options: Any) -> st.nn.LookupTable:
    return st.nn.LookupTable(ARGS.rows, ARGS.dim, **options)


def ours(optimize: Optimize, pooled: bool = False) -> Callable[[], Contestant]:
    return lambda: Module(table(pool="sum" if pooled else None), optimize, pooled)


def torchs(optimize: Optimize, sparse: bool = True, pooled: bool = False) -> Callable[[], Contestant]:
    def make() -> Contestant:
        kind = nn.EmbeddingBag(ARGS.rows, ARGS.dim, mode="sum", sparse=sparse) if pooled else None
        return Module(kind or nn.Embedding(ARGS.rows, ARGS.dim, sparse=sparse), optimize, pooled)

    return make


# by rule: who takes part; the first is ours, to which the others are compared
RACES: dict[str, dict[str, Callable[[], Contestant]]] = {
    "Adam": {
        "st.optim.Adam": ours(lambda p: st.optim.Adam(p, LR, eps=EPS)),
        "SparseAdam": torchs(lambda p: torch.optim.SparseAdam(list(p), LR, eps=EPS)),
    },
    "RMSprop": {
        "st.optim.RMSprop": ours(lambda p: st.optim.RMSprop(p, LR, eps=EPS)),
        "SparseAdam": torchs(lambda p: torch.optim.SparseAdam(list(p), LR, eps=EPS)),
    },
    "Adagrad": {
        "st.optim.Adagrad": ours(lambda p: st.optim.Adagrad(p, LR, eps=EPS)),
        "torch Adagrad": torchs(lambda p: torch.optim.Adagrad(p, LR, eps=EPS, foreach=False)),
    },
    "Adagrad, pooled": {
        "st.optim.Adagrad": ours(lambda p: st.optim.Adagrad(p, LR, eps=EPS), pooled=True),
        "FBGEMM": lambda: Fbgemm("EXACT_ADAGRAD", pooled=True),
    },
    "row-wise Adagrad": {
        "st.optim.Adagrad": ours(lambda p: st.optim.Adagrad(p, LR, eps=EPS, rowwise=True)),
        "FBGEMM": lambda: Fbgemm("EXACT_ROWWISE_ADAGRAD", pooled=False),
    },
    "row-wise Adagrad, pooled": {
        "st.optim.Adagrad": ours(lambda p: st.optim.Adagrad(p, LR, eps=EPS, rowwise=True), pooled=True),
        "FBGEMM": lambda: Fbgemm("EXACT_ROWWISE_ADAGRAD", pooled=True),
    },
}
if ARGS.dense:
    RACES["Adam"]["dense Adam, fused"] = torchs(lambda p: torch.optim.Adam(p, LR, eps=EPS, fused=True), sparse=False)
    RACES["RMSprop"]["dense RMSprop"] = torchs(lambda p: torch.optim.RMSprop(p, LR, eps=EPS), sparse=False)


def draw(law: str, generator: np.random.Generator) -> Callable[[], Tensor]:
    """A source of ids: every row alike, or the row of rank r in proportion to r**-1.05, ranks in any order."""
    if law == "uniform":
        return lambda: torch.from_numpy(generator.integers(0, ARGS.rows, ARGS.ids))
    share = np.cumsum(np.arange(1, ARGS.rows + 1) ** -1.05)
    row_of_rank = generator.permutation(ARGS.rows)
    return lambda: torch.from_numpy(row_of_rank[np.searchsorted(share, generator.random(ARGS.ids) * share[-1])])


def check(rule: str, name: str, contestant: Contestant) -> None:
    """Three steps over the same ids agree with the dense optimizer, in float64, over the rows of just these ids."""
    torch.manual_seed(1)
    ids = torch.randint(ARGS.rows, (ARGS.ids,))
    rows, places = torch.unique(ids, return_inverse=True)
    small = nn.Parameter(contestant.weight[rows].double())
    kind = rule.split(",")[0].removeprefix("row-wise ")
    kind = "Adam" if name == "SparseAdam" else kind
    optimizer = getattr(torch.optim, kind)([small], LR, eps=EPS)
    squares = torch.zeros(len(rows), 1, dtype=torch.float64)
    for _ in range(3):
        dy = torch.randn(ARGS.ids // ARGS.bag if contestant.pooled else ARGS.ids, ARGS.dim)
        contestant.step(ids, dy)
        each = dy.double().repeat_interleave(ARGS.bag, 0) if contestant.pooled else dy.double()
        small.grad = torch.zeros_like(small).index_add_(0, places, each)
        if rule.startswith("row-wise"):
            squares += small.grad.square().mean(1, keepdim=True)
            small.data -= LR * small.grad / (squares.sqrt() + EPS)
        else:
            optimizer.step()
    error = float((contestant.weight[rows].double() - small.detach()).abs().max())
    if not error < 1e-5:
        sys.exit(f"{rule}, {name}: off by {error:.1e} from the dense optimizer; not timed.")


def race(rule: str, law: str) -> None:
    torch.manual_seed(0)
    made: dict[str, Contestant] = {}
    compiled: dict[str, float] = {}
    for k, (name, make) in enumerate(RACES[rule].items()):
        if ARGS.ours and k:
            continue
        try:
            made[name] = make()
        except ImportError:
            print(f"  {name}: missing")
            continue
        start = time.perf_counter()
        check(rule, name, made[name])
        compiled[name] = time.perf_counter() - start
    source = draw(law, np.random.default_rng(2))
    shared: dict[str, Tensor] = {}

    def stepping(contestant: Contestant) -> Callable[[], None]:
        return lambda: contestant.step(shared["ids"], shared["bags" if contestant.pooled else "dy"])

    steps = {name: stepping(contestant) for name, contestant in made.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for k in range(ARGS.rounds + 5):
        shared["ids"] = source()
        shared["dy"], shared["bags"] = torch.randn(ARGS.ids, ARGS.dim), torch.randn(ARGS.ids // ARGS.bag, ARGS.dim)
        for name, run in measure(steps, 1, warmup=0).items():
            times[name] += run if k >= 5 else []
    mine = times[next(iter(times))]
    for name, run in times.items():
        low, middle, high = (1e3 * seconds for seconds in quartiles(run))
        print(f"  {name:20s} {middle:8.2f} ms ({low:.2f} to {high:.2f})   {ratio(run, mine):7.2f} x   "
              f"check {compiled[name]:.1f} s")  # fmt: skip


def main() -> None:
    random.seed(0)
    torch.set_num_threads(ARGS.threads)
    print(
        f"{ARGS.rows:,} rows of {ARGS.dim}, {ARGS.ids:,} ids a step, bags of {ARGS.bag}, torch {torch.__version__}, "
        f"{ARGS.threads} threads, load {os.getloadavg()[0]:.2f}, medians of {ARGS.rounds} rounds (quartiles)"
    )
    for law in ARGS.law:
        for rule in RACES:
            print(f"{rule}, {law} ids")
            race(rule, law)


if __name__ == "__main__":
    main()
