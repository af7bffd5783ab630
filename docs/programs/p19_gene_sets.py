r"""
19. Gene sets and expression
============================

*Gene sets* list genes that work together. In this network each hidden unit is a set, connected to its own genes and to
no others. So the trained network can be read: which sets matter for the outcome, and which of their genes. The gene
expression here is simulated, so that the right answer is known: two of forty sets decide.

Edges have names, from the file to the result. If a frame has its columns in another order, or genes that no set has,
the layer puts it right. If it has samples as columns, there is an error that says so.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn

import sparsetrain as st

GENES, SETS, MEMBERS, SAMPLES, STEPS = 1500, 40, 25, 900, 300
L1, L2, LR, NOISE = 0.05, 0.05, 0.01, 1.0
BLUE, GREY = "#0072B2", "#999999"  # Okabe and Ito's

# %%
# Sets and samples
# ----------------
# Two things are simulated: a file of sets, in the GMT format of GSEA and MSigDB, and a table of expression with a row
# for each sample. In each sample a set has an activity, which is added to the expression of its genes. A sample is ill
# if set 3 is more active than set 7.

random = np.random.default_rng(0)
genes = [f"G{k}" for k in range(GENES)]
sets = [f"SET{k}" for k in range(SETS)]
members = {name: random.choice(GENES, MEMBERS, replace=False) for name in sets}
lines = [f"{name}\tsimulated\t" + "\t".join(genes[k] for k in members[name]) for name in sets]

activity = random.standard_normal((SAMPLES, SETS))
expression = NOISE * random.standard_normal((SAMPLES, GENES))
for k, name in enumerate(sets):
    expression[:, members[name]] += activity[:, [k]]
ill = torch.tensor(activity[:, 3] - activity[:, 7] > 0)
samples = pd.DataFrame(expression, columns=genes).sample(frac=1, axis=1, random_state=0)
print(samples.iloc[:3, :5].round(2))

# %%
# The network
# -----------
# ``from_edges`` makes a layer from the sets. ``align`` puts the columns of the table into the layer's order, and drops
# genes that no set has.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "sets.gmt"
    path.write_text("\n".join(lines))
    edges = st.io.read_gmt(path)
torch.manual_seed(0)
layer = st.nn.SparseLinear.from_edges(edges, outputs=sets, bias=False)
nn.init.constant_(layer.values, 1 / MEMBERS)  # a set begins as the mean of its genes
print(layer)
model = nn.Sequential(layer, nn.Tanh(), nn.Linear(SETS, 1))
x = torch.tensor(layer.align(samples).to_numpy("float32"))
train, test = slice(0, SAMPLES * 2 // 3), slice(SAMPLES * 2 // 3, SAMPLES)

try:
    layer.align(samples.T)
except ValueError as error:
    print(f"a transposed frame: {error}")

# %%
# Training
# --------
# An L1 penalty on the weights of the last layer moves most of them close to zero, so that few sets count. An L2 penalty
# on the weights of the genes keeps these from growing instead.

optimizer = torch.optim.Adam(model.parameters(), lr=LR)
losses = []
for _ in range(STEPS):
    optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(x[train])[:, 0], ill[train].float())
    penalty = L1 * model[2].weight.abs().sum() + L2 * layer.values.square().sum()
    (loss + penalty).backward()
    optimizer.step()
    losses.append(loss.item())
with torch.no_grad():
    right = 100 * ((model(x[test])[:, 0] > 0) == ill[test]).float().mean().item()
print(f"right for new samples: {right:.1f} %")

# %%
# What was learned, by name
# -------------------------
# ``edges()`` returns a frame with names. The score of a set is its weight in the last layer, times the sum of its
# genes' absolute weights.

learned = layer.edges()
out = pd.Series(model[2].weight[0].tolist(), index=sets)
reads = learned.groupby("target").weight.apply(lambda weights: weights.abs().sum())
scores = (out * reads[sets]).abs().sort_values(ascending=False)
print(scores.head(4).round(2))
first = learned[learned.target == scores.index[0]]
print(first.reindex(first.weight.abs().sort_values(ascending=False).index).head(3))

# %%
# A dense twin: the same network with a full matrix in float64.

exact = nn.Sequential(layer.double(), nn.Tanh(), model[2].double())
twin = nn.Sequential(layer.to_dense(), nn.Tanh(), model[2])
difference = (exact(x.double()) - twin(x.double())).abs().max().item()
print(f"largest difference from the dense twin: {difference:.0e}")

# %%
# The two sets that decide (blue) stand out.

figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
colors = [BLUE if name in ("SET3", "SET7") else GREY for name in scores.index]
axis.bar(range(SETS), scores, color=colors)
axis.set(xlabel="sets, by score", ylabel="score")
plt.show()
