"""A change of edges, part by part, beside one training step, one dense product, and the updates of SparseLab.

    python bench/evolve_speed.py [--size 4096] [--density 0.1 0.01] [--churn 0.3] [--batch 128] [--rounds 11]

The smallest weights go (prune), and as many edges come: anywhere (grow at random), or where the gradient of the dense
weight is largest (grow by gradient). ``Edit`` makes the new topology. The updates are those of an Evolver, with all
that is carried along and remembered; "and next step" is an update and the training step after it, which makes the
plans of the new edges. A training step is forward, backward and Adam. The dense product is that of the dense
gradient. SparseLab runs where it is installed, for few rounds, as its updates take seconds. Last comes by how much
the peak of the process rises in an update.
"""

import argparse
import importlib.util
import os
import random
import statistics
from collections.abc import Callable
from typing import Any

import torch
from sparsetrain_bench.peak import forget_peak
from sparsetrain_bench.rounds import measure, quartiles
from torch import Tensor

import sparsetrain as st
from sparsetrain.backends.dense_products import fastest_precision
from sparsetrain.cli import memory
from sparsetrain.ops.edge_choice import largest_vacant, random_vacant, smallest
from sparsetrain.ops.factors import Product

PEER_ROUNDS = 3
Steps = dict[str, Callable[[], object]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="inputs and outputs of the layer")
    parser.add_argument("--density", nargs="*", type=float, default=[0.1, 0.01])
    parser.add_argument("--churn", type=float, default=0.3, help="part of the edges that goes")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def training_step(t: st.Topology, x: Tensor, dy: Tensor) -> Callable[[], object]:
    layer = st.nn.SparseLinear(t.shape[1], t.shape[0], topology=t)
    optimizer = st.optim.Adam(layer.parameters())
    x = x.clone().requires_grad_()  # as a layer within a network has it

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(layer(x), dy)
        optimizer.step()

    return step


def ours(size: int, density: float, churn: float, x: Tensor, dy: Tensor) -> Steps:
    t = st.patterns.uniform((size, size), density)
    values, changed = torch.randn(t.nnz), round(churn * t.nnz)
    pairs = [(dy.t(), x.t())]

    def prune() -> Tensor:
        return ~smallest(values.abs(), changed)

    kept = prune()
    grown = random_vacant(t, kept, changed, None)
    check(t, kept, pairs, changed)

    return {
        "training step": training_step(t, x, dy),
        "dense product": lambda: dy.t() @ x,
        "prune": prune,
        "grow at random": lambda: random_vacant(t, kept, changed, None),
        "grow by gradient": lambda: largest_vacant(t, kept, pairs, changed),
        "Edit": lambda: st.Edit(t, kept, grown),
    } | {
        f"{type(rule).__name__} update{more}": evolving(size, density, churn, x, dy, rule, bool(more))
        for rule in (st.evolve.SET(), st.evolve.RigL())
        for more in ("", " and next step")
    }


def evolving(
    size: int, density: float, churn: float, x: Tensor, dy: Tensor, rule: st.evolve.Rule, and_step: bool
) -> Callable[[], object]:
    """An update of a layer that trains, and the step after it."""
    layer = st.nn.SparseLinear(size, size, density=density)
    optimizer = st.optim.Adam(layer.parameters())
    x = x.clone().requires_grad_()

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(layer(x), dy)
        optimizer.step()

    step()
    schedule = st.evolve.Constant(interval=1, prune_fraction=churn)
    evolver = st.evolve.Evolver(layer, optimizer, rule, schedule)

    def update() -> None:
        for recorder in evolver.recorders.values():
            recorder.note(Product(dy.t(), x.detach().t()))  # as a backward pass does
        evolver.step()
        if and_step:
            step()

    return update


def check(t: st.Topology, kept: Tensor, pairs: list[tuple[Tensor, Tensor]], count: int) -> None:
    """What is timed must be right: the largest products are those of the whole, up to rounding."""
    (a, b), rows, cols = pairs[0], *largest_vacant(t, kept, pairs, count)
    whole = (a @ b.t()).abs_()
    whole[t.row.long()[kept], t.col.long()[kept]] = -1
    limit = float(whole.flatten().kthvalue(whole.numel() - count + 1).values)
    if float(whole[rows, cols].min()) < limit * (1 - 1e-4):
        raise SystemExit("largest_vacant: a position is not among the largest; not timed.")


def peers(size: int, density: float, churn: float, x: Tensor, dy: Tensor) -> Steps:
    """SparseLab's updates of a layer of its own of the same density."""
    if importlib.util.find_spec("sparselab") is None:
        return {}
    import sparselab

    def update(kind: str) -> Callable[[], object]:
        rule: Any = getattr(sparselab, kind)(sparsity=1 - density, drop_fraction=churn, seed=0)
        layer = sparselab.SparseLinear(size, size, sparsity=1 - density)
        layer.apply(rule)

        def run() -> None:
            if kind == "RigL":  # what its hooks note in a training step
                rule._captured[id(layer)] = {"X": x, "dY": dy}
            rule.update()

        return run

    return {f"SparseLab's {kind}": update(kind) for kind in ("SET", "RigL")}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(fastest_precision())
    order = random.Random(0)
    x, dy = torch.randn(args.batch, args.size), torch.randn(args.batch, args.size)
    print(
        f"torch {torch.__version__}, {args.threads} threads, load {os.getloadavg()[0]:.2f}, "
        f"medians of {args.rounds} rounds (quartiles)"
    )
    for density in args.density:
        steps = ours(args.size, density, args.churn, x, dy)
        times = measure(steps, args.rounds, order)
        times |= measure(peers(args.size, density, args.churn, x, dy), PEER_ROUNDS, order, warmup=1)
        step = statistics.median(times["training step"])
        print(f"{args.size} -> {args.size}, density {density:g}, {args.churn:.0%} churn, batch {args.batch}")
        for name, run in times.items():
            low, middle, high = quartiles(run)
            spread = f"({1e3 * low:.2f} to {1e3 * high:.2f})"
            print(f"  {name:25s} {1e3 * middle:8.2f} ms {spread}  {middle / step:6.2f} steps")
        for rule in (st.evolve.SET(), st.evolve.RigL()):
            update = evolving(args.size, density, args.churn, x, dy, rule, and_step=False)
            update()
            before = forget_peak()
            update()
            edges = round(density * args.size**2)
            rise = memory.peak() - before
            print(
                f"  {type(rule).__name__} update: peak rises by {rise / 1e6:.0f} MB, {rise / edges:.0f} bytes an edge"
            )


if __name__ == "__main__":
    main()
