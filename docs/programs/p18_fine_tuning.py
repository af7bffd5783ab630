r"""
18. Fine-tuning one weight in a hundred
=======================================

A dense network was trained on digits. Now the digits are turned by a right angle, and one weight in a hundred is
fine-tuned for them. All the others, W, stay frozen:

.. math:: y = x \, (W + S(v))^\top + b .

Which weights should train, and with which learning rate? The program compares three selections and four rates, with
training the last layer only, and with training all weights.
"""

import copy
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn

import sparsetrain as st

EPOCHS, BATCH, HIDDEN, DENSITY = 6, 50, 400, 0.01
RATES = (0.001, 0.003, 0.01, 0.03)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#999999")  # Okabe and Ito's, and two

digits = st.data.load("mnist")
images, labels = digits.train_images.float(), digits.train_labels
test_images, test_labels = digits.test_images.float(), digits.test_labels


def turned(x):
    return x.view(-1, 28, 28).rot90(1, (1, 2)).flatten(1)


def train(model, x, y, rate, epochs):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(y), generator=order).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return sum(p.numel() for p in parameters)


@torch.no_grad()
def accuracy(model, x):
    return 100 * (model(x).argmax(1) == test_labels).float().mean().item()


# %%
# The trained network
# -------------------

torch.manual_seed(0)
pretrained = nn.Sequential(
    nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)
)
train(pretrained, images, labels, 0.001, EPOCHS)
x, test_x = turned(images), turned(test_images)
print(f"digits as they were: {accuracy(pretrained, test_images):.1f} %")
print(f"turned digits: {accuracy(pretrained, test_x):.1f} %")

# %%
# One weight in a hundred
# -----------------------
# ``train_edges`` selects random weights, the largest weights, or those with the largest gradient of a loss. Here that
# is the loss on a thousand turned digits.


def tuned(select, rate):
    model = copy.deepcopy(pretrained)
    if select == "all weights":
        pass
    elif select == "last layer":
        model[:4].requires_grad_(False)
    else:
        torch.manual_seed(1)
        some = lambda: nn.functional.cross_entropy(model(x[:1000]), labels[:1000])  # noqa: E731
        model = st.convert.train_edges(
            model, DENSITY, select=select, closure=some if select == "gradient" else None
        )
    number = train(model, x, labels, rate, EPOCHS)
    return model, number, accuracy(model, test_x)


results = {}
print("which weights   how many " + "".join(f"  lr {rate:<6}" for rate in RATES))
for select in ("random", "magnitude", "gradient", "last layer", "all weights"):
    results[select] = [tuned(select, rate) for rate in RATES]
    cells = "".join(f"{right:7.1f} % " for _, _, right in results[select])
    print(f"{select:14} {results[select][0][1]:9}  {cells}")

# %%
# A few weights need a larger learning rate than all weights do, since each has to move further. Random weights do best
# here, and those with the largest gradient worst. Their gradient was taken before training: it is largest at few
# neurons, and so most neurons get no weight that trains.

for select in ("random", "gradient"):
    layers = [layer.topology for layer in results[select][0][0] if hasattr(layer, "topology")]
    reached = ", ".join(f"{int((t.fan_in > 0).sum())} of {t.shape[0]}" for t in layers)
    print(f"{select}: neurons with an edge that trains, by layer: {reached}")

figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
for (select, runs), color in zip(results.items(), COLORS, strict=True):
    axis.plot(RATES, [right for _, _, right in runs], "o-", color=color, label=select)
axis.set(xscale="log", xlabel="learning rate", ylabel="turned digits, right answers (%)")
axis.legend()
plt.show()

# %%
# Save the difference, or merge it
# --------------------------------
# ``save_edges`` writes the edges alone: what was added to the frozen weights. ``merge_edges`` adds them for good: the
# result is a model of ``nn.Linear`` layers.

model, _, _ = results["gradient"][-2]
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "turned.safetensors"
    st.io.save_edges(path, model)
    size = path.stat().st_size
    restored = st.io.load_edges(path, copy.deepcopy(pretrained))
same = torch.equal(restored(test_x), model(test_x))
dense_bytes = sum(p.nbytes for p in pretrained.parameters())
print(
    f"file of the difference: {size} bytes, of all weights: {dense_bytes};"
    f" it gives the model back: {same}"
)

# %%
# A dense twin: the weights in float64, with the values added where they belong.

exact = copy.deepcopy(model).double()
twin = copy.deepcopy(pretrained).double()
with torch.no_grad():
    for k in (0, 2, 4):
        topology = exact[k].topology
        twin[k].weight[topology.row.long(), topology.col.long()] += exact[k].values
difference = (exact(test_x.double()) - twin(test_x.double())).abs().max().item()
merged = st.convert.merge_edges(copy.deepcopy(model))
print(f"largest difference from the dense twin: {difference:.0e}")
print(f"merged: {accuracy(merged, test_x):.1f} %, {merged[0]}")
