"""Forward + backward of one linear layer: ours beside dense, torch CSR and SparseProp, interleaved in one process.

    python bench/engines.py [--shape 1024x1024x128 ...] [--density 0.2 ...] [--rounds 30] [--threads 2]

Every contestant must agree with a float64 product before it is timed. The times are medians over shuffled rounds, the
ratios medians of the ratios per round. A contestant that is not installed is shown as missing.
"""

import argparse
import os
import random
import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Any


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="*", default=["1024x1024x128", "768x3072x896"], help="in x out x batch")
    parser.add_argument("--density", nargs="*", type=float, default=[0.2, 0.1, 0.05])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


ARGS = parse()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = str(ARGS.threads)  # before the first import that reads them

import torch  # noqa: E402
from rounds import measure, ratio  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import sparsetrain as st  # noqa: E402

Step = Callable[[], tuple[Tensor, Tensor, Tensor]]  # output, gradient of the input, gradient of the edges


def contestants(dense: nn.Linear, t: st.Topology, x: Tensor, dy: Tensor) -> dict[str, Step | None]:
    """Each as a function that runs forward and backward and returns what it computed."""
    row, col = t.row.long(), t.col.long()

    def module(layer: Any, weight: Tensor, edges: Callable[[Tensor], Tensor]) -> Step:
        def step() -> tuple[Tensor, Tensor, Tensor]:
            leaf = x.detach().requires_grad_()
            weight.grad = None
            y = layer(leaf)
            y.backward(dy)
            return y, leaf.grad, weight.grad  # type: ignore[return-value]

        def result() -> tuple[Tensor, Tensor, Tensor]:
            y, dx, dw = step()
            return y, dx, edges(dw)

        result.timed = step  # type: ignore[attr-defined]
        return result

    ours = st.nn.SparseLinear.from_dense(dense, t)
    values = ours.values.detach().clone().requires_grad_()
    found: dict[str, Step | None] = {
        "sparsetrain": module(ours, ours.values, lambda grad: grad),
        "dense": module(dense, dense.weight, lambda grad: grad[row, col]),
        "torch CSR": module(
            lambda leaf: torch.sparse.mm(torch.sparse_csr_tensor(t.crow, t.col, values, t.shape), leaf.t()).t(),
            values,
            lambda grad: grad,
        ),
        "SparseProp": None,
    }
    try:
        from sparseprop.modules import SparseLinear
    except ImportError:
        return found
    theirs = SparseLinear.from_dense(dense)
    found["SparseProp"] = module(theirs, theirs.W_val, lambda grad: grad)
    return found


def check(name: str, step: Step, dense: nn.Linear, t: st.Topology, x: Tensor, dy: Tensor) -> None:
    weight = dense.weight.detach().double()
    oracle = (x.double() @ weight.t(), dy.double() @ weight, st.ops.sddmm(t, dy.double().t(), x.double().t()))
    for what, got, expected in zip(("output", "input gradient", "edge gradient"), step(), oracle, strict=True):
        error = float((got.detach().double() - expected).abs().max() / expected.abs().max())
        if error > 1e-4:
            sys.exit(f"{name}: its {what} is off by {error:.1e} of the largest; not timed.")


def main() -> None:
    torch.manual_seed(0)
    random.seed(0)
    warnings.filterwarnings("ignore", "Sparse", UserWarning)  # torch's CSR says that it is in beta
    torch.set_num_threads(ARGS.threads)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {ARGS.threads} threads, load {load:.2f}, medians of {ARGS.rounds} rounds, ms")
    for text in ARGS.shape:
        inputs, outputs, batch = (int(n) for n in text.split("x"))
        for density in ARGS.density:
            t = st.patterns.uniform((outputs, inputs), density)
            dense = nn.Linear(inputs, outputs, bias=False)
            dense.weight.data *= t.to_mask()
            x, dy = torch.randn(batch, inputs), torch.randn(batch, outputs)
            found = contestants(dense, t, x, dy)
            steps = {name: step for name, step in found.items() if step is not None}
            for name, step in steps.items():
                check(name, step, dense, t, x, dy)
            times = measure({name: step.timed for name, step in steps.items()}, ARGS.rounds)  # type: ignore[attr-defined]
            line = [f"{inputs} -> {outputs}, batch {batch}, density {density}:"]
            for name in found:
                if name not in times:
                    line.append(f"{name} missing")
                    continue
                times_ours = ratio(times[name], times["sparsetrain"])
                line.append(f"{name} {1e3 * statistics.median(times[name]):.2f} ({times_ours:.2f}x)")
            print("  ".join(line))


if __name__ == "__main__":
    main()
