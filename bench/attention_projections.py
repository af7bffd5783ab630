"""What attention costs with sparse projections, and what one product for queries, keys and values would save.

    python bench/attention_projections.py [--densities 0.02 0.1] [--shapes 768x12x16x128 256x4x8x64] [--threads 2]

Forward and backward of self-attention with ``need_weights=False``, medians of rounds in which all take turns, as parts
of nn.MultiheadAttention's time; and of one sparse product over the stacked edges of q_proj, k_proj and v_proj, as part
of the time of the three products. Processor time with one thread, else the clock's.
"""

import argparse
import random
from time import perf_counter, thread_time

import torch
from sparsetrain_bench.rounds import measure, ratio
from torch import Tensor, nn

from sparsetrain import Topology
from sparsetrain.nn import SparseLinear, SparseMultiheadAttention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", nargs="*", default=["768x12x16x128", "256x4x8x64"], help="size x heads x batch x length"
    )
    parser.add_argument("--densities", nargs="*", type=float, default=[0.02, 0.05, 0.1])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for shape in args.shapes:
        size, heads, batch, length = map(int, shape.split("x"))
        for density in args.densities:
            print(f"{shape} {density:g}:", measured(size, heads, batch, length, density, args.rounds), flush=True)


def measured(size: int, heads: int, batch: int, length: int, density: float, rounds: int) -> str:
    torch.manual_seed(0)
    dense = nn.MultiheadAttention(size, heads, batch_first=True)
    sparse = SparseMultiheadAttention(size, heads, batch_first=True, density=density)
    three = [sparse.q_proj, sparse.k_proj, sparse.v_proj]
    edges = Topology.from_mask(torch.cat([layer.topology.to_mask() for layer in three]))
    stacked = SparseLinear(size, 3 * size, topology=edges)
    x = torch.randn(batch, length, size, requires_grad=True)
    times = measure(
        {
            "dense": lambda: backward([dense(x, x, x, need_weights=False)[0]]),
            "sparse": lambda: backward([sparse(x, x, x, need_weights=False)[0]]),
            "three": lambda: backward([layer(x) for layer in three]),
            "one": lambda: backward(list(stacked(x).chunk(3, -1))),
        },
        rounds,
        random.Random(0),
        warmup=1,
        clock=thread_time if torch.get_num_threads() == 1 else perf_counter,
    )
    whole, product = ratio(times["sparse"], times["dense"]), ratio(times["one"], times["three"])
    return f"sparse {whole:.2f} of dense, one product {product:.2f} of three"


def backward(outputs: list[Tensor]) -> None:
    torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])


if __name__ == "__main__":
    main()
