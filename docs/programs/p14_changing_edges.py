r"""
14. Dynamic sparse training: edges that change
==============================================

A sparse network need not keep the edges that it starts with. In *dynamic sparse training*, small edges are removed and
new ones are added, every few steps: at random (SET), or where the gradient of the loss is largest (RigL). This page
trains a network on real digits with a few percent of its edges. It shows how many edges leave each pixel, and how old
the edges are.

No tensor of the full size is created. The optimizer's moments are carried along with the edges, and new edges start
with zero moments and their own number of steps.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsetrain as st

EPOCHS, BATCH, HIDDEN, DENSITY = 12, 100, 300, 0.03
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito's

digits = st.data.load("mnist")
images, labels = digits.train_images.float(), digits.train_labels
test_images, test_labels = digits.test_images.float(), digits.test_labels
STEPS = EPOCHS * (len(labels) // BATCH)

# %%
# Three rules, one loop
# ---------------------
# An ``Evolver`` needs the model, its optimizer, a rule and a schedule, and one line in the training loop. The three
# networks start with the same edges and values, and see the same batches.


def train(rule):
    torch.manual_seed(0)
    first, last = (
        st.nn.SparseLinear(784, HIDDEN, density=DENSITY),
        st.nn.SparseLinear(HIDDEN, 10, density=0.5),
    )
    model = nn.Sequential(first, nn.ReLU(), last)
    optimizer = st.optim.Adam(model.parameters(), lr=2e-3)
    schedule = st.evolve.Cosine(interval=20, start=20, stop=3 * STEPS // 4, prune_fraction=0.3)
    evolver = st.evolve.Evolver(model, optimizer, rule, schedule, layers="0")
    losses, changes = [], []
    for _ in range(EPOCHS):
        for index in torch.randperm(len(labels)).split(BATCH)[: len(labels) // BATCH]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()
            if change := evolver.step():
                changes.append(change)
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(model(test_images), test_labels).item())
    return model, losses, changes


rules = {"static": st.evolve.Static(), "SET": st.evolve.SET(), "RigL": st.evolve.RigL()}
trained = {name: train(rule) for name, rule in rules.items()}

print("rule      edges  accuracy  test loss  positions tried")
for name, (model, losses, changes) in trained.items():
    with torch.no_grad():
        accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
    tried = changes[-1].explored
    print(
        f"{name:8} {model[0].topology.nnz:6}  {100 * accuracy:6.1f} %  {losses[-1]:9.4f}"
        f"  {100 * tried:12.1f} %"
    )

# %%
# The dense twin is the same network with full matrices, which are zero where there is no edge.

model = trained["RigL"][0].double()
twin = nn.Sequential(model[0].to_dense(), nn.ReLU(), model[2].to_dense())
difference = (model(test_images.double()) - twin(test_images.double())).abs().max().item()
print(f"largest difference from the dense twin: {difference:.0e}")

# %%
# Which pixels the network uses
# -----------------------------
# ``out_degree`` is the number of edges that leave each input, which are pixels here. At first, all pixels have about
# the same number. The border of the images is always black, so the gradient there is zero. RigL moves edges from the
# border to the strokes. SET does so more slowly: the values at the border do not grow and so are removed, but some
# edges return at random.

figure, axes = plt.subplots(2, 4, figsize=(8, 4.4), layout="constrained")
for row, name in zip(axes, ("SET", "RigL"), strict=True):
    changes = trained[name][2]
    chosen = [changes[k * (len(changes) - 1) // 3] for k in range(4)]
    for axis, change in zip(row, chosen, strict=True):
        axis.imshow(
            change.layers["0"].out_degree.view(28, 28).tolist(), cmap="viridis", vmin=0, vmax=40
        )
        axis.set(title=f"{name}, step {change.step}", xticks=[], yticks=[])
figure.suptitle("Edges that leave each pixel")
plt.show()

# %%
# Loss, and the age of edges
# --------------------------
# The age of an edge is the number of steps since it was added. Useful edges stay and grow old.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for (name, (_, losses, changes)), color in zip(trained.items(), (BLUE, ORANGE, GREEN), strict=True):
    left.plot(range(1, EPOCHS + 1), losses, color=color, label=name)
    if name != "static":
        ages = changes[-1].layers["0"].age.tolist()
        right.hist(ages, bins=20, histtype="step", color=color, label=name)
left.set(xlabel="epoch", ylabel="test loss", yscale="log")
right.set(xlabel="age in steps, at the last change", ylabel="edges", yscale="log")
for axis in (left, right):
    axis.legend()
plt.show()

# %%
# Pruning from dense
# ------------------
# ``GMP`` starts with all edges and removes the smallest values, most of them early. Parameter, gradient, moments and
# indices become smaller, and the steps faster.

torch.manual_seed(0)
layer = st.nn.SparseLinear(784, HIDDEN, density=1.0)
model = nn.Sequential(layer, nn.ReLU(), nn.Linear(HIDDEN, 10))
optimizer = st.optim.Adam(model.parameters(), lr=2e-3)
schedule = st.evolve.Cubic(interval=20, start=20, stop=STEPS // 2, final_density=DENSITY)
evolver = st.evolve.Evolver(model, optimizer, st.evolve.GMP(), schedule)
edges = []
for _ in range(STEPS):
    index = torch.randint(len(labels), (BATCH,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
    optimizer.step()
    evolver.step()
    edges.append(layer.topology.nnz)
held = sum(t.nbytes for t in (layer.values, *optimizer.state[layer.values].values()) if t.ndim)
with torch.no_grad():
    accuracy = (model(test_images).argmax(1) == test_labels).float().mean().item()
print(f"edges: {edges[0]} at first, {edges[-1]} at the end; values and moments hold {held} bytes")
print(f"accuracy: {100 * accuracy:.1f} %")
