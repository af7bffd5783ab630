"""What a product costs by kernels over the edges and by dense blocks, beside the dense product of the same shape.

    python bench/ways.py [--densities 0.3 0.5 0.7 1.0] [--shapes 1024x1024x128 640x2560x1024]

Processor time of one thread, the least of some rounds in which all take turns, as parts of dense's; forward (f), and
both gradients (b). From these come the constants of sparsetrain/backends/cost.py, which says how they are used. For a
narrower processor set SPARSETRAIN_VECTOR_BYTES, NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and ONEDNN_MAX_CPU_ISA.
"""

import argparse
import random
from time import thread_time

import torch
from sparsetrain_bench.rounds import measure
from sparsetrain_kernels.width import VECTOR_BYTES

from sparsetrain import patterns
from sparsetrain.backends.blocks import products as blocks
from sparsetrain.backends.dense_products import dense_product
from sparsetrain.backends.numba import products as kernels

SHAPES = ["1024x1024x128", "3072x1024x100", "4096x4096x128", "640x2560x1024"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=SHAPES, help="inputs x outputs x batch")
    parser.add_argument("--densities", nargs="*", type=float, default=[0.3, 0.5, 0.7, 0.9, 1.0])
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"vectors of {VECTOR_BYTES} bytes")
    for shape in args.shapes:
        for density in args.densities:
            inputs, outputs, batch = map(int, shape.split("x"))
            print(f"{shape} {density:g}:", measured(inputs, outputs, batch, density, args.rounds), flush=True)


def measured(inputs: int, outputs: int, batch: int, density: float, rounds: int) -> str:
    generator = torch.Generator().manual_seed(0)
    t = patterns.uniform((outputs, inputs), density, generator)
    values, bias, weight = torch.randn(t.nnz), torch.zeros(outputs), torch.randn(outputs, inputs)
    samples, gradients = torch.randn(batch, inputs), torch.randn(batch, outputs)
    x, dy = samples.t(), gradients.t()
    times = measure(
        {
            "f dense": lambda: dense_product(samples, weight, bias),
            "f kernels": lambda: kernels.spmm(t, values, x, bias, False),
            "f blocks": lambda: blocks.spmm(t, values, x, bias, False),
            "b dense": lambda: (dense_product(gradients, weight.t()), dense_product(dy, x)),
            "b kernels": lambda: kernels.backward(t, values, x, dy, True),
            "b blocks": lambda: blocks.backward(t, values, x, dy, True),
        },
        rounds,
        random.Random(0),
        warmup=1,
        clock=thread_time,
    )
    seconds = {name: min(run) for name, run in times.items()}
    parts = [f"{name} {seconds[name] / seconds[name[0] + ' dense']:.2f}" for name in seconds if "dense" not in name]
    return ", ".join(parts)


if __name__ == "__main__":
    main()
