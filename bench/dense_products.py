"""torch's dense float32 products by MKL, by oneDNN, and with torch's precision "medium", which lets it choose oneDNN.

    python bench/dense_products.py [--threads 2] [--rounds 15]

Milliseconds of x W', dy W and dy' x, the three products of a linear layer, and the largest error of x W' against
float64: a processor with bfloat16 matrix units rounds with "medium", others keep float32 (about 1e-6).
"""

import argparse
import datetime
import os
import random
import statistics
from collections.abc import Callable

import torch
from llvmlite import binding
from sparsetrain_bench.engines.precision import onednn_allowed
from sparsetrain_bench.rounds import measure
from torch import Tensor

SHAPES = [(2048, 4096, 4096), (128, 4096, 4096), (896, 768, 3072), (128, 1024, 1024), (128, 784, 1000), (16, 64, 64)]
ORDER = random.Random(0)


def onednn(x: Tensor, weight: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def medium(x: Tensor, weight: Tensor) -> Tensor:
    with onednn_allowed():
        return x @ weight.t()


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torch": torch.nn.functional.linear, "medium": medium, "oneDNN": onednn,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{binding.get_host_cpu_name()}, torch {torch.__version__}, {options.threads} threads, "
        f"{datetime.date.today()}, load {os.getloadavg()[0]:.2f}"
    )
    print(f"{'batch, in, out':18s} {'':6s} {'x W-T':>9s} {'dy W':>9s} {'dy-T x':>9s}  error")
    for batch, inputs, outputs in SHAPES:
        x, w, dy = torch.randn(batch, inputs), torch.randn(outputs, inputs), torch.randn(batch, outputs)
        operands = [(x, w), (dy, w.t()), (dy.t(), x.t())]
        times = measure(
            {f"{name} {k}": lambda way=way, pair=pair: way(*pair)  # type: ignore[misc]
             for name, way in WAYS.items() for k, pair in enumerate(operands)},
            options.rounds, ORDER,
        )  # fmt: skip
        exact = x.double() @ w.double().t()
        for name, way in WAYS.items():
            error = float((way(x, w) - exact).abs().max() / exact.abs().max())
            middles = "".join(f" {1e3 * statistics.median(times[f'{name} {k}']):9.3f}" for k in range(3))
            print(f"{f'{batch}, {inputs}, {outputs}':18s} {name:6s}{middles}  {error:.0e}")


if __name__ == "__main__":
    main()
