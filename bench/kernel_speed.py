"""The kernels alone, on one thread, beside dense GEMM and beside what this CPU's caches allow them.

    python bench/kernel_speed.py [--size 1024 4096] [--density 0.5 0.2 0.1 0.05 0.01] [--batch 128] [--rounds 21]

Billions of floating-point operations a second on row-major batches: of the whole forward call, of the same without
packing its input, which is timed apart, and of the backward call beside the two dense products that it stands for. The
ceilings are the kernel's own inner loop over one long row, with a panel that lies
in L1, in L2 or beyond: each multiplication needs a load of its own, so no density can do better.
"""

import argparse
import os
import random
import statistics
from collections.abc import Callable, Mapping
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # before the first import that reads them

import numpy as np  # noqa: E402
import sparsetrain_kernels as kernels  # noqa: E402
import torch  # noqa: E402
from sparsetrain_bench.rounds import measure  # noqa: E402
from sparsetrain_kernels.jit import kernel  # noqa: E402
from sparsetrain_kernels.lanes import axpy_rows  # noqa: E402
from sparsetrain_kernels.panels import aligned, flat, pack, tile_width  # noqa: E402
from sparsetrain_kernels.plan import GRADIENTS  # noqa: E402
from sparsetrain_kernels.vectors import lanes  # noqa: E402
from sparsetrain_kernels.width import MOST_VECTORS, TILE_BYTES, VECTOR_BYTES  # noqa: E402

import sparsetrain as st  # noqa: E402
from sparsetrain.backends.dense_products import fastest_precision  # noqa: E402

LONG = 4096  # edges of the row that measures a ceiling
REPEATS = 64
ORDER = random.Random(0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="*", type=int, default=[1024, 4096], help="inputs and outputs of the layer")
    parser.add_argument("--density", nargs="*", type=float, default=[0.5, 0.2, 0.1, 0.05, 0.01])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=21)
    return parser.parse_args()


@kernel
def sweep_long_row(sums: Any, col: Any, values: Any, crow: Any, panel: Any) -> None:
    zero, one = np.int64(0), np.int64(1)
    for _ in range(REPEATS):
        axpy_rows(sums, zero, col, values, crow, zero, one, zero, one, panel, zero, np.int64(MOST_VECTORS))


@kernel
def pack_whole(x: Any, xf: int, xb: int, features: int, batch: int, panel: Any, vectors: Any) -> None:
    for sample in range(0, batch, panel.size // features):
        pack(x, xf, xb, 0, features, sample, batch, panel, 0, vectors)


def room(size: int) -> Any:
    """So many numbers, as a kernel's scratch has them."""
    made: Any = aligned  # untyped
    return made(size, np.dtype(np.float32))


def ceiling(columns: int) -> Callable[[], None]:
    """The inner loop over a row of random columns, with a panel of so many."""
    tile = MOST_VECTORS * lanes(np.float32)
    panel = room(columns * tile)
    panel[:] = 1
    col = np.random.default_rng(0).integers(0, columns, LONG).astype(np.int32)
    sums, values = np.zeros(tile, np.float32), np.full(LONG, 1e-6, np.float32)
    crow = np.array([0, LONG], np.int32)
    return lambda: sweep_long_row(sums, col, values, crow, panel)


def ceilings(rounds: int) -> None:
    panels = {"L1": 16_384, "L2": 524_288, "beyond": 64 << 20}  # bytes: half of the usual sizes
    seconds = measure({name: ceiling(size // TILE_BYTES) for name, size in panels.items()}, rounds, ORDER)
    operations = 2 * REPEATS * LONG * MOST_VECTORS * lanes(np.float32)
    found = (f"{name} {operations / statistics.median(run) / 1e9:.0f}" for name, run in seconds.items())
    print(f"ceilings of the inner loop, by where the panel lies, GFLOP/s: {', '.join(found)}")


def contestants(size: int, density: float, batch: int) -> tuple[int, Mapping[str, Callable[[], object]]]:
    """Edges, and what is timed: dense GEMM, the whole call, packing by itself, and both ways back."""
    t = st.patterns.uniform((size, size), density)
    flattened: Any = flat  # untyped
    plan, values = kernels.plan(t.crow.numpy(), t.col.numpy(), size), torch.randn(t.nnz).numpy()
    x, weight = torch.randn(batch, size), torch.randn(size, size)
    columns, y = x.t().numpy(), np.empty((size, batch), np.float32, order="F")
    vectors: Any = tile_width(batch, columns.dtype)
    panel = room(size * vectors * lanes(np.float32))
    dense = torch.zeros(size, size).index_put_((t.row.long(), t.col.long()), torch.from_numpy(values))
    kernels.spmm(plan, values, columns, y)
    torch.testing.assert_close(torch.from_numpy(y.T.copy()), x @ dense.t(), rtol=1e-4, atol=1e-3)
    crow_t, col_t, perm = (array.numpy() for array in t.transposed)
    plan_t, dx, grad = kernels.plan(crow_t, col_t, size, GRADIENTS), y.copy("F"), values.copy()
    dy = torch.randn(batch, size)
    outer = dy.t().numpy()
    kernels.backward(plan_t, perm, values, columns, outer, dx, grad)
    torch.testing.assert_close(torch.from_numpy(dx.T.copy()), dy @ dense, rtol=1e-4, atol=1e-3)
    return t.nnz, {
        "dense": lambda: torch.nn.functional.linear(x, weight),
        "whole": lambda: kernels.spmm(plan, values, columns, y),
        "pack": lambda: pack_whole(*flattened(columns), size, batch, panel, vectors),
        "dense backward": lambda: (dy @ weight, dy.t() @ x),
        "backward": lambda: kernels.backward(plan_t, perm, values, columns, outer, dx, grad),
    }


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(fastest_precision())
    print(
        f"torch {torch.__version__}, one thread, vectors of {VECTOR_BYTES} bytes, load {os.getloadavg()[0]:.2f}, "
        f"medians of {options.rounds} rounds"
    )
    ceilings(options.rounds)
    for size in options.size:
        for density in options.density:
            edges, steps = contestants(size, density, options.batch)
            median = {name: statistics.median(run) for name, run in measure(steps, options.rounds, ORDER).items()}
            dense = 2 * size * size * options.batch / median["dense"] / 1e9
            whole = 2 * edges * options.batch / median["whole"] / 1e9
            unpacked = 2 * edges * options.batch / (median["whole"] - median["pack"]) / 1e9
            dense_back = 4 * size * size * options.batch / median["dense backward"] / 1e9
            back = 4 * edges * options.batch / median["backward"] / 1e9
            print(
                f"{size} -> {size}, {options.batch}, density {density:g}: dense GEMM {dense:.0f}, "
                f"whole call {whole:.0f} ({whole / dense:.2f}), "
                f"without packing {unpacked:.0f} ({unpacked / dense:.2f}), "
                f"backward {back:.0f} of {dense_back:.0f} ({back / dense_back:.2f})"
            )


if __name__ == "__main__":
    main()
