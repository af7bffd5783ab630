r"""
16. A weight-sparse transformer
===============================

If only one in 64 weights of a transformer is nonzero, its parts can be interpreted: a neuron has only four weights.
Gao et al. (2025, `arXiv 2511.13653 <https://arxiv.org/abs/2511.13653>`_) train such models. Their recipe
keeps all weights dense: after each step of Adam, it finds the largest weights of every matrix and sets the others to
zero. So it takes more time and memory than a dense model.

This page does the same training with sparse layers. It starts with all edges. Edges that are pruned need no gradient,
moments or time any more. The dense recipe is trained for comparison, from the same weights and on the same text.
"""

import copy
import importlib.util
import time
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import sparsetrain as st

FEATURES, HEAD, LAYERS, DENSITY, FLOOR = 256, 16, 2, 1 / 64, 4
SENTENCES, TOKENS, STEPS, LR = 8, 64, 400, 0.03
BYTES = 128
BLUE, ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito's

# %%
# The model
# ---------
# - The norms divide by the root mean square, so zero stays zero.
# - A table of pairs of bytes is added to the logits, so the weights need not learn which letter follows which.
# - Attention uses ``nn.Linear`` for its projections, so that ``sparsify`` finds them.
# - The paper also keeps only the largest quarter of the activations (AbsTopK). This page omits it, since its cost is
#   the same in both trainings; ``bench/weight_sparse_transformer.py`` includes it.


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.before_attention, self.before_mlp = nn.RMSNorm(FEATURES), nn.RMSNorm(FEATURES)
        self.qkv, self.out = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES)
        self.up, self.down = nn.Linear(FEATURES, 4 * FEATURES), nn.Linear(4 * FEATURES, FEATURES)

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for part in self.qkv(self.before_attention(x)).chunk(3, -1)
        )
        seen = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return x + self.down(gelu(self.up(self.before_mlp(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.byte, self.place = nn.Embedding(BYTES, FEATURES), nn.Embedding(TOKENS, FEATURES)
        self.pair = nn.Embedding(BYTES, BYTES)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.RMSNorm(FEATURES), nn.Linear(FEATURES, BYTES)
        for table in (self.place, self.pair):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids):
        x = self.byte(ids) + self.place.weight[: ids.shape[1]]
        return self.head(self.norm(self.blocks(x))) + self.pair(ids)


def loss_of(model, ids):
    return cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


# %%
# The text
# --------
# The text is three hundred news articles from the package gensim, as bytes.

spec = importlib.util.find_spec("gensim")
file = Path(spec.origin).parent / "test" / "test_data" / "lee_background.cor"
text = torch.tensor(list(file.read_text(encoding="utf-8").encode("ascii", "replace")))
text, test = text[:-20_000], text[-20_000:]
test = test[: len(test) // (TOKENS + 1) * (TOKENS + 1)].view(-1, TOKENS + 1)


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        begin = torch.randint(len(text) - TOKENS, (SENTENCES, 1), generator=generator)
        yield text[begin + torch.arange(TOKENS + 1)]


# %%
# The training loop of both
# -------------------------
# - The density falls linearly during the first half of the training.
# - Gradients are divided by their root mean square, since Adam has an epsilon of 0.1.
# - The learning rate has a short linear warm-up and then falls linearly. It is also divided by the square root of the
#   density, relative to the final density, so it is lower at the start.

schedule = st.evolve.Linear(
    interval=max(1, STEPS // 80), start=STEPS // 100 + 1, stop=STEPS // 2, final_density=DENSITY
)


def density(step):
    return schedule.density(1.0, DENSITY, step)


def rate(step):
    warm = max(1, STEPS // 50)
    fin = (DENSITY / density(step)) ** 0.5
    return LR * fin * min(step / warm, 1 - (step - warm) / STEPS)


def optimizer_of(model):
    weights, others = [], []
    for name, p in model.named_parameters():
        (weights if p.ndim == 2 or name.endswith("values") else others).append(p)
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return st.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=0.1)


def train(model, optimizer, after_step):
    losses, seconds = [], []
    for step, ids in enumerate(batches(), 1):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        loss = loss_of(model, ids)
        loss.backward()
        gradients = [p.grad for p in model.parameters()]
        size = torch.nn.utils.get_total_norm(gradients) / sum(g.numel() for g in gradients) ** 0.5
        for gradient in gradients:
            gradient.div_(size + 1e-5)
        optimizer.step()
        after_step(step)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        if step % max(1, STEPS // 5) == 0:
            print(f"step {step} of {STEPS}: loss {losses[-1]:.3f}", flush=True)
    return losses, seconds


# %%
# The recipe, dense
# -----------------
# Each matrix keeps the same fraction of its weights, and at least the four largest weights of each neuron. The neurons
# of ``qkv``, ``up`` and ``head`` are their outputs; those of ``out`` and ``down`` are their inputs.

torch.manual_seed(0)
dense = Transformer()
start = copy.deepcopy(dense)
matrices = [
    (layer.weight, 0 if name.endswith(("out", "down")) else 1)
    for name, layer in dense.named_modules()
    if isinstance(layer, nn.Linear)
]


@torch.no_grad()
def keep_the_largest(step):
    for weight, dim in matrices:
        sizes = weight.abs()
        sizes.scatter_(dim, sizes.topk(FLOOR, dim).indices, torch.inf)
        limit = sizes.flatten().topk(round(density(step) * weight.numel())).values[-1]
        weight.masked_fill_(sizes < limit, 0.0)


dense_losses, dense_seconds = train(dense, optimizer_of(dense), keep_the_largest)

# %%
# The same with sparse layers
# ---------------------------
# ``sparsify`` with density 1 creates sparse layers with all edges. ``GMP`` with a floor chooses weights by the same
# rule as the recipe. One Evolver for each kind of neuron removes edges every few steps.

sparse = st.convert.sparsify(start, 1.0)
optimizer = optimizer_of(sparse)
evolvers = [
    st.evolve.Evolver(
        sparse, optimizer, st.evolve.GMP(FLOOR), schedule, layers=["*.qkv", "*.up", "head"]
    ),
    st.evolve.Evolver(
        sparse, optimizer, st.evolve.GMP(FLOOR, "inputs"), schedule, layers=["*.out", "*.down"]
    ),
]
edges = []


def let_edges_go(step):
    for evolver in evolvers:
        evolver.step()
    layers = [layer for layer in sparse.modules() if isinstance(layer, st.nn.SparseLinear)]
    edges.append(sum(layer.topology.nnz for layer in layers))


sparse_losses, sparse_seconds = train(sparse, optimizer, let_edges_go)
print(st.summary(sparse))

with torch.no_grad():
    test_losses = {"recipe": loss_of(dense, test).item(), "edges": loss_of(sparse, test).item()}
for name, seconds in (("recipe", dense_seconds), ("edges", sparse_seconds)):
    late = 1e3 * median(seconds[STEPS // 2 :])
    print(f"{name:6}  test loss {test_losses[name]:.3f}, {late:.0f} ms a step at the end")

# %%
# The dense twin is the sparse model with full matrices, in float64.

exact = sparse.double()
twin = st.convert.densify(copy.deepcopy(exact))
with torch.no_grad():
    difference = (exact(test[:20, 1:]) - twin(test[:20, 1:])).abs().max().item()
print(f"largest difference from the dense twin: {difference:.0e}")

# %%
# The losses rise a little while weights are removed, and fall again when the number of weights is constant. In the
# dense recipe, weights that are zero may become nonzero again, since they keep their moments. In the sparse model they
# may not. The final losses are similar.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
width = max(1, STEPS // 40)
for name, losses, seconds, color in (
    ("recipe, dense", dense_losses, dense_seconds, ORANGE),
    ("edges", sparse_losses, sparse_seconds, BLUE),
):
    steps = range(width, STEPS + 1, width)
    left.plot(steps, [sum(losses[k - width : k]) / width for k in steps], color=color, label=name)
    right.plot(
        steps, [1e3 * median(seconds[k - width : k]) for k in steps], color=color, label=name
    )
left.set(xlabel="step", ylabel="loss per byte")
right.set(xlabel="step", ylabel="milliseconds per step", ylim=(0, None))
for axis in (left, right):
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Interpreting a neuron
# ---------------------
# A hidden neuron reads four features of the residual stream, and writes to four. Eight weights and a bias describe it
# completely.

up, down = sparse.blocks[0].up, sparse.blocks[0].down
neuron = int(up.topology.row[up.values.abs().argmax()])
read, written = up.topology.row == neuron, down.topology.col == neuron
print(f"neuron {neuron} reads", end="")
for feature, weight in zip(up.topology.col[read].tolist(), up.values[read].tolist(), strict=True):
    print(f"  {weight:+.2f} of {feature}", end="")
print("\nand writes", end="")
for feature, weight in zip(
    down.topology.row[written].tolist(), down.values[written].tolist(), strict=True
):
    print(f"  {weight:+.2f} to {feature}", end="")
print()
