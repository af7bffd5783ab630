"""A deep autoencoder of sparse layers on MNIST digits: the training loss of HessianFree and of Adam.

    python bench/hessian_free.py [--density 0.1] [--passes 400] [--plot FILE]

784-1000-500-250-30-250-500-1000-784; Adam at several rates and batch sizes, and, where curvlinops is installed (pip
install curvlinops-for-pytorch), conjugate gradients with its Gauss-Newton matrix, damped by the same rule. A pass is as
many samples as there are for training, whether a gradient, a curvature product or the loss of a trial step was computed
of them.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import sparsetrain as st
from sparsetrain.cli.environment import surroundings

SIZES = (784, 1000, 500, 250, 30)
Curve = list[dict[str, float]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--passes", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the curves to this file")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    images = st.data.load("mnist").train_images.float()
    runs: dict[str, Callable[[], Iterator[float]]] = {}
    models: dict[str, nn.Sequential] = {}

    def add(name: str, train: Callable[[nn.Sequential], Iterator[float]]) -> None:
        models[name] = network(args.density)
        runs[name] = lambda: train(models[name])

    add("HessianFree, all", lambda m: by_hessian_free(m, images, len(images), 1000, 100))
    add("HessianFree, 1000", lambda m: by_hessian_free(m, images, 1000, 250, 30))
    if find_spec("curvlinops"):
        add("curvlinops, 1000", lambda m: by_curvlinops(m, images, 1000, 250, 30))
    for size in (200, len(images)):
        for lr in (1e-3, 3e-3, 1e-2, 2e-2):
            add(f"Adam {lr:g}, {size}", lambda m, lr=lr, size=size: by_adam(m, images, size, lr))  # type: ignore[misc]
    curves = {name: followed(models[name], images, run(), args.passes) for name, run in runs.items()}
    marks = [args.passes // 8, args.passes // 4, args.passes // 2, args.passes]
    print(f"{'loss after passes':20}", *(f"{mark:>8}" for mark in marks), f"{'steps':>8} {'seconds':>8}")
    for name, curve in curves.items():
        losses = [min([p["loss"] for p in curve if p["passes"] <= mark], default=float("inf")) for mark in marks]
        print(f"{name:20}", *(f"{loss:8.2f}" for loss in losses), f"{len(curve):8} {curve[-1]['seconds']:8.1f}")
    if args.plot:
        draw(curves, args.plot)
    if args.json:
        args.json.write_text(json.dumps({"surroundings": surroundings(), "curves": curves}, indent=1))


def network(density: float) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = (*SIZES, *SIZES[-2::-1])
    layers: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise(sizes)):
        layers.append(st.nn.SparseLinear(inputs, outputs, density=max(density, 6 / min(inputs, outputs))))
        if place not in (len(SIZES) - 2, len(sizes) - 2):  # the code and the logits of the pixels
            layers.append(nn.Tanh())
    return nn.Sequential(*layers)


def of_pixels(z: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy of an image."""
    return binary_cross_entropy_with_logits(z, x, reduction="sum") / len(x)


def followed(model: nn.Sequential, images: Tensor, steps: Iterator[float], passes: int) -> Curve:
    """The loss over all images after each step or epoch; evaluating it is no part of passes and seconds."""
    curve: Curve = []
    done, seconds, begun = 0.0, 0.0, perf_counter()
    for more in steps:
        seconds += perf_counter() - begun
        done += more
        with torch.no_grad():
            loss = float(of_pixels(model(images), images))
        curve.append({"passes": done, "seconds": seconds, "loss": loss})
        if done >= passes:
            break
        begun = perf_counter()
    return curve


def by_hessian_free(
    model: nn.Sequential, images: Tensor, batch: int, of_curvature: int, iterations: int
) -> Iterator[float]:
    """The passes of each step."""
    optimizer = st.optim.HessianFree(model.parameters(), iterations=iterations)
    generator = torch.Generator().manual_seed(0)
    while True:
        x = images[torch.randperm(len(images), generator=generator)[:batch]]
        part, calls = x[:of_curvature], [0]

        def forward(x: Tensor = x, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            return model(x)  # type: ignore[no-any-return]

        optimizer.step(
            forward,
            lambda z, x=x: of_pixels(z, x),  # type: ignore[misc]
            curvature_batch=(lambda part=part: model(part), lambda z, part=part: of_pixels(z, part)),  # type: ignore[misc]
        )
        report = optimizer.report
        products = report.iterations + 1 + optimizer.defaults["probes"] if report else 0
        yield (calls[0] * batch + products * of_curvature) / len(images)


def by_curvlinops(
    model: nn.Sequential, images: Tensor, batch: int, of_curvature: int, iterations: int
) -> Iterator[float]:
    from scipy.sparse.linalg import LinearOperator, cg

    curvlinops = import_module("curvlinops")
    parameters, damping = list(model.parameters()), 1.0
    generator = torch.Generator().manual_seed(0)
    while True:
        x = images[torch.randperm(len(images), generator=generator)[:batch]]
        part = x[:of_curvature]
        loss = of_pixels(model(x), x)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        pixels = nn.BCEWithLogitsLoss(reduction="mean")  # of each pixel; the loss above is of each image
        G = curvlinops.GGNLinearOperator(model, pixels, parameters, [(part, part)], check_deterministic=False)
        of_one = G.to_scipy(dtype=np.float32)
        products = [0]

        def damped(v: Any, damping: float = damping, of_one: Any = of_one, products: list[int] = products) -> Any:
            products[0] += 1
            return SIZES[0] * (of_one @ v) + damping * v

        operator = LinearOperator(of_one.shape, matvec=damped, dtype=np.float32)
        step = torch.from_numpy(cg(operator, -gradient.numpy(), rtol=0.0, maxiter=iterations)[0])
        promised = float(gradient @ step) + 0.5 * float(step @ torch.from_numpy(damped(step.numpy(), damping=0.0)))
        before = nn.utils.parameters_to_vector(parameters).detach().clone()
        nn.utils.vector_to_parameters(before + step, parameters)
        with torch.no_grad():
            gained = float(of_pixels(model(x), x) - loss)
        if not gained < 0:
            nn.utils.vector_to_parameters(before, parameters)
        ratio = gained / promised
        damping *= 1.5 if not ratio > 0.25 else 1 / 1.5 if ratio > 0.75 else 1.0
        yield (2 * batch + products[0] * of_curvature) / len(images)


def by_adam(model: nn.Sequential, images: Tensor, batch: int, lr: float) -> Iterator[float]:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    generator = torch.Generator().manual_seed(0)
    while True:
        for places in torch.split(torch.randperm(len(images), generator=generator), batch):
            optimizer.zero_grad()
            x = images[places]
            of_pixels(model(x), x).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield 1.0


def draw(curves: dict[str, Curve], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for axes, over in zip(panels, ("passes", "seconds"), strict=True):
        for name, curve in curves.items():
            style = "-" if name.startswith("Hessian") else "--" if name.endswith("200") else ":"
            axes.plot([p[over] for p in curve], [p["loss"] for p in curve], style, label=name)
        axes.set(xlabel=over, yscale="log", ylabel="cross-entropy of an image" if over == "passes" else "")
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
