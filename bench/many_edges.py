"""How many edges fit, and what one costs: bytes and nanoseconds, each figure in a process of its own.

    python bench/many_edges.py step --edges 1e8 [--optimizer adam|adam-bfloat16|momentum] [--layers 1] [--batch 16]
    python bench/many_edges.py structure --edges 1e9 [--folder .]
    python bench/many_edges.py update --edges 1e8 [--rule SET|RigL|GMP] [--optimizer momentum]
    python bench/many_edges.py indices --edges 1e7 [--batch 16]
    python bench/many_edges.py sweep --to 1e9

``step``: making layers and a training step. Each layer steps as soon as its gradient is there and gives it back, so
that one layer's gradient exists at a time. ``update``: an Evolver's, of a tenth of the edges (GMP: a quarter of
them), beside what is held with the gradient. ``structure``: drawing edges, hashing, saving and loading them.
``indices``: forward and backward passes with columns in 16 bits beside those with 32, in turns. ``sweep``: steps from
1e5 edges on, as a table. Memory is the process's high-water mark above the libraries, in units of 1e9 bytes; times are
processor seconds of one thread. ``--record FILE`` appends each figure as a line of JSON.
"""

import argparse
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sparsetrain_bench.peak import forget_peak

import sparsetrain as st
from sparsetrain import free_memory
from sparsetrain.cli import memory
from sparsetrain.structure import index_types

WIDEST = 1 << 16  # features of a layer: indices of 16 bits
DENSITY = 1e8 / WIDEST**2  # of a layer with fewer than 1e8 edges
SPARE = 1e9  # bytes that are left to others
KEPT = {"adam": 12, "adam-bfloat16": 8, "momentum": 8}  # bytes of an edge: value and state
OPTIMIZERS: dict[str, Any] = {
    "adam": lambda p: st.optim.Adam(p, fused=True),
    "adam-bfloat16": lambda p: st.optim.Adam(p, moments="bfloat16"),
    "momentum": lambda p: st.optim.SGD(p, 0.01, momentum=0.9, fused=True),
}
PLANS = 8.2  # of indices, in 16 bits where they are columns, and of plans
ROUNDS = 15
STEPS = 3  # of up to 1e8 edges, of more one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "update", "structure", "indices", "sweep"))
    parser.add_argument("--edges", type=float, default=1e7)
    parser.add_argument("--to", type=float, default=1e8)
    parser.add_argument("--optimizer", choices=KEPT, default="adam-bfloat16")
    parser.add_argument("--rule", choices=("SET", "RigL", "GMP"), default="RigL")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", default=".")
    parser.add_argument("--record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "sweep":
        sweep(options)
        return
    figures = {"step": step, "update": update, "structure": structure, "indices": indices}[options.what](options)
    figures = {"what": options.what, "edges": int(options.edges), **figures, "load": round(os.getloadavg()[0], 2)}
    print(json.dumps(figures))
    if options.record:
        with Path(options.record).open("a") as record:
            record.write(json.dumps(figures | {"command": " ".join(sys.argv), "time": time.strftime("%F %T")}) + "\n")


def step(options: argparse.Namespace) -> dict[str, Any]:
    """Layers of so many edges in a row, and steps of all."""
    each = int(options.edges) // options.layers
    features = min(WIDEST, math.ceil(math.sqrt(each / DENSITY)))
    check("step", int(options.edges), (KEPT[options.optimizer] + PLANS + 4 / options.layers) * options.edges)
    warm_up(options)
    start, (model, making) = memory.peak(), timed(lambda: layers_of(each, options.layers, features))
    made = memory.peak() - start
    train(model, options.optimizer)
    x = torch.randn(options.batch, features)
    _, first = timed(lambda: backward(model, x))
    seconds = [timed(lambda: backward(model, x))[1] for _ in range(STEPS if options.edges <= 1e8 else 1)]
    held = st.summary(model).bytes + sum(memory.state(optimizer) for optimizer in model.optimizers)
    peak, most = memory.peak() - start, statistics.median(seconds)
    return {
        "optimizer": options.optimizer, "layers": options.layers, "features": features, "batch": options.batch,
        "making_s": round(making, 1), "making_gb": round(made / 1e9, 2), "first_step_s": round(first, 2),
        "step_s": round(most, 4), "ns_an_edge": round(most / (each * options.layers) * 1e9, 2),
        "held_bytes_an_edge": round(held / options.edges, 2), "peak_gb": round(peak / 1e9, 2),
    }  # fmt: skip


def update(options: argparse.Namespace) -> dict[str, Any]:
    """One layer, trained with one optimizer; the second update of its edges."""
    check("update", int(options.edges), options.edges * 50)
    warm_up(options)
    features = min(WIDEST, math.ceil(math.sqrt(options.edges / DENSITY)))
    start, density = forget_peak(), options.edges / features**2
    layer = st.nn.SparseLinear(features, features, density=density)
    optimizer = OPTIMIZERS[options.optimizer](layer.parameters())
    schedule: Any = st.evolve.Constant(interval=1, start=1, prune_fraction=0.1)
    if options.rule == "GMP":
        schedule = st.evolve.Linear(interval=1, start=1, stop=3, final_density=density / 2)
    evolver: Any = st.evolve.Evolver(layer, optimizer, getattr(st.evolve, options.rule)(), schedule)
    x = torch.randn(options.batch, features)
    for _ in range(2):
        optimizer.zero_grad()
        backward(layer, x)
        optimizer.step()
        gc.collect()
        held = forget_peak() - start
        grown, seconds = timed(lambda: evolver.step().grown)
    return {
        "rule": options.rule, "optimizer": options.optimizer, "features": features, "update_s": round(seconds, 1),
        "grown": grown, "held_gb": round(held / 1e9, 2), "peak_gb": round((memory.peak() - start) / 1e9, 2),
    }  # fmt: skip


def layers_of(edges: int, layers: int, features: int) -> Any:
    """A row of layers with so many edges each."""
    density = edges / features**2
    generator = torch.Generator().manual_seed(0)
    return torch.nn.Sequential(
        *(st.nn.SparseLinear(features, features, density=density, generator=generator) for _ in range(layers))
    )


def train(model: Any, kind: str) -> None:
    """Each parameter steps within the backward pass, as soon as its gradient is there, and gives it back."""
    model.optimizers = []
    for p in model.parameters():
        optimizer = OPTIMIZERS[kind]([p])
        model.optimizers.append(optimizer)

        def stepped(_: torch.Tensor, optimizer: Any = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        p.register_post_accumulate_grad_hook(stepped)


def backward(model: Any, x: torch.Tensor) -> None:
    model(x.requires_grad_()).square().mean().backward()
    x.grad = None


def structure(options: argparse.Namespace) -> dict[str, Any]:
    """Edges drawn, hashed, saved and loaded in a layer without state."""
    edges = int(options.edges)
    features = min(WIDEST, math.ceil(math.sqrt(edges / DENSITY)))
    check("structure", edges, edges * 16)
    start = memory.peak()
    layer, drawn = timed(lambda: st.nn.SparseLinear(features, features, density=edges / features**2))
    making, held = memory.peak() - start, layer.topology.nbytes + layer.values.nbytes
    _, hashed = timed(lambda: layer.topology.digest)
    hashing = memory.peak() - start
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "layer.safetensors"
        _, saved = timed(lambda: st.io.save(path, layer))
        saving, size = memory.peak() - start, path.stat().st_size
        _, loaded = timed(lambda: st.io.load(path, layer))
    figures = {"making_gb": making, "hashing_gb": hashing, "saving_gb": saving, "loading_gb": memory.peak() - start}
    return {
        "held_gb": round(held / 1e9, 2), **{name: round(size / 1e9, 2) for name, size in figures.items()},
        "file_gb": round(size / 1e9, 2), "making_s": round(drawn, 1), "hashing_s": round(hashed, 1),
        "saving_s": round(saved, 1), "loading_s": round(loaded, 1),
    }  # fmt: skip


def indices(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds with 16 bits over seconds with 32: medians over rounds of the ratio within one."""
    features = min(WIDEST, math.ceil(math.sqrt(options.edges / DENSITY)))
    x, layers, least = torch.randn(options.batch, features, requires_grad=True), [], index_types.NARROW_EDGES
    for index_types.NARROW_EDGES in (0, 1 << 62):
        layer = layers_of(int(options.edges), 1, features)
        layer(x).sum().backward()  # compiled, and planned
        layers.append(layer)
    index_types.NARROW_EDGES = least
    rounds = []
    for turn in range(ROUNDS):
        seconds: list[tuple[float, float]] = [(0.0, 0.0)] * 2
        for k in (0, 1) if turn % 2 else (1, 0):
            y, forward = timed(lambda k=k: layers[k](x))
            seconds[k] = forward, timed(lambda y=y: y.sum().backward())[1]
        rounds.append([narrow / wide for narrow, wide in zip(*seconds, strict=True)])
    forward, backward = (round(statistics.median(ratios), 3) for ratios in zip(*rounds, strict=True))
    return {"features": features, "batch": options.batch, "rounds": ROUNDS, "forward": forward, "backward": backward}


def sweep(options: argparse.Namespace) -> None:
    """Steps of more and more edges, in layers of 1e8 at most."""
    print("edges        layers  features  ns an edge  bytes an edge  peak GB")
    for power in range(5, round(math.log10(options.to)) + 1):
        edges = 10**power
        layers = max(1, edges // 10**8)
        command = [sys.executable, __file__, "step", "--edges", str(edges), "--layers", str(layers)]
        command += ["--optimizer", options.optimizer, "--batch", str(options.batch)]
        command += ["--record", options.record] if options.record else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{edges:<12} {done.stderr.strip().splitlines()[-1]}")
            continue
        f = json.loads(done.stdout.splitlines()[-1])
        cells = f"{f['ns_an_edge']:<11} {f['held_bytes_an_edge']:<14} {f['peak_gb']}"
        print(f"{edges:<12} {layers:<7} {f['features']:<9} {cells}")


def warm_up(options: argparse.Namespace) -> None:
    """Kernels are compiled and loaded before anything is measured."""
    least, index_types.NARROW_EDGES = (
        index_types.NARROW_EDGES,
        0 if options.edges / options.layers >= 1 << 22 else 1 << 62,
    )
    model = layers_of(10_000, 2, 1_000)
    train(model, options.optimizer)
    backward(model, torch.randn(options.batch, 1_000))
    index_types.NARROW_EDGES = least


def check(where: str, edges: int, needed: float) -> None:
    free_memory.check(f"many_edges {where}", edges, round(needed + SPARE))


def timed(work: Any) -> tuple[Any, float]:
    """What work returns, and the processor seconds of this thread that it took."""
    start = time.thread_time()
    result = work()
    return result, time.thread_time() - start


if __name__ == "__main__":
    main()
