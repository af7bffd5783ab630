"""A weight-sparse transformer: steps and losses of sparse layers, beside the published recipe over dense weights.

    python bench/weight_sparse_transformer.py [step | losses] [--quick]
    python bench/weight_sparse_transformer.py step --features 2048 --sentences 8 --activations 1

Gao et al. (2025), Weight-sparse transformers have interpretable circuits, arXiv 2511.13653: after each step of dense
Adam every matrix keeps its largest weights, with four at least of each neuron; activations keep the largest quarter
(AbsTopK); gradients are divided by their root mean square. The density falls in a line from 1 to its end at half of the
training. ``step`` times a step at the final density: forward, backward, Adam, and for the recipe the choice of weights,
by both of torch's float32 products. AbsTopK is torch.topk's in the recipe and ``st.ops.abs_topk`` in ours; two more
lines have them exchanged. Loss and gradients must agree before anything is timed. ``losses`` trains both from the same
weights on the same bytes of gensim's news articles, and prints processor time as well.

Tables of bytes and of pairs of bytes stay dense in both; the recipe prunes the former, too.
"""

import argparse
import copy
import datetime
import importlib.util
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sparsetrain_bench.rounds import measure, quartiles, ratio
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import sparsetrain as st

BYTES, FLOOR = 128, 4
READ, WRITTEN = ("*.qkv", "*.up", "head"), ("*.out", "*.down")  # whose neurons are outputs, and inputs


def by_torch(x: Tensor, count: int) -> Tensor:
    """AbsTopK by torch's own operators."""
    with torch.no_grad():
        sizes = x.abs()
        limit = sizes.topk(count, -1, sorted=False).values.amin(-1, keepdim=True)
        stay = (sizes >= limit).to(x.dtype)  # booleans multiply half as fast
    return x * stay


class Block(nn.Module):
    """Attention and an MLP, whose activations keep the largest."""

    def __init__(self, features: int, head: int, activations: float) -> None:
        super().__init__()
        self.head, self.activations = head, activations
        self.abs_topk: Callable[[Tensor, int], Tensor] = st.ops.abs_topk
        self.before_attention, self.before_mlp = nn.RMSNorm(features), nn.RMSNorm(features)
        self.qkv, self.out = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.largest(self.before_attention(x))).chunk(3, -1)
        q, k, v = (self.heads(self.largest(part)) for part in parts)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.largest(self.out(seen))
        hidden = self.largest(gelu(self.up(self.largest(self.before_mlp(x)))))
        return x + self.largest(self.down(hidden))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head).transpose(1, 2)

    def largest(self, x: Tensor) -> Tensor:
        """AbsTopK: the largest magnitudes of each token; the others are 0."""
        if self.activations == 1:
            return x
        return self.abs_topk(x, round(self.activations * x.shape[-1]))


class Transformer(nn.Module):
    """Logits of the next byte."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        f = args.features
        self.byte, self.pair, self.place = (
            nn.Embedding(BYTES, f),
            nn.Embedding(BYTES, BYTES),
            nn.Embedding(args.tokens, f),
        )
        self.blocks = nn.Sequential(*(Block(f, args.head, args.activations) for _ in range(args.layers)))
        self.norm, self.head = nn.RMSNorm(f), nn.Linear(f, BYTES)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        for table in (self.pair, self.place):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.byte(ids) + self.place.weight[: ids.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x))) + self.pair(ids)
        return logits

    def loss(self, ids: Tensor) -> Tensor:
        return cross_entropy(self(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


class Training:
    """A model, its optimizer, and what follows a step."""

    def __init__(self, model: Transformer, optimizer: type[torch.optim.AdamW], lr: float) -> None:
        weights: list[Tensor] = []
        others: list[Tensor] = []
        for name, p in model.named_parameters():
            (weights if p.ndim == 2 or name.endswith("values") else others).append(p)
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.model, self.lr, self.steps = model, lr, 0
        self.optimizer = optimizer(groups, lr=lr, betas=(0.9, 0.95), eps=0.1, fused=True)

    def step(self, ids: Tensor, rate: float = 1.0) -> float:
        """The loss before it."""
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rate
        self.optimizer.zero_grad()
        loss = self.model.loss(ids)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        size = torch.nn.utils.get_total_norm(gradients) / sum(g.numel() for g in gradients) ** 0.5
        torch._foreach_mul_(gradients, 1 / (size.item() + 1e-5))
        self.optimizer.step()
        self.choose()
        return loss.item()

    def choose(self) -> None:
        """Which weights stay."""


class Recipe(Training):
    """Dense weights, of which all but the largest are set to 0 after each step."""

    def __init__(self, model: Transformer, lr: float, density: Callable[[int], float]) -> None:
        super().__init__(model, torch.optim.AdamW, lr)
        self.density = density
        self.matrices = [
            (m.weight, 0 if name.endswith(("out", "down")) else 1)
            for name, m in model.named_modules()
            if isinstance(m, nn.Linear)
        ]

    @torch.no_grad()
    def choose(self) -> None:
        density = self.density(self.steps)
        if density == 1:
            return
        for weight, dim in self.matrices:
            sizes = weight.abs()
            sizes.scatter_(dim, sizes.topk(FLOOR, dim, sorted=False).indices, torch.inf)
            limit = sizes.flatten().kthvalue(weight.numel() - round(density * weight.numel()) + 1).values
            weight.masked_fill_(sizes < limit, 0)


class Sparse(Training):
    """Sparse layers; Evolvers let edges go while the density falls."""

    def __init__(self, model: Transformer, lr: float, schedule: st.evolve.Schedule | None) -> None:
        super().__init__(model, st.optim.AdamW, lr)
        self.evolvers = [
            st.evolve.Evolver(model, self.optimizer, rule, schedule, layers=layers)
            for rule, layers in ((st.evolve.GMP(FLOOR), READ), (st.evolve.GMP(FLOOR, "inputs"), WRITTEN))
            if schedule
        ]

    def choose(self) -> None:
        for evolver in self.evolvers:
            evolver.step()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("step", "losses", "both"), default="both")
    parser.add_argument("--density", type=float, help="0.01 for step, 1/64 for losses")
    parser.add_argument("--features", type=int, help="1024 for step, 256 for losses")
    parser.add_argument("--layers", type=int, help="4 for step, 2 for losses")
    parser.add_argument("--head", type=int, default=16, help="features of a head")
    parser.add_argument("--sentences", type=int, help="16 for step, 8 for losses")
    parser.add_argument("--tokens", type=int, help="of a sentence: 128 for step, 64 for losses")
    parser.add_argument("--activations", type=float, default=0.25, help="part of the activations that stays, 1 for all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--interval", type=int, default=1, help="steps between choices of weights by edges")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few rounds, and few steps of two seeds")
    parser.add_argument("--profile", action="store_true", help="print where the time of our step goes")
    return parser.parse_args()


def sized(args: argparse.Namespace, **sizes: float) -> argparse.Namespace:
    """The sizes that were not given."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    return argparse.Namespace(**sizes | given)


# ---- the time of a step ----------------------------------------------------------------------------------------------


def contestants(args: argparse.Namespace) -> tuple[Recipe, Sparse, Tensor]:
    """Both at the final density with the same weights, checked."""
    torch.manual_seed(0)
    recipe = Recipe(Transformer(args), args.lr, lambda _: args.density)
    recipe.choose()
    masks = {name: m.weight != 0 for name, m in recipe.model.named_modules() if isinstance(m, nn.Linear)}
    model = copy.deepcopy(recipe.model)
    st.convert.sparsify(model, masks=masks)
    ours = Sparse(model, args.lr, None)
    ids = torch.randint(BYTES, (args.sentences, args.tokens + 1))
    agree(recipe.model, ours.model, ids)
    return recipe, ours, ids


def agree(dense: Transformer, sparse: Transformer, ids: Tensor) -> None:
    """The gradients of all activations: rounding would choose others among the largest."""
    blocks = [*dense.blocks, *sparse.blocks]
    part = blocks[0].activations
    for block in blocks:
        block.activations = 1
    losses = [model.loss(ids) for model in (dense, sparse)]
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    for name, layer in sparse.named_modules():
        if isinstance(layer, st.nn.SparseLinear):
            t, weight = layer.topology, dense.get_submodule(name).weight
            expected = weight.grad[t.row.long(), t.col.long()]  # type: ignore[index]
            off = (layer.values.grad - expected).abs().max() / expected.abs().max()  # type: ignore[operator]
            if off > 1e-4 or abs(losses[0] - losses[1]) > 1e-5 * losses[0]:
                raise SystemExit(f"{name}: gradients differ by {off:.0e} of the largest; not timed.")
    for block in blocks:
        block.activations = part


def time_steps(args: argparse.Namespace) -> None:
    recipe, ours, ids = contestants(args)

    def step(training: Training, precision: str, abs_topk: Callable[[Tensor, int], Tensor]) -> Callable[[], object]:
        def run() -> None:
            torch.set_float32_matmul_precision(precision)
            for block in training.model.blocks:
                block.abs_topk = abs_topk  # type: ignore[assignment]
            training.step(ids)

        return run

    steps: dict[str, Callable[[], object]] = {
        "recipe": step(recipe, "highest", by_torch),
        "recipe, oneDNN": step(recipe, "medium", by_torch),
        "sparse": step(ours, "highest", st.ops.abs_topk),
    }
    if args.activations < 1:
        steps["recipe, abs_topk"] = step(recipe, "highest", st.ops.abs_topk)
        steps["sparse, topk"] = step(ours, "highest", by_torch)
    steps["its choice"] = recipe.choose
    times = measure(steps, args.rounds, random.Random(0), warmup=1)
    torch.set_float32_matmul_precision("highest")
    weights = sum(weight.numel() for weight, _ in recipe.matrices)
    print(
        f"{args.layers} layers of {args.features}, {weights / 1e6:.1f} million weights at {args.density:g}, heads of "
        f"{args.head}, {args.sentences} x {args.tokens} tokens, activations {args.activations:g}"
    )
    for name, run in times.items():
        low, middle, high = (1e3 * seconds for seconds in quartiles(run))
        print(f"  {name:16s} {middle:9.1f} ms ({low:.1f} to {high:.1f})  {ratio(run, times['sparse']):6.2f} of sparse")
    if args.profile:
        with torch.profiler.profile() as profile:
            steps["sparse"]()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=50))


# ---- losses ----------------------------------------------------------------------------------------------------------


def bytes_of_news() -> tuple[Tensor, Tensor]:
    """For training and for the test. gensim, which ships them, need not be imported for it."""
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        raise SystemExit("expected the package gensim, which ships the text. Run: pip install gensim")
    text = (Path(spec.origin).parent / "test" / "test_data" / "lee_background.cor").read_text(encoding="utf-8")
    ids = torch.tensor(list(text.encode("ascii", "replace")))
    return ids[:-20_000], ids[-20_000:]


def rate(step: int, steps: int, density: float) -> float:
    """Sharkfin: up in the first steps, then down in a line, and lower where the density is higher."""
    warm = max(1, steps // 50)
    return min(step / warm, 1 - (step - warm) / steps) * math.sqrt(density)


def train(kind: str, seed: int, args: argparse.Namespace) -> tuple[list[float], float, float]:
    """Losses, that of the test, and seconds of one processor."""
    training, test = bytes_of_news()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(args)
    # in intervals more of a neuron's weights go at once, and the loss is higher
    schedule = st.evolve.Linear(
        interval=args.interval, start=args.steps // 100 + 1, stop=args.steps // 2, final_density=args.density
    )

    def density(step: int) -> float:
        return schedule.density(1.0, args.density, step)

    if kind == "sparse":
        st.convert.sparsify(model, 1.0)
    run = Sparse(model, args.lr, schedule) if kind == "sparse" else Recipe(model, args.lr, density)
    losses, start = [], time.process_time()
    for step in range(1, args.steps + 1):
        begin = torch.randint(len(training) - args.tokens, (args.sentences, 1), generator=generator)
        ids = training[begin + torch.arange(args.tokens + 1)]
        losses.append(run.step(ids, rate(step, args.steps, args.density / density(step))))
    seconds = time.process_time() - start
    whole = test[: len(test) // (args.tokens + 1) * (args.tokens + 1)].view(-1, args.tokens + 1)
    with torch.no_grad():
        return losses, model.loss(whole).item(), seconds


def compare_losses(args: argparse.Namespace) -> None:
    print(
        f"{args.layers} layers of {args.features}, from 1 to {args.density:g}, {args.steps} steps of {args.sentences} "
        f"x {args.tokens} bytes: mean losses of each eighth, then the loss of the test"
    )
    tests: dict[str, list[float]] = {"recipe": [], "sparse": []}
    for seed in range(args.seeds):
        for kind in tests:
            losses, test, seconds = train(kind, seed, args)
            tests[kind].append(test)
            part = len(losses) // 8
            means = " ".join(f"{statistics.fmean(losses[k * part : (k + 1) * part]):.3f}" for k in range(8))
            print(f"  {kind} {seed}  {means}   {test:.4f}  {seconds:6.1f} s of a processor", flush=True)
    for kind, losses in tests.items():
        print(f"  {kind}: test {statistics.fmean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})")


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {args.threads} threads, {datetime.date.today()}, load {os.getloadavg()[0]:.2f}, "
        "medians (quartiles)"
    )
    if args.quick:
        args.rounds, args.seeds, args.steps = 3, 2, 100
    if args.what != "losses":
        time_steps(sized(args, density=0.01, features=1024, layers=4, sentences=16, tokens=128))
    if args.what != "step":
        compare_losses(sized(args, density=1 / 64, features=256, layers=2, sentences=8, tokens=64))


if __name__ == "__main__":
    main()
