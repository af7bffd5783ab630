"""A few weights of a frozen dense layer train: SparseDeltaLinear beside full fine-tuning and PEFT's SHiRA, whole steps.

    python bench/fine_tuning.py [--features 4096] [--rank 16] [--tokens 2048] [--rounds 15] [--threads 2] [--first]

SHiRA (pip install peft) trains rank * (in + out) weights, here at the same random positions for both. Each contestant
is a process of its own. Gradients must agree with the dense gradient before anything is timed. As the layer of a deep
network the contestants also compute the gradient of their input; ``--first`` leaves that out. The rivals run as torch
comes, and once more with the precision "medium", by which their dense products may be oneDNN's, as ours are where that
is the faster.
"""

import argparse
import datetime
import os
import random

import torch
from sparsetrain_bench.peak import forget_peak
from sparsetrain_bench.rounds import quartiles, ratio
from torch import Tensor, nn

import sparsetrain as st
from sparsetrain.cli import memory
from sparsetrain.cli.process import ProcessError
from sparsetrain.cli.race import Race

ONEDNN = ", oneDNN"
CONTESTANTS = ("full", "delta", "shira", "full" + ONEDNN, "shira" + ONEDNN)


class Tuning:
    """One layer, its optimizer and a batch; made from the same seed in every process."""

    def __init__(self, name: str, args: argparse.Namespace, warm: bool = False) -> None:
        torch.set_num_threads(args.threads)
        if name.endswith(ONEDNN):
            torch.set_float32_matmul_precision("medium")
            name = name.removesuffix(ONEDNN)
        if not warm:  # what libraries and compiled kernels take is not the contestant's
            Tuning(name, argparse.Namespace(**{**vars(args), "features": 1024, "tokens": 512}), warm=True).step()
        self.before = forget_peak()
        torch.manual_seed(0)
        features, edges = args.features, args.rank * 2 * args.features
        linear = nn.Linear(features, features)
        t = st.patterns.uniform((features, features), edges / features**2)
        self.x = torch.randn(args.tokens, features, requires_grad=not args.first)
        self.dy = torch.randn(args.tokens, features)
        self.topology, self.model = t, _model(name, linear, t, args.rank)
        forget_peak()  # making up a problem is nobody's fault
        dims = 2 if name == "full" else 1
        (self.trained,) = [p for p in self.model.parameters() if p.requires_grad and p.ndim == dims]
        linear.bias.requires_grad_(False)
        self.optimizer = torch.optim.Adam([self.trained], lr=1e-6, fused=True)

    def step(self) -> float:
        """Seconds of zero_grad, forward, backward and Adam."""
        start = datetime.datetime.now()
        self.optimizer.zero_grad()
        self.x.grad = None
        torch.autograd.backward(self.model(self.x), self.dy)
        self.optimizer.step()
        return (datetime.datetime.now() - start).total_seconds()

    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Of the edges, and the largest entries of the input's."""
        self.optimizer.zero_grad()
        self.x.grad = None
        torch.autograd.backward(self.model(self.x), self.dy)
        grad, t = self.trained.grad, self.topology
        assert grad is not None
        edges = grad[t.row.long(), t.col.long()] if grad.ndim == 2 else grad
        return edges.clone(), None if self.x.grad is None else self.x.grad[:64].clone()

    def bytes(self) -> dict[str, int]:
        grad = self.trained.grad
        assert grad is not None
        delta = isinstance(self.model, st.nn.SparseDeltaLinear)
        shira = 0 if delta or self.trained.ndim == 2 else 2 * 4 * self.trained.numel()  # its int32 pairs
        return {
            "gradient": grad.nbytes,
            "state": memory.state(self.optimizer),
            "indices": self.topology.nbytes if delta else shira,
            "peak": memory.peak() - self.before,
        }


def _model(name: str, linear: nn.Linear, t: st.Topology, rank: int) -> nn.Module:
    if name == "full":
        return linear
    if name == "delta":
        return st.nn.SparseDeltaLinear(linear, t)
    from peft import ShiraConfig, get_peft_model

    config = ShiraConfig(r=rank, target_modules=["0"])
    config.mask_fn = lambda *_, **__: t.to_mask().float()
    model: nn.Module = get_peft_model(nn.Sequential(linear), config)
    return model


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=16, help="weights that train: rank * (in + out)")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--first", action="store_true", help="the first layer: no gradient for the input")
    return parser.parse_args()


def main() -> None:
    args = parse()
    with Race[str](args.threads, random.Random(0)) as race:
        for name in CONTESTANTS:
            race.enter(name, Tuning, name, args)
        check(race)
        report(race, args)


def check(race: Race[str]) -> None:
    """Gradients agree, and who is not installed leaves."""
    expected: tuple[Tensor, Tensor | None] | None = None
    for name in CONTESTANTS:
        try:
            race.contestants[name].ready()
        except ProcessError as error:
            print(f"  {name}: not measured. {error}")
            race.leave(name)
            continue
        gradients = race.contestants[name].call("gradients")
        expected = expected or gradients
        for ours, theirs in zip(gradients, expected, strict=True):
            if (
                ours is not None
                and theirs is not None
                and (off := float((ours - theirs).abs().max())) > 1e-5 * float(theirs.abs().max())
            ):
                raise SystemExit(f"{name}: its gradients differ by up to {off:.1e}; not timed.")


def report(race: Race[str], args: argparse.Namespace) -> None:
    times: dict[str, list[float]] = {name: [] for name in race.contestants}
    for k in range(args.rounds + 2):
        for name, remote in race.round():
            remote.call("step")  # untimed: caches and threads are this process's again
            seconds = remote.call("step")
            times[name] += [seconds] if k >= 2 else []
    edges = args.rank * 2 * args.features
    print(
        f"{args.features} -> {args.features}, {edges} edges ({edges / args.features**2:.2%}), {args.tokens} tokens, "
        f"{'no ' if args.first else ''}gradient for the input, {args.threads} threads, "
        f"{datetime.date.today()}, load {os.getloadavg()[0]:.2f}"
    )
    for name, run in times.items():
        low, middle, high = (1e3 * seconds for seconds in quartiles(run))
        sizes = "  ".join(f"{key} {value / 1e6:.1f} MB" for key, value in race.contestants[name].call("bytes").items())
        print(
            f"  {name:13s} {middle:8.1f} ms ({low:.1f} to {high:.1f})  {ratio(run, times['full']):5.2f} of full  "
            f"{ratio(run, times['delta']):5.2f}x delta  {sizes}"
        )


if __name__ == "__main__":
    main()
