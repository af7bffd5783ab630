"""Reactome: the first hop beside its masked and dense twins, then the whole hierarchy in training.

    python bench/reactome.py [--batch 32] [--rounds 9] [--steps 30] [--busy]

The first hop leads from 11,876 human proteins to the 2,233 pathways that have them, by 46,939 edges. Every contestant
gets the same numbers, torch's fused Adam, and an input that needs no gradient; the losses of the masked twins must be
ours before anything is timed. A step is forward, loss, backward and update; turns have several, as the caches hold what
the others left when one begins. The data are sparsetrain.data.reactome's.
"""

import argparse
import os
import random
from collections.abc import Callable
from typing import Any

import torch
from sparsetrain_bench.machine import too_busy
from sparsetrain_bench.rounds import measure, quartiles, ratio
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.backends.dense_products import fastest_precision

CHECKED = 5  # steps whose losses are compared; they begin from the same weights
OURS = "sparse"
TURN = 5  # steps of a contestant in a row


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30, help="of training the whole hierarchy")
    parser.add_argument("--busy", action="store_true", help="measure although other programs are running")
    return parser.parse_args()


class Training:
    """A layer and its optimizer, on one batch."""

    def __init__(self, layer: nn.Module, x: Tensor, y: Tensor, lr: float = 1e-3) -> None:
        self.layer, self.x, self.y = layer, x, y
        self.optimizer = torch.optim.Adam(layer.parameters(), lr=lr, fused=True)

    def step(self) -> float:
        self.optimizer.zero_grad()
        loss = nn.functional.mse_loss(self.layer(self.x), self.y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if isinstance(self.layer, st.nn.MaskedLinear) and self.layer.form == "step":
            self.layer.apply_mask()
        return loss.item()

    def turn(self) -> None:
        for _ in range(TURN):
            self.step()

    def trained_bytes(self) -> int:
        """Of parameters and optimizer state."""
        state = [t for s in self.optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        return sum(t.nbytes for t in (*self.layer.parameters(), *state))

    def structure_bytes(self) -> int:
        """Of what says which weights exist: indices with all plans, or the mask."""
        if isinstance(self.layer, st.nn.SparseLinear):
            return self.layer.topology.nbytes
        return sum(buffer.nbytes for buffer in self.layer.buffers())


def first_hop(edges: Any, batch: int) -> dict[str, Training]:
    """The contestants, all with the same weights and the same batch."""
    layer = st.nn.SparseLinear.from_edges(edges[edges.kind == "protein"])
    print(f"first hop: {layer}")
    x, y = torch.randn(batch, layer.in_features), torch.randn(batch, layer.out_features)
    twins: dict[str, nn.Module] = {
        OURS: layer,
        "masked, in forward": st.nn.MaskedLinear.from_sparse(layer, form="forward"),
        "masked, after step": st.nn.MaskedLinear.from_sparse(layer, form="step"),
        "dense": layer.to_dense(),
    }
    return {name: Training(twin, x, y) for name, twin in twins.items()}


def check_losses(contestants: dict[str, Training]) -> None:
    """All begin alike, and the masked ones go on alike; a dense layer learns more."""
    losses = {name: [one.step() for _ in range(CHECKED)] for name, one in contestants.items()}
    for name, run in losses.items():
        steps = 1 if name == "dense" else CHECKED
        torch.testing.assert_close(torch.tensor(run[:steps]), torch.tensor(losses[OURS][:steps]), rtol=1e-5, atol=0)
        print(f"  {name:20} losses {', '.join(f'{loss:.6f}' for loss in run)}")


def time_steps(contestants: dict[str, Training], rounds: int) -> None:
    steps: dict[str, Callable[[], object]] = {name: one.turn for name, one in contestants.items()}
    times = measure(steps, rounds, random.Random(0))
    ours = contestants[OURS].trained_bytes()
    for name, run in times.items():
        low, middle, high = (1e3 * t / TURN for t in quartiles(run))
        trained, structure = contestants[name].trained_bytes(), contestants[name].structure_bytes()
        print(
            f"  {name:20} {middle:9.3f} ms a step ({low:.3f} to {high:.3f}), {ratio(run, times[OURS]):6.1f} times "
            f"ours; parameters and state {trained / 1e6:7.2f} MB, {trained / ours:5.0f} times ours; "
            f"structure {structure / 1e6:.2f} MB"
        )


def train_hierarchy(edges: Any, batch: int, steps: int) -> None:
    """All of it learns what a hierarchy of the same wiring and other weights computes."""
    model, teacher = st.convert.from_hierarchy(edges), st.convert.from_hierarchy(edges)
    x = torch.randn(batch, len(model.inputs))
    with torch.no_grad():
        y = teacher(x)
    training = Training(model, x, y, lr=1e-2)
    losses = [training.step() for _ in range(steps)]
    weights = sum(layer.topology.nnz for layer in model.levels)  # type: ignore[union-attr, misc]
    print(
        f"hierarchy: {len(model.inputs)} proteins, {len(model.levels)} levels, {weights} edges, {len(model.outputs)} "
        f"outputs; loss of {steps} steps: {losses[0]:.5f} to {losses[-1]:.5f}"
    )
    if not losses[-1] < 0.5 * losses[0]:
        raise SystemExit("the hierarchy does not learn.")


def main() -> None:
    args = parse()
    if not args.busy and (busy := too_busy()):
        raise SystemExit(busy)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(fastest_precision())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.2f}")
    edges = st.data.reactome()
    contestants = first_hop(edges, args.batch)
    check_losses(contestants)
    time_steps(contestants, args.rounds)
    del contestants
    train_hierarchy(edges, args.batch, args.steps)


if __name__ == "__main__":
    main()
