"""A first layer over one-hot features: sparse_grad=True beside the plain sparse layer and a dense one, whole steps.

    python bench/used_columns.py [--inputs 100000] [--outputs 256] [--density 0.05] [--batch 64] [--features 10]

Each sample has a few features that are one, of many. The outputs of all must agree before they are timed.
"""

import argparse
import os
import random
from collections.abc import Callable

import torch
from sparsetrain_bench.rounds import measure, quartiles, ratio
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.backends.dense_products import fastest_precision


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--outputs", type=int, default=256)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--features", type=int, default=10, help="that are one in each sample")
    parser.add_argument("--rounds", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(fastest_precision())
    t = st.patterns.uniform((args.outputs, args.inputs), args.density)
    used = st.nn.SparseLinear(args.inputs, args.outputs, topology=t, sparse_grad=True)
    plain = st.nn.SparseLinear(args.inputs, args.outputs, topology=t)
    plain.load_state_dict(used.state_dict())
    contestants: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {
        "sparse_grad, st Adam": (used, st.optim.Adam(used.parameters())),
        "sparse, torch Adam": (plain, torch.optim.Adam(plain.parameters(), fused=True)),
    }
    if args.inputs * args.outputs <= 50_000_000:
        dense = plain.to_dense()
        contestants["dense, torch Adam"] = (dense, torch.optim.Adam(dense.parameters(), fused=True))
    x, dy = torch.zeros(args.batch, args.inputs), torch.randn(args.batch, args.outputs)

    def draw() -> None:
        x.zero_()
        x[torch.arange(args.batch)[:, None], torch.randint(args.inputs, (args.batch, args.features))] = 1

    draw()
    expected = plain(x)
    for name, (layer, _) in contestants.items():
        if not torch.allclose(layer(x), expected, rtol=1e-4, atol=1e-5):
            raise SystemExit(f"{name}: its output differs; not timed.")

    def stepping(layer: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
        def step() -> Tensor:
            optimizer.zero_grad()
            y: Tensor = layer(x)
            torch.autograd.backward(y, dy)
            optimizer.step()
            return y

        return step

    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    steps = {name: stepping(*pair) for name, pair in contestants.items()}
    for k in range(args.rounds + 3):
        draw()
        for name, run in measure(steps, 1, order, warmup=0).items():
            times[name] += run if k >= 3 else []
    print(
        f"{args.inputs} -> {args.outputs}, {t.nnz} edges, batch {args.batch} of {args.features}, "
        f"load {os.getloadavg()[0]:.2f}"
    )
    mine = times["sparse_grad, st Adam"]
    for name, run in times.items():
        low, middle, high = (1e3 * seconds for seconds in quartiles(run))
        print(f"  {name:22s} {middle:8.2f} ms ({low:.2f} to {high:.2f})  {ratio(run, mine):6.2f} x")


if __name__ == "__main__":
    main()
