"""Edges that change while a network trains: accuracy, time and memory beside static, masked and dense networks.

    python bench/evolving_edges.py published [--epochs 400] [--seeds 5] [--kinds set static dense]
    python bench/evolving_edges.py fashion   [--density 0.05 0.01] [--epochs 20] [--seeds 3]
    python bench/evolving_edges.py convolutional [--density 0.1] [--epochs 10] [--seeds 3] [--kinds static rigl dense]
    python bench/evolving_edges.py pruning   [--epochs 12] [--plot FILE]
    python bench/evolving_edges.py scale     [--width 600000]

published: 5,000 training and 1,000 test images of Fashion-MNIST, 784-1000-1000-1000-10, Erdos-Renyi edges of
epsilon 13, with the options of the published code of SET (batch 40, dropout 0.2, SGD with momentum 0.9 and lr 0.05,
weights shrunk by 2e-4 at each step, He-uniform values, edges replaced after each epoch but in the last layer).
fashion: all images, 784-1000-1000-10, batch 128, torch's Adam; rules, their masked twins, and dense. A kind such as
"set counted" has sparsetrain.optim.Adam, which counts the steps of newborn edges from birth.
convolutional: the same with two convolutions of 3 x 3, to 32 and 64 channels, each normalized and pooled, and
3136-256-256-10; the first convolution is dense, and the others share the density by "erk", as RigL's authors do.
pruning: gradual magnitude pruning from density 1.0 to 0.05, epoch by epoch.
scale: 3312-w-w-w-5 with epsilon 20, batch 2: one step and one SET update.

Every network is a process of its own. Seconds are those of training steps and updates, without evaluation.
"""

import argparse
import json
import math
import multiprocessing
import resource
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sparsetrain_bench.peak import forget_peak
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsetrain import data, evolve, optim, patterns
from sparsetrain.backends.dense_products import fastest_precision
from sparsetrain.cli import memory
from sparsetrain.cli.environment import surroundings
from sparsetrain.nn import MaskedLinear, SparseConv2d, SparseLinear

Record = dict[str, Any]


def main() -> None:
    args = parse()
    records = []
    for job in jobs(args):
        # spawned anew for each, so that no memory is another's
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            record = pool.submit(RUNS[args.what], job).result()
        records.append(record)
        print(json.dumps({name: value for name, value in record.items() if name != "epochs"}), flush=True)
    table(records)
    if args.json:
        args.json.write_text(json.dumps({"surroundings": surroundings(), "records": records}, indent=1))
    if args.what == "pruning" and args.plot:
        draw(records[0]["epochs"], args.plot)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(RUNS))
    parser.add_argument("--epochs", type=int, help="400, 20 or 12 by default")
    parser.add_argument("--seeds", type=int, help="how many, 5 or 3 by default")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samples", type=int, help="training images, by default as said above")
    parser.add_argument("--width", type=int, help="of hidden layers, 1000 or 600000 by default")
    parser.add_argument("--density", nargs="*", type=float, help="0.05 and 0.01 by default, 0.1 of convolutions")
    parser.add_argument("--kinds", nargs="*", help="which networks, by default all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="pruning: draw the curves to this file")
    return parser.parse_args()


def seeds(args: argparse.Namespace, usual: int) -> range:
    return range(args.first_seed, args.first_seed + (args.seeds or usual))


def jobs(args: argparse.Namespace) -> list[Record]:
    """One for each network that is trained, as they take turns."""
    common = {"threads": args.threads, "samples": args.samples}
    if args.what == "published":
        kinds = args.kinds or ["set", "static", "dense"]
        options = {"epochs": args.epochs or 400, "width": args.width or 1000}
        return [common | options | {"kind": k, "seed": s} for k in kinds for s in seeds(args, 5)]
    if args.what == "fashion":
        kinds = args.kinds or ["static", "set", "rigl", "gmp", "set masked", "rigl masked", "gmp masked"]
        options = {"epochs": args.epochs or 20, "width": args.width or 1000}
        cases = [(kind, density) for density in args.density or [0.05, 0.01] for kind in kinds]
        cases += [] if args.kinds else [("dense", 1.0)]
        return [common | options | {"kind": k, "density": d, "seed": s} for s in seeds(args, 3) for k, d in cases]
    if args.what == "convolutional":
        options = {"epochs": args.epochs or 10, "convolutional": True}
        cases = [(kind, density) for density in args.density or [0.1] for kind in args.kinds or ["static", "rigl"]]
        cases += [] if args.kinds else [("dense", 1.0)]
        return [common | options | {"kind": k, "density": d, "seed": s} for s in seeds(args, 3) for k, d in cases]
    if args.what == "pruning":
        return [
            common
            | {"kind": "gmp", "epochs": args.epochs or 12, "width": args.width or 1000, "density": 0.05, "seed": 0}
        ]
    return [common | {"width": args.width or 600_000}]


# ---- the published setting of SET ------------------------------------------------------------------------------------


def published(job: Record) -> Record:
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    images = subset(data.load("fashion"), job["samples"] or 5000, 1000)
    before = forget_peak()
    sizes = (784, job["width"], job["width"], job["width"], 10)
    layers: list[Any] = [erdos_renyi_layer(i, o, job["kind"] == "dense") for i, o in pairwise(sizes)]
    model = nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU(), nn.Dropout(0.2))), layers[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    steps = len(images[0]) // 40
    evolver = None
    if job["kind"] == "set":
        schedule = evolve.Constant(interval=steps, start=steps, stop=steps * (job["epochs"] - 1), prune_fraction=0.3)
        evolver = evolve.Evolver(model, optimizer, HeUniformSET(), schedule, layers=["0", "3", "6"])
    parameters: list[Tensor] = list(model.parameters())

    def shrink() -> None:
        with torch.no_grad():
            torch._foreach_mul_(parameters, 1 - 2e-4)

    accuracies, seconds = train(model, optimizer, evolver, images, 40, job["epochs"], shrink)
    return (
        job
        | {
            "edges": sum(layer.weight.numel() if job["kind"] == "dense" else layer.topology.nnz for layer in layers),
            "epochs": accuracies,
        }
        | summary(accuracies, seconds, before)
    )


class HeUniformSET(evolve.SET):
    """SET whose newborn edges start as the published code has it, by the number of inputs and not of edges."""

    def start(self, layer: evolve.Layer, edit: Any) -> Tensor:
        limit = math.sqrt(6 / layer.shape[1])
        born = torch.empty(edit.grown.numel(), dtype=layer.values.dtype)
        return born.uniform_(-limit, limit, generator=layer.generator)


def erdos_renyi_layer(inputs: int, outputs: int, dense: bool) -> nn.Module:
    layer: Any
    if dense:
        layer = nn.Linear(inputs, outputs)
    else:
        layer = SparseLinear(inputs, outputs, topology=patterns.erdos_renyi((outputs, inputs), epsilon=13))
    limit = math.sqrt(6 / inputs)
    nn.init.uniform_(layer.weight if dense else layer.values, -limit, limit)
    nn.init.zeros_(layer.bias)
    return layer  # type: ignore[no-any-return]


# ---- all of Fashion-MNIST --------------------------------------------------------------------------------------------


def fashion(job: Record) -> Record:
    torch.set_num_threads(job["threads"])
    torch.set_float32_matmul_precision(fastest_precision())  # the masked and the dense products
    torch.manual_seed(job["seed"])
    images = subset(data.load("fashion"), job["samples"] or 60_000, 10_000)
    before = forget_peak()
    rule, *how = job["kind"].split()
    masked, counted = "masked" in how, "counted" in how
    density = 1.0 if rule == "gmp" else job["density"]
    generator = torch.Generator().manual_seed(job["seed"])
    if "convolutional" in job:
        model = convolutional(None if rule == "dense" else density, generator)
    else:
        sizes = (784, job["width"], job["width"], 10)
        model = perceptron(sizes, [None if rule == "dense" else density] * 3, masked, generator)
    optimizer = (optim.Adam if counted else torch.optim.Adam)(model.parameters(), lr=1e-3)
    steps = len(images[0]) // 128 * job["epochs"]
    stop = max(1, 3 * steps // 4)
    rules: dict[str, evolve.Rule] = {"set": evolve.SET(), "rigl": evolve.RigL(), "gmp": evolve.GMP()}
    interval = max(1, min(100, stop // 4))
    schedule: evolve.Schedule = evolve.Cosine(interval=interval, start=interval, stop=stop, prune_fraction=0.3)
    if rule == "gmp":
        schedule = evolve.Cubic(interval=interval, start=interval, stop=stop, final_density=job["density"])
    evolver = evolve.Evolver(model, optimizer, rules[rule], schedule, generator=generator) if rule in rules else None
    epochs: list[Record] = []
    accuracies, seconds = train(model, optimizer, evolver, images, 128, job["epochs"], notes=epochs)
    return job | summary(accuracies, seconds, before) | {"epochs": epochs}


def perceptron(
    sizes: tuple[int, ...], densities: Sequence[float | None], masked: bool, generator: torch.Generator
) -> nn.Sequential:
    layers: list[Any] = [
        nn.Linear(i, o) if density is None else SparseLinear(i, o, density=density, generator=generator)
        for (i, o), density in zip(pairwise(sizes), densities, strict=True)
    ]
    if masked:
        layers = [MaskedLinear.from_sparse(layer, form="forward") for layer in layers]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def convolutional(density: float | None, generator: torch.Generator) -> nn.Sequential:
    sizes = (3136, 256, 256, 10)
    shapes = [(64, 32, 3, 3), *((o, i) for i, o in pairwise(sizes))]
    densities = [None] * 4 if density is None else patterns.allocate(shapes, density, "erk")
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    for i, o, part in ((1, 32, None), (32, 64, densities[0])):
        if part is None:
            layers.append(nn.Conv2d(i, o, 3, padding=1, bias=False))
        else:
            layers.append(SparseConv2d(i, o, 3, padding=1, bias=False, density=part, generator=generator))
        layers += [nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), *perceptron(sizes, densities[1:], False, generator))


# ---- what they share -------------------------------------------------------------------------------------------------

Images = tuple[Tensor, Tensor, Tensor, Tensor]


def subset(images: data.DataSet, train: int, test: int) -> Images:
    """So many images at random, the same ones for every seed: those that the published code of SET takes."""
    shuffled = np.random.RandomState(0)
    of_train, of_test = (
        torch.from_numpy(shuffled.permutation(len(y))) for y in (images.train_labels, images.test_labels)
    )
    of_train, of_test = of_train[:train], of_test[:test]
    return (
        images.train_images[of_train].float(), images.train_labels[of_train],
        images.test_images[of_test].float(), images.test_labels[of_test],
    )  # fmt: skip


def train(
    model: nn.Sequential, optimizer: Any, evolver: evolve.Evolver | None, images: Images, batch: int, epochs: int,
    after: Any = None, notes: list[Record] | None = None,
) -> tuple[list[float], float]:  # fmt: skip
    """Accuracy after each epoch, and seconds of training."""
    x, y, test_x, test_y = images
    model(x[:batch])  # kernels are compiled before time counts
    cross_entropy(model(x[:batch]), y[:batch]).backward()  # type: ignore[no-untyped-call]
    accuracies, total = [], 0.0
    for _ in range(epochs):
        order = torch.randperm(len(y))[: len(y) // batch * batch].view(-1, batch)
        model.train()
        start = perf_counter()
        for index in order:
            optimizer.zero_grad()
            cross_entropy(model(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if after is not None:
                after()
            if evolver is not None:
                evolver.step()
        seconds = perf_counter() - start
        total += seconds
        model.eval()
        with torch.no_grad():
            answers = torch.cat([model(part).argmax(1) for part in torch.split(test_x, 500)])
        accuracies.append(100 * float((answers == test_y).float().mean()))
        if notes is not None:
            notes.append({"accuracy": accuracies[-1], "seconds": seconds} | sizes_of(model, optimizer))
    return accuracies, total


def summary(accuracies: list[float], seconds: float, before: int) -> Record:
    """Memory is what the process took beyond libraries and images, and the whole peak."""
    taken = (memory.peak() - before) / 2**20
    return {"best": max(accuracies), "last": accuracies[-1], "seconds": seconds, "taken_mb": taken, "peak_mb": peak()}


def sizes_of(model: nn.Sequential, optimizer: Any) -> Record:
    layers = [layer for layer in model if isinstance(layer, SparseLinear | MaskedLinear)]
    held = memory.parameters(model) + memory.state(optimizer) + memory.indices(model)
    positions = sum(layer.in_features * layer.out_features for layer in layers)
    return {"density": sum(layer.topology.nnz for layer in layers) / positions if positions else 1.0, "bytes": held}


def peak() -> float:
    """Of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- a very large network --------------------------------------------------------------------------------------------


def scale(job: Record) -> Record:
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    before = peak()
    sizes = (3312, job["width"], job["width"], job["width"], 5)
    start = perf_counter()
    layers = [
        SparseLinear(i, o, topology=patterns.erdos_renyi((o, i), epsilon=20), sparse_grad=False)
        for i, o in pairwise(sizes)
    ]
    model = nn.Sequential(*(part for layer in layers[:-1] for part in (layer, nn.ReLU())), layers[-1])
    made = perf_counter() - start
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    evolver = evolve.Evolver(model, optimizer, evolve.SET(), evolve.Constant(interval=2, start=2, prune_fraction=0.3))
    x, y = torch.randn(2, 3312), torch.tensor([0, 1])
    seconds = []
    for _ in range(4):
        start = perf_counter()
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(perf_counter() - start)
        start = perf_counter()
        change = evolver.step()
        if change is not None:
            seconds.append(perf_counter() - start)
    first, second, update, after, _, again = seconds
    return job | {
        "edges": sum(layer.topology.nnz for layer in layers), "made": made, "first_step": first, "step": second,
        "update": update, "step_after": after, "second_update": again, "peak_mb": peak(), "start_mb": before,
    }  # fmt: skip


# ---- what comes out --------------------------------------------------------------------------------------------------


def table(records: list[Record]) -> None:
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault((record.get("kind", ""), record.get("density", "")), []).append(record)
    if "best" not in records[0]:
        return
    print(f"{'network':14} {'density':>8} {'best epoch':>24} {'last epoch':>24} {'seconds':>9} {'MB taken':>8}")
    for (kind, density), group in groups.items():
        best, last = ([record[name] for record in group] for name in ("best", "last"))
        spread = [f"{statistics.mean(each):.2f} ({min(each):.1f} to {max(each):.1f})" for each in (best, last)]
        seconds, taken = (statistics.median(record[name] for record in group) for name in ("seconds", "taken_mb"))
        print(f"{kind:14} {density!s:>8} {spread[0]:>24} {spread[1]:>24} {seconds:9.1f} {taken:8.0f}")


def draw(epochs: list[Record], path: Path) -> None:
    """Density, seconds and bytes of each epoch, each over its first."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    number = range(1, len(epochs) + 1)
    for name, label in (("density", "edges"), ("seconds", "time of an epoch"), ("bytes", "weights, indices and state")):
        axes.plot(number, [epoch[name] / epochs[0][name] for epoch in epochs], marker="o", label=label)
    axes.set(xlabel="epoch", ylabel="part of the first epoch", yscale="log", title="Gradual pruning on Fashion-MNIST")
    axes.legend()
    figure.savefig(path, dpi=150)


RUNS = {"published": published, "fashion": fashion, "convolutional": fashion, "pruning": fashion, "scale": scale}

if __name__ == "__main__":
    main()
